"""Methods, chains and models compile for an H100 and for four chips of a TPU v5e, on a machine that has neither."""

import pytest
import subjects

from fedjaxlite.rehearsal import hlo, loops, programs
from fedjaxlite.rehearsal.targets import target_named

PART = subjects.covering(subjects.subjects())


def cases() -> list[object]:
    """Everything for every target; the part that is compiled often is marked."""
    return [
        pytest.param(name, target, marks=pytest.mark.covering if (name, target) in PART else ())
        for name in subjects.BY_NAME
        for target in subjects.TARGETS
    ]


@pytest.mark.accelerators
@pytest.mark.parametrize(("name", "target"), cases())
def test_compiles_and_fits(name: str, target: str) -> None:
    compiled = subjects.compiled(subjects.BY_NAME[name].make(), target)
    text, chip = hlo.read(compiled.as_text()), target_named(target)
    assert 0 < programs.memory_of(compiled).total < chip.chip.usable
    sums = [found.kind for found in loops.collectives_of(text)]
    assert bool(sums) == (chip.num_devices > 1), sums
    assert loops.loops_of(text)
