"""FLOPs of traced programs, the length of a schedule, and the least time: arithmetic that is done by hand here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import sampling
from fedjaxlite.execution.layout import resolve
from fedjaxlite.rehearsal.chips import CHIPS
from fedjaxlite.rehearsal.flops import Flops, RoundWork, Work, work_of
from fedjaxlite.rehearsal.roofline import Roofline, assumptions, count_of, roofline, time_of
from fedjaxlite.rehearsal.steps import client_steps, length_of
from fedjaxlite.rehearsal.traffic import Traffic


def work(function, *shapes, dtype=jnp.float32) -> Work:
    return work_of(jax.make_jaxpr(function)(*(jnp.zeros(shape, dtype) for shape in shapes)).jaxpr)


def test_a_product_is_two_operations_an_entry() -> None:
    assert work(jnp.matmul, (3, 4), (4, 5)).once == Flops(default=2 * 3 * 4 * 5)
    assert work(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (7, 3, 4), (7, 4, 5)).once.total == 7 * 2 * 3 * 4 * 5
    assert work(lambda a: a + a, (3, 4)) == Work()


@pytest.mark.parametrize(
    ("dtype", "precision", "kind"),
    [
        (jnp.bfloat16, None, "low"),
        (jnp.float16, None, "low"),
        (jnp.float32, None, "default"),
        (jnp.float32, "high", "default"),
        (jnp.float32, "highest", "full"),
        (jnp.int32, None, "low"),
    ],
)
def test_flops_are_told_apart_by_what_goes_in(dtype, precision, kind) -> None:
    found = work(lambda a, b: jnp.matmul(a, b, precision=precision), (3, 4), (4, 5), dtype=dtype).once
    assert getattr(found, kind) == found.total == 120


def test_a_convolution_and_its_gradients_count_alike() -> None:
    images, kernel = (2, 8, 8, 3), (3, 3, 3, 5)

    def forward(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    once = 2 * (2 * 6 * 6 * 5) * (3 * 3 * 3)
    assert work(forward, images, kernel).once.total == once
    by_kernel = work(lambda x, k: jax.grad(lambda k: forward(x, k).sum())(k), images, kernel).once.total
    assert by_kernel == pytest.approx(2 * once, rel=0.01)


def test_loops_count_as_often_as_they_run() -> None:
    def steps(x, n):
        return jax.lax.fori_loop(0, n, lambda i, x: jax.lax.scan(lambda c, _: (c @ x, None), x, length=5)[0], x) @ x

    program = jax.make_jaxpr(steps)(jnp.zeros((4, 4)), jnp.int32(3)).jaxpr
    assert work_of(program) == Work(Flops(default=128), Flops(default=5 * 128))


def test_the_dearer_branch_counts_and_what_is_inside_of_other_programs() -> None:
    branches = lambda x, p: jax.lax.cond(p, lambda x: x @ x @ x, lambda x: x + x, x)  # noqa: E731
    assert work_of(jax.make_jaxpr(branches)(jnp.zeros((4, 4)), True).jaxpr).once.total == 256
    again = jax.checkpoint(lambda x: jnp.sin(x @ x).sum())
    assert work(jax.jit(again), (4, 4)).once.total == 128
    # Forward, forward again, and two products backward.
    assert work(jax.grad(again), (4, 4)).once.total >= 3 * 128


def test_idle_lanes_compute_too() -> None:
    client, server = Work(Flops(low=1), Flops(default=10)), Work(Flops(full=7))
    assert RoundWork(client, server).on_device(steps=6, waves=2, lanes=3) == Flops(2 * 3, 6 * 3 * 10, 7)


def people(sizes) -> fl.Population:
    return fl.Population.from_arrays(
        {"x": np.zeros((sum(sizes), 1), np.float32)}, np.repeat(np.arange(len(sizes)), sizes)
    )


SIZES = (3, 12, 5, 40, 7, 1, 22, 9)


def length(
    lanes=2,
    devices=1,
    sizes=SIZES,
    sampler=None,
    hparams=None,
    max_steps=None,
    tied=False,
    population=None,
    change_cost=None,
):
    sampler = sampling.full(len(sizes)) if sampler is None else sampler
    layout = resolve(fl.Execution(lanes=lanes, devices=devices, max_steps=max_steps), sampler.capacity)
    hparams = {"batch_size": 5, "epochs": 2} if hparams is None else hparams
    population = people(sizes) if population is None else population
    return length_of(hparams, sampler, population, layout, tied=tied, change_cost=change_cost)


STEPS = [2 * -(-size // 5) for size in SIZES]


@pytest.mark.parametrize("lanes", [1, 2, 3, 8])
def test_a_wave_is_as_long_as_its_largest_client(lanes) -> None:
    found = length(lanes)
    ordered = sorted(STEPS, reverse=True)
    assert found.steps == sum(ordered[i] for i in range(0, len(ordered), lanes))
    assert (found.turns, found.cohorts, found.exact) == (-(-len(SIZES) // lanes), 1, True)
    assert found.even == sum(STEPS) / lanes


def test_lanes_that_need_not_wait_take_fewer_steps() -> None:
    sizes = [200, 40, 40, 40, 40, 5, 5, 5]
    waves, queues = length(lanes=4, sizes=sizes), length(lanes=4, sizes=sizes, change_cost=1)
    assert (waves.steps, queues.steps) == (80 + 16, 80)
    assert queues.even == waves.even


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_the_busiest_device_counts(devices, tied) -> None:
    found = length(lanes=1, devices=devices, tied=tied)
    assert max(max(STEPS), sum(STEPS) / devices) <= found.steps <= sum(STEPS)
    if tied:  # a client is trained where its state is
        each = len(SIZES) // devices
        assert found.steps == max(sum(STEPS[i : i + each]) for i in range(0, len(SIZES), each))


def test_static_loops_are_as_long_as_the_largest_client_in_every_wave() -> None:
    assert length(lanes=2, max_steps=100).steps == 4 * max(STEPS)


def test_random_cohorts_are_drawn_and_averaged() -> None:
    found = length(lanes=1, sampler=sampling.uniform(3))
    assert found.cohorts == 8
    assert 3 * min(STEPS) <= found.steps <= sum(sorted(STEPS)[-3:])
    assert found.turns == 3


def test_stragglers_take_a_part_of_their_steps() -> None:
    slow = sampling.with_stragglers(sampling.full(len(SIZES)), 1.0, 0.5)
    assert sum(STEPS) * 0.4 < length(lanes=1, sampler=slow).steps < sum(STEPS)


def test_a_population_of_shapes_has_clients_of_the_mean_size() -> None:
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, people(SIZES)))
    found = length(lanes=1, population=shapes)
    rows = -(-sum(SIZES) // len(SIZES))
    mean = 2 * -(-rows // 5)
    assert (found.steps, found.exact) == (mean * len(SIZES), False)


@pytest.mark.parametrize(
    ("hparams", "expected"),
    [
        ({"batch_size": None, "epochs": 3}, [3, 3, 0]),
        ({"batch_size": 4, "epochs": 1}, [1, 3, 0]),
        ({"batch_size": 4, "steps": 7}, [7, 7, 0]),
        ({"epochs": 2}, None),
        ({"batch_size": 4, "epochs": None, "steps": None}, None),
        ({}, None),
    ],
)
def test_local_steps_follow_from_the_hyperparameters(hparams, expected) -> None:
    found = client_steps(hparams, np.array([1, 9, 0]))
    assert expected is None if found is None else found.tolist() == expected


def test_without_them_the_length_is_not_known() -> None:
    assert length(hparams={}) is None


def test_the_longest_part_binds() -> None:
    chip = CHIPS["h100"]
    flops = Flops(low=989e12, default=494e12, full=67e12)
    found = roofline(chip, flops, Traffic(1e6, 3.352e12), Traffic(20, 1e9), 450e9, 4)
    assert found == Roofline(3.0, 1.0, 2.0, 1.5, False)
    assert (found.seconds, found.bound) == (3.0, "products")
    few = roofline(chip, Flops(), Traffic(1e6, 1e9 * 3.352), Traffic(20, 1e9), 0, 1)
    assert (few.seconds, few.bound, few.exchange) == (2.0, "launches", 0)


def test_what_fits_into_the_cache_does_not_bind() -> None:
    whole = Traffic(10, 3.352e12)
    small, large = (roofline(CHIPS["h100"], Flops(), whole, Traffic(10, size), 0, 1) for size in (50 * 2**20, 1e9))
    assert (small.cached, small.bound, small.memory) == (True, "launches", 1.0)
    assert (large.cached, large.bound, large.seconds) == (False, "memory", 1.0)
    assert not roofline(CHIPS["v5e"], Flops(), whole, Traffic(10, 1), 0, 1).cached


def test_a_tpu_starts_nothing_by_itself() -> None:
    assert roofline(CHIPS["v6e"], Flops(), Traffic(1e6, 0), Traffic(), 0, 1).seconds == 0
    assert "nothing for starting an operation" in assumptions(CHIPS["v6e"])
    assert "494 of float32 (as TF32; 67 in full)" in assumptions(CHIPS["h100"])


def test_times_and_numbers_are_for_people() -> None:
    assert [time_of(seconds) for seconds in (0, 1e-6, 0.25, 75.0)] == ["0", "1 us", "250 ms", "1m15s"]
    assert [count_of(number) for number in (7, 1234, 5.5e9, 1e18)] == ["7", "1.23 k", "5.5 G", "1e+03 P"]
