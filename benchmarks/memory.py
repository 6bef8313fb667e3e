"""Peaks of memory: of the process, and of the devices that keep count."""

import resource
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Memory(NamedTuple):
    """Bytes.

    Attributes:
      resident_before: of the process, before the workload was made; None where the system does not tell.
      resident_peak: the most while rounds ran, data and compiled programs included.
      peak_is_of_the_rounds: False where the system cannot forget an older peak, so that it may be of something before.
      device_peak: the most of any device since the process started; None on devices that do not keep count (CPUs).
    """

    resident_before: int | None
    resident_peak: int
    peak_is_of_the_rounds: bool
    device_peak: int | None


def forget_peak() -> bool:
    """Sets the peak of the process back to what it holds now; False where that cannot be done."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def resident() -> int | None:
    """Bytes that the process holds, or None."""
    return _status("VmRSS")


def resident_peak() -> int:
    """The most bytes that the process held since `forget_peak`, or since it started."""
    peak = _status("VmHWM")
    if peak is not None:
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_peak() -> int | None:
    """The most bytes in use on any device, or None."""
    stats: list[dict[str, Any]] = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    return max(peaks) if peaks else None


def _status(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(field + ":")]
    return int(found[0][1]) * 1024 if found else None
