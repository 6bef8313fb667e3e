"""The least time that a round can take on an accelerator, and what binds it."""

from typing import NamedTuple

from fedjaxlite.observers.progress import duration
from fedjaxlite.rehearsal.chips import Chip
from fedjaxlite.rehearsal.flops import Flops
from fedjaxlite.rehearsal.traffic import Traffic


class Roofline(NamedTuple):
    """Seconds that each part of a round takes at least, if the others took none.

    Attributes:
      products: matrix products and convolutions at the chip's peak.
      memory: bytes at the bandwidth of its memory.
      launches: one kernel after another.
      exchange: sums over the devices.
      cached: whether a step's bytes fit into the chip's cache: then `memory` may be beaten, and does not bind.
    """

    products: float
    memory: float
    launches: float
    exchange: float
    cached: bool

    @property
    def seconds(self) -> float:
        """A lower bound on a round: the longest of the parts, as if they overlapped altogether."""
        return max(self._parts().values())

    @property
    def bound(self) -> str:
        """The part that binds."""
        parts = self._parts()
        return max(parts, key=lambda name: parts[name])

    def _parts(self) -> dict[str, float]:
        parts = {"products": self.products, "memory": self.memory, "launches": self.launches, "exchange": self.exchange}
        return {name: seconds for name, seconds in parts.items() if not (self.cached and name == "memory")}


def roofline(
    chip: Chip, flops: Flops, of_round: Traffic, of_step: Traffic, exchanged: float, num_devices: int
) -> Roofline:
    """The least time of a round on one device.

    Args:
      chip: whose peaks count.
      flops: of a round on the busiest device.
      of_round: its kernels and bytes.
      of_step: those of one local step.
      exchanged: bytes that are summed over the devices.
      num_devices: how many there are; a ring sends 2 (D - 1) / D of each byte.
    """
    peak = chip.peak
    products = flops.low / peak.low + flops.default / peak.default + flops.full / peak.full
    ring = 2 * (num_devices - 1) / num_devices
    cached = chip.gpu is not None and of_step.num_bytes <= chip.gpu.l2
    return Roofline(
        products=products,
        memory=of_round.num_bytes / chip.bandwidth,
        launches=of_round.kernels * chip.launch,
        exchange=ring * exchanged / chip.link,
        cached=cached,
    )


def assumptions(chip: Chip) -> str:
    """What the bound takes for granted, in one sentence."""
    tera = 1e12
    peak = chip.peak
    low, default = f"{peak.low / tera:g} TFLOP/s of bfloat16", f"{peak.default / tera:g} of float32"
    how = "as TF32" if chip.gpu else "in one pass of bfloat16"
    launch = f", and {chip.launch * 1e6:g} us a kernel" if chip.launch else ", and nothing for starting an operation"
    return (
        f"{low} products, {default} ({how}; {peak.full / tera:.3g} in full), {chip.bandwidth / tera:.3g} TB/s of "
        f"memory, {chip.link / 1e9:g} GB/s between devices{launch}"
    )


def count_of(number: float) -> str:
    """A number of operations, or of anything, for people."""
    for unit in ("", " k", " M", " G", " T"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} P"


def time_of(seconds: float) -> str:
    """A short time for people.

    Example:
      >>> time_of(0), time_of(2.34e-6), time_of(0.0575), time_of(4.2)
      ('0', '2.34 us', '57.5 ms', '4.2s')
    """
    if seconds == 0:
        return "0"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
    return duration(seconds)
