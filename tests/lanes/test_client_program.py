"""A client's program is taken apart by what it is, not by its name; its parts put together are the whole."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import some_often

import fedjaxlite as fl
from fedjaxlite.data.client_view import ClientData, Wave, repeat
from fedjaxlite.execution.lanes.client_program import ClientProgram, LaneArgs, take_apart

PEOPLE = fl.Population.from_arrays(
    {"x": np.arange(9, dtype=np.float32), "z": np.ones((9, 3), np.float32)}, client_ids=[0, 0, 0, 0, 0, 1, 1, 1, 2]
)
SHARED = jnp.float32(3.0)


def args_of(client: int) -> LaneArgs:
    offset, end = (jnp.int32(PEOPLE.offsets[client + i]) for i in (0, 1))
    state = {"own": jnp.full((40,), client, jnp.float32)}
    slot = jnp.int32(client)
    return LaneArgs(offset, end - offset, jnp.float32(1), slot, jnp.float32(1), slot, state, jnp.bool_(True))


def work(update: Any) -> Any:
    def whole(args: LaneArgs) -> Any:
        key = jax.random.fold_in(jax.random.key(5), args.client)
        lanes = (args.client[None], args.num_examples[None], args.work[None])
        wave = Wave(*lanes, PEOPLE.max_size, platform="cpu", taken_apart=True)
        features = {name: jnp.asarray(value) for name, value in PEOPLE.features.items()}
        data = ClientData(features, args.offset, args.num_examples, args.client, args.work, key, wave)
        return {"update": update(data, args.state), "alive": args.alive}

    return whole


def whole_by_hand(program: ClientProgram, args: LaneArgs) -> Any:
    begun = jax.jit(lambda args: program.begin(program.ahead(args), args.state))(args)
    draw, step = jax.jit(program.draw), jax.jit(program.step)
    carry = begun.carry
    for index in range(int(begun.num_steps)):
        drawn = draw(begun.kept, jnp.int32(index))
        carry = step(begun.kept, jnp.int32(index), drawn, carry)
    return jax.jit(program.end)(args.alive, begun.kept, carry)


def one_loop(data: ClientData, state: Any) -> Any:
    def step(carry: Any, batch: Any, mask: Any, key: Any) -> Any:
        noise = jax.random.normal(key)
        return carry + jnp.where(mask, batch["x"] * SHARED + batch["z"].sum(-1), 0.0).sum() + noise + state["own"][0]

    total = data.batches(batch_size=2, epochs=2).scan(step, state["own"].sum())
    return total, state["own"] * total, data.num_examples


def repeated(data: ClientData, state: Any) -> Any:
    return repeat(data, 3, lambda index, carry: carry * 2 + index.astype(jnp.float32) + state["own"], state["own"])


def inside_of_jit(data: ClientData, state: Any) -> Any:
    return jax.jit(lambda own: one_loop(data, own))(state)


@pytest.mark.parametrize("update", [one_loop, repeated, inside_of_jit])
@pytest.mark.parametrize("client", some_often([0, 1, 2], 3))
def test_the_parts_are_the_whole(update: Any, client: int) -> None:
    whole, args = work(update), args_of(client)
    program = take_apart(whole, args).program
    assert program is not None
    want = jax.jit(whole)(args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), whole_by_hand(program, args), want)


def test_steps_follow_from_sizes_alone() -> None:
    program = take_apart(work(one_loop), args_of(0)).program
    assert program is not None
    assert [program.steps_of(n, w) for n, w in ((5, 1.0), (4, 1.0), (0, 1.0), (5, 0.5))] == [6, 4, 0, 3]


def test_what_is_large_is_not_computed_for_a_whole_cohort() -> None:
    program = take_apart(work(one_loop), args_of(0)).program
    assert program is not None
    assert all(np.size(leaf) <= 2 for leaf in program.ahead(args_of(0)))


def two_loops(data: ClientData, state: Any) -> Any:
    return one_loop(data, state), repeated(data, state)


def no_loop(data: ClientData, state: Any) -> Any:
    return data.num_examples, state


def loop_in_a_loop(data: ClientData, state: Any) -> Any:
    return repeat(data, 2, lambda _, carry: {"own": one_loop(data, carry)[1]}, state)


@pytest.mark.parametrize("update", [two_loops, no_loop, loop_in_a_loop])
def test_other_programs_stay_whole(update: Any) -> None:
    found = take_apart(work(update), args_of(0))
    assert found.program is None
    assert (found.whole is None) == (update is not no_loop)


def test_a_key_that_no_step_reads_is_not_drawn() -> None:
    def plain(data: ClientData, state: Any) -> Any:
        add = lambda carry, batch, mask, key: carry + jnp.where(mask, batch["x"], 0.0).sum()  # noqa: E731
        return data.batches(batch_size=2, epochs=1).scan(add, state["own"][0])

    program = take_apart(work(plain), args_of(0)).program
    assert program is not None
    begun = program.begin(program.ahead(args_of(0)), args_of(0).state)
    drawn = program.draw(begun.kept, jnp.int32(0))
    assert not any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in drawn)


def test_what_costs_more_than_steps_is_a_dear_change() -> None:
    def masked(data: ClientData, state: Any) -> Any:
        total = one_loop(data, state)[0]
        return jax.lax.fori_loop(0, 20, lambda i, x: jnp.sin(x) * 2 + i.astype(jnp.float32), jnp.full((4000,), total))

    plain, dear = (take_apart(work(update), args_of(0)).program for update in (one_loop, masked))
    assert plain is not None
    assert dear is not None
    assert plain.change_cost <= 16 < dear.change_cost
