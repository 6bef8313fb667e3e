"""Memory over 5,000 rounds: flat, but for the records that a run is asked to keep."""

import pytest

from fedjaxlite.benchmarks.flat_memory.__main__ import measure
from fedjaxlite.benchmarks.flat_memory.ways import WAYS, meter_of
from fedjaxlite.benchmarks.memory import resident

MOST = {"train": 0.03}
"""`train` keeps all records, which is most of what it grows by; what the allocator does of its own is about 1 %."""


@pytest.mark.slow
@pytest.mark.parametrize("way", sorted(WAYS))
def test_memory_is_flat(way) -> None:
    flat = measure(way)
    assert flat.growth < MOST.get(way, 0.015), flat
    assert flat.arrays[1] <= flat.arrays[0], flat


@pytest.mark.skipif(resident() is None, reason="this system does not tell what a process holds")
@pytest.mark.usefixtures("little_garbage")  # every round tells how many objects there are
def test_the_meter_compares_what_came_after_the_first_tenth() -> None:
    meter, held = meter_of(40), []
    for done in range(1, 41):
        if done == 30:
            held.append(bytearray(b"1") * 200_000_000)  # written to, so that it is resident
        meter.tell(done)
    flat = meter.flat("growing")
    assert flat.num_rounds == 40
    assert flat.most - flat.begin > 190_000_000
    assert flat.growth == pytest.approx(flat.most / flat.begin - 1)
