"""Targets: accelerators by name, one of them or a slice."""

import re
from typing import NamedTuple

from fedjaxlite.rehearsal.chips import CHIPS, Chip

_OTHER_NAMES = {"a100": "a100-40gb", "v5litepod": "v5e"}
# Sides of the slices that are let, by number of chips.
_FLAT = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)}
_DEEP = {
    1: (1, 1, 1),
    4: (2, 2, 1),
    8: (2, 2, 2),
    16: (2, 2, 4),
    32: (2, 4, 4),
    64: (4, 4, 4),
    128: (4, 4, 8),
    256: (4, 8, 8),
}
_MOST = 256


class Target(NamedTuple):
    """Accelerators of one kind that a program is compiled for.

    Attributes:
      name: as it is written here: "h100", "8xh100", "v5e:2x4".
      chip: the facts of each.
      shape: sides of a TPU slice; (number,) for GPUs.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def num_devices(self) -> int:
        """How many accelerators."""
        count = 1
        for side in self.shape:
            count *= side
        return count


def target_named(name: str) -> Target:
    """The target of a name.

    Args:
      name: "h100", "8xh100"; a slice of TPUs as Google counts it, "tpu-v5e-8" (8 chips), "tpu-v5p-8" (8 cores on 4
        chips); or by its topology, "v5e:2x4", "v5p:2x2x1". Up to 256 devices.

    Returns:
      the Target.

    Raises:
      TypeError, ValueError: for a name that is none, which lists those that are.

    Example:
      >>> target_named("8xh100").num_devices, target_named("tpu-v5e-8").name, target_named("tpu-v5p-8").name
      (8, 'v5e:2x4', 'v5p:2x2x1')
    """
    if not isinstance(name, str):
        raise TypeError(f"`target` is {name!r}; expected a name. {known_targets()}")
    plain = name.strip().lower().removeprefix("tpu-").removeprefix("tpu:")
    gpus = re.fullmatch(r"(?:(\d{1,4})x)?([a-z][a-z0-9-]*?)", plain)
    if gpus and (chip := _chip(gpus[2])) and chip.platform == "gpu":
        return _gpus(name, chip, int(gpus[1] or 1))
    slices = re.fullmatch(r"([a-z][a-z0-9]*)(?:-(\d{1,5})|:(\d{1,3}(?:x\d{1,3})*))", plain)
    if slices and (chip := _chip(slices[1])) and chip.platform == "tpu":
        return _slice(name, chip, int(slices[2])) if slices[2] else _topology(name, chip, slices[3])
    raise ValueError(f"`target` is {name!r}, which is none that is known. {known_targets()}")


def known_targets() -> str:
    """One sentence on the names there are."""
    gpus = [name for name, chip in CHIPS.items() if chip.platform == "gpu"]
    slices = [f"tpu-{name}-{_counts(chip)}" for name, chip in CHIPS.items() if chip.platform == "tpu"]
    return (
        f"Known are the GPUs {', '.join(gpus)} (several of them as 8x{gpus[2]}), the TPU slices {', '.join(slices)} "
        "(v5p counts cores, two a chip), and topologies such as v5e:2x4 or v5p:2x2x1, up to "
        f"{_MOST} devices."
    )


def _counts(chip: Chip) -> str:
    sides = _FLAT if chip.dimensions == 2 else _DEEP
    return "|".join(str(count * chip.cores_in_name) for count in sides)


def _chip(name: str) -> Chip | None:
    return CHIPS.get(_OTHER_NAMES.get(name, name))


def _gpus(name: str, chip: Chip, count: int) -> Target:
    whole = count <= 8 or count % 8 == 0
    if not 1 <= count <= _MOST or not whole:
        raise ValueError(
            f"`target` is {name!r}: {count} GPUs; expected 1 to 8 in one machine, or whole machines of 8 up to {_MOST}."
        )
    return Target(chip.name if count == 1 else f"{count}x{chip.name}", chip, (count,))


def _slice(name: str, chip: Chip, count: int) -> Target:
    sides = _FLAT if chip.dimensions == 2 else _DEEP
    chips, rest = divmod(count, chip.cores_in_name)
    if rest or chips not in sides:
        raise ValueError(
            f"`target` is {name!r}, and no slice of {chip.title} has {count} "
            f"{'chips' if chip.cores_in_name == 1 else 'cores'}; expected {_counts(chip).replace('|', ', ')}."
        )
    return _of_sides(chip, sides[chips])


def _topology(name: str, chip: Chip, text: str) -> Target:
    shape = tuple(int(side) for side in text.split("x"))
    target = _of_sides(chip, shape)
    sides = all(side in (1, 2) or (side > 0 and side % 4 == 0) for side in shape)
    # More than four chips are made of machines of two by two.
    whole = target.num_devices <= 4 or all(side > 1 for side in shape[:2])
    if len(shape) != chip.dimensions or not sides or not whole or target.num_devices > _MOST:
        form = "x".join(["2"] * chip.dimensions)
        raise ValueError(
            f"`target` is {name!r}; expected {chip.dimensions} sides such as {chip.name}:{form}, each 1, 2 or a "
            f"multiple of 4, of up to {_MOST} chips together, and neither of the first two 1 where these are more than "
            "4."
        )
    return target


def _of_sides(chip: Chip, shape: tuple[int, ...]) -> Target:
    return Target(f"{chip.name}:{'x'.join(str(side) for side in shape)}", chip, shape)
