"""Execution: who is trained where, what is placed where, and donation."""

from typing import Any, NamedTuple

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import fedjaxlite as fl
from fedjaxlite.execution.lanes.schedule import balanced, owned
from fedjaxlite.execution.layout import resolve, with_lanes

PEOPLE = helpers.regression((4, 9, 1, 6, 2))
PARAMS = helpers.linear_params()
UNIFORM = fl.sampling.uniform(4)


def forty(elements: st.SearchStrategy[int]) -> st.SearchStrategy[list[int]]:
    """Clients, of whom any number is idle; every other length would be compiled anew."""
    return st.lists(elements, min_size=40, max_size=40)


class TestSchedules:
    @given(
        sizes=forty(st.integers(0, 300)),
        idle=st.sets(st.integers(0, 39)),
        lanes=st.sampled_from([1, 2, 5, 16]),
        num_devices=st.sampled_from([1, 2, 4, 7]),
    )
    @example(sizes=[7], idle=set(), lanes=5, num_devices=4)
    def test_every_active_client_is_trained_once_beside_clients_of_its_size(
        self, sizes: list[int], idle: set[int], lanes: int, num_devices: int
    ) -> None:
        work = np.float32(sizes)
        active = np.array([i not in idle for i in range(len(sizes))])
        trained: list[int] = []
        loads = []
        for device in range(num_devices):
            part = balanced(work, active, lanes=lanes, device=device, num_devices=num_devices)
            mine = np.asarray(part.order)[int(part.start) : int(part.start) + int(part.size)]
            assert (np.diff(work[mine]) <= 0).all()  # the largest first: a wave holds clients of nearly one size
            trained += mine.tolist()
            loads.append(sum(4 + work[mine[i : i + lanes]].max() for i in range(0, len(mine), lanes)))
        assert sorted(trained) == np.flatnonzero(active).tolist()
        if trained:
            assert max(loads) <= sum(loads) / num_devices + 4 + work[active].max() + 1e-3

    @given(owners=forty(st.integers(0, 3)), seed=st.integers(0, 9))
    def test_owners_train_their_own(self, owners: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        active, work = rng.random(len(owners)) < 0.7, rng.integers(1, 50, len(owners)).astype(np.float32)
        for device in range(4):
            part = owned(work, active, np.int32(owners), device=device)
            mine = np.asarray(part.order)[int(part.start) : int(part.start) + int(part.size)]
            assert sorted(mine.tolist()) == [i for i, o in enumerate(owners) if o == device and active[i]]
            assert (np.diff(work[mine]) <= 0).all()


class TestLayouts:
    def test_what_is_left_open_is_filled_in(self) -> None:
        layout = resolve(fl.Execution(), capacity=10)
        assert layout.num_devices == 4
        assert layout.mesh.axis_names == ("clients",)
        assert resolve(fl.Execution(lanes=16, devices=1), capacity=3).lanes == 3  # more lanes than slots stay empty
        chosen = jax.devices()[1:3]
        assert resolve(fl.Execution(devices=chosen), capacity=3).devices == tuple(chosen)

    @pytest.mark.parametrize(
        ("num_params", "sizes", "capacity", "lanes"),
        [
            (600, [10] * 90, 90, 8),  # 13 models in 32 kB
            (30, [10] * 300, 300, 64),
            (600, [1] * 80 + [100] * 10, 90, 8),
            (30, [1] * 280 + [100] * 20, 300, 16),  # a client much larger than the mean
            (30, [10] * 300, 20, 4),  # 5 clients a device
            (200_000, [10] * 90, 90, 1),
        ],
    )
    def test_small_models_are_trained_side_by_side_on_a_cpu(
        self, num_params: int, sizes: list[int], capacity: int, lanes: int
    ) -> None:
        model = jax.ShapeDtypeStruct((num_params,), jnp.float32)
        layout = with_lanes(resolve(fl.Execution(), capacity), model, helpers.regression(tuple(sizes)), capacity)
        assert layout.lanes == lanes

    def test_an_accelerator_is_filled_as_its_memory_allows(self) -> None:
        class Accelerator(NamedTuple):
            limit: int | None
            platform: str = "gpu"
            process_index: int = 0

            def memory_stats(self) -> dict[str, int] | None:
                return None if self.limit is None else {"bytes_limit": self.limit}

        layout = resolve(fl.Execution(devices=1), 100)
        megabyte = jax.ShapeDtypeStruct((2**18,), jnp.float32)
        for limit, lanes in ((2**36, 64), (2**30, 16), (2**20, 1), (None, 64)):
            found = with_lanes(layout._replace(devices=(Accelerator(limit),)), megabyte, PEOPLE, 100)
            assert found.lanes == lanes

        alike = helpers.regression((4, 4, 4, 4))
        for capacity, lanes in ((20, 20), (65, 33), (128, 64)):
            assert with_lanes(layout._replace(devices=(Accelerator(2**36),)), megabyte, alike, capacity).lanes == lanes

    def test_client_states_live_with_their_owners_and_change_where_a_client_took_part(self) -> None:
        sampler = fl.sampling.replay([[4, 1], [1, -1]])
        execution = fl.Execution(lanes=2, devices=jax.devices()[2:])
        run, state, info = helpers.one_run(
            helpers.local_momentum(), PEOPLE, PARAMS, sampler=sampler, execution=execution, num_rounds=2
        )
        bank = state.clients.algorithm.mean["w"]
        assert bank.shape == (6, 3)  # 5 clients, rounded up to the two devices
        assert [shard.data.shape for shard in bank.addressable_shards] == [(3, 3)] * 2
        assert {shard.device for shard in bank.addressable_shards} == set(jax.devices()[2:])
        assert state.params["w"].sharding.is_fully_replicated
        assert np.asarray(state.clients.algorithm.times).tolist() == [0, 2, 0, 0, 1, 0]
        assert info.clients["times"].tolist() == [2, 0]
        assert helpers.max_difference(run.client_params(state, 1), state.params) > 1e-3
        assert helpers.max_difference(run.client_params(state, 0), state.params) == 0

    def test_a_population_of_another_size_is_compiled_anew(self) -> None:
        run = fl.rounds(helpers.sends(), sampler=fl.sampling.uniform(3), aggregator=fl.mean(), execution=helpers.ONE)
        for people in (PEOPLE, helpers.regression((3, 3, 3, 3))):
            state, _ = run.step(run.init(PARAMS, people, key=jax.random.key(0)), people)
            assert np.isfinite(np.asarray(state.params["w"])).all()

    def test_a_run_goes_on_in_another_layout(self) -> None:
        """Where no client keeps state, a state made on any devices is a state for all of them."""
        one, state, _ = helpers.one_run(helpers.sends(), PEOPLE, PARAMS, num_rounds=1)
        want = one.step(state, PEOPLE)[0].params
        two = fl.rounds(
            helpers.sends(),
            sampler=fl.sampling.full(5),
            aggregator=fl.weighted_mean(),
            execution=fl.Execution(lanes=2, devices=2),
        )
        onwards, _ = two.step(state, PEOPLE)
        assert helpers.max_difference(onwards.params, want) < 1e-6
        back, _ = one.step(two.init(PARAMS, PEOPLE, key=jax.random.key(0)), PEOPLE)
        assert helpers.max_difference(back.params, state.params) < 1e-6

    def test_the_noise_key_comes_from_the_system_unless_given(self) -> None:
        run = fl.rounds(helpers.fed_avg(), sampler=fl.sampling.full(5), aggregator=fl.mean(), execution=helpers.ONE)
        init = lambda **keys: jax.random.key_data(run.init(PARAMS, PEOPLE, key=jax.random.key(0), **keys).keys.noise)  # noqa: E731
        assert init().tolist() != init().tolist()
        assert init(noise_key=jax.random.key(4)).tolist() == jax.random.key_data(jax.random.key(4)).tolist()


class TestDonation:
    def test_the_state_is_taken_and_nothing_else(self) -> None:
        execution = fl.Execution(lanes=2, devices=2, donate=True)
        params = jax.tree.map(jnp.array, PARAMS)
        run, first, _ = helpers.one_run(helpers.local_momentum(), PEOPLE, params, execution=execution, num_rounds=0)
        state, _ = run.step(first, PEOPLE)
        state, _ = run.step(state, PEOPLE)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((first.server_state, first.clients)))
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))
        kept = execution._replace(donate=False)
        _, want, _ = helpers.one_run(helpers.local_momentum(), PEOPLE, params, execution=kept, num_rounds=2)
        assert helpers.max_difference(state.params, want.params) == 0

    def test_a_state_that_was_taken_is_refused(self) -> None:
        execution = fl.Execution(lanes=1, devices=1, donate=True)
        run, first, _ = helpers.one_run(helpers.sends(), PEOPLE, PARAMS, execution=execution, num_rounds=0)
        run.step(first, PEOPLE)
        with pytest.raises(
            ValueError, match=r"`state` was given to an earlier step .*donate=True.*Go on from the state"
        ):
            run.step(first, PEOPLE)


def test_a_pass_over_any_cohort_is_one_call() -> None:
    """`federated_sum`: other cohorts of one capacity share a program; absent clients and spare slots count for nothing."""

    def client_fn(shared: Any, data: fl.ClientData) -> fl.ClientOutput:
        value = helpers.first_value(data, "y") * shared
        return fl.ClientOutput(value, data.num_examples, info={"value": value})

    first = np.array([PEOPLE.client(i)["y"][0] for i in range(5)])
    for execution in (helpers.ONE, fl.Execution(lanes=2, devices=2)):
        call = fl.federated_sum(client_fn, aggregator=fl.weighted_mean(), execution=execution)
        for ids, reported in (([0, 3, -1], [1, 1, 0]), ([4, 2, 1], [1, 0, 1])):
            cohort = fl.sampling.cohort(jnp.int32(ids), jnp.asarray(np.array(ids) >= 0))
            cohort = cohort._replace(reported=jnp.asarray(np.array(reported, bool)))
            aggregate, info = call(jnp.float32(2), PEOPLE, cohort, key=jax.random.key(0))
            there = [i for i, r in zip(ids, reported, strict=True) if r]
            want = np.average(2 * first[there], weights=np.array([4, 9, 1, 6, 2])[there])
            assert float(aggregate.value) == pytest.approx(want, rel=1e-5)
            assert (int(aggregate.num_clients), int(info.num_reported)) == (len(there), len(there))
            assert info.clients["in_sum"].tolist() == [bool(r) for r in reported]
            assert info.clients["id"].tolist() == ids


def test_a_single_sum_in_integers() -> None:
    """Possible where no cohort scales its weights, and refused where one does."""

    def client_fn(shared: Any, data: fl.ClientData) -> fl.ClientOutput:
        return fl.ClientOutput(helpers.first_value(data, "y"), data.num_examples)

    chain = fl.chain(fl.weighted_mean(weight_cap=16), fl.clip_by_value(8.0), fl.quantize(bits=16))
    call = fl.federated_sum(client_fn, aggregator=chain, execution=helpers.ONE)
    everyone = fl.sampling.full(5).sample(None, 0, PEOPLE)
    first = np.array([PEOPLE.client(i)["y"][0] for i in range(5)])
    aggregate, _ = call((), PEOPLE, everyone, key=jax.random.key(0))
    assert float(aggregate.value) == pytest.approx(np.average(first, weights=[4, 9, 1, 6, 2]), abs=1e-3)
    with pytest.raises(ValueError, match="quantize"):
        call((), PEOPLE, everyone._replace(scale=everyone.scale * 2), key=jax.random.key(0))


def test_a_single_sum_has_no_place_for_client_state() -> None:
    keeps = fl.Aggregator(init_client=lambda template: template, name="feedback")
    call = fl.federated_sum(
        lambda shared, data: fl.ClientOutput(shared),
        aggregator=fl.chain(fl.mean(), keeps),
        execution=helpers.ONE,
    )
    everyone = fl.sampling.full(5).sample(None, 0, PEOPLE)
    with pytest.raises(ValueError, match=r"chain\(mean, feedback\) keeps state at clients, .*; use fl.rounds"):
        call(jnp.float32(1), PEOPLE, everyone, key=jax.random.key(0))


@pytest.mark.parametrize("impl", helpers.some_often(["rbg", "unsafe_rbg"], 2))
def test_generators_that_draw_a_batch_as_one_stream_do_not_reach_the_lanes(impl: str) -> None:
    """A key of any kind may be given; what a client draws stays a function of it, the round and the client."""

    def once(lanes: int) -> Any:
        execution = fl.Execution(lanes=lanes, devices=1)
        run = fl.rounds(helpers.fed_avg(), sampler=UNIFORM, aggregator=fl.weighted_mean(), execution=execution)
        state = run.init(PARAMS, PEOPLE, key=jax.random.key(3, impl=impl))
        return run.params(run.step(state, PEOPLE)[0])

    assert helpers.max_difference(once(1), once(4)) < 1e-6


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_raw_keys_are_taken_as_the_typed_keys_with_their_data(impl: str) -> None:
    run = fl.rounds(helpers.fed_avg(), sampler=UNIFORM, aggregator=fl.weighted_mean(), execution=helpers.ONE)
    key = jax.random.key(3, impl=impl)
    raw = run.init(PARAMS, PEOPLE, key=jax.random.key_data(key))
    typed = run.init(PARAMS, PEOPLE, key=key)
    assert jax.random.key_data(raw.keys.client).tolist() == jax.random.key_data(typed.keys.client).tolist()


def test_a_round_inside_of_a_callers_own_jit_leaves_no_tracer_behind() -> None:
    run, state, _ = helpers.one_run(helpers.sends(), PEOPLE, PARAMS, num_rounds=0)
    inside = jax.jit(lambda state: run.step(state, PEOPLE)[0])(state)
    assert helpers.max_difference(inside.params, run.step(state, PEOPLE)[0].params) < 1e-6


@pytest.mark.parametrize(("execution", "times"), [(helpers.ONE, 1), (fl.Execution(lanes=2, devices=2), 2)])
def test_a_client_is_traced_by_init_alone(execution: fl.Execution, times: int) -> None:
    """Once for its shapes and the round together on one device, once each on several; never again by the first step."""
    traced = []

    def update(data: fl.ClientData) -> jax.Array:
        traced.append(data)
        return helpers.first_value(data, "y")

    run, state, _ = helpers.one_run(helpers.sender(update), PEOPLE, jnp.float32(0), execution=execution, num_rounds=0)
    assert len(traced) == times
    run.step(state, PEOPLE)
    assert len(traced) == times


def test_lanes_do_not_depend_on_what_one_of_several_processes_reads_of_its_device() -> None:
    from types import SimpleNamespace

    from fedjaxlite.execution.layout import Layout, with_lanes

    def told(*processes: int, memory: int) -> int:
        def stats() -> dict[str, int]:
            return {"bytes_limit": memory}

        devices = [SimpleNamespace(platform="gpu", process_index=i, memory_stats=stats) for i in processes]
        model = {"w": jax.ShapeDtypeStruct((2**20,), jnp.float32)}
        return with_lanes(Layout(0, tuple(devices), None, fl.Execution()), model, PEOPLE, 1000).lanes

    assert told(0, memory=2**34) > told(0, memory=2**30)
    assert told(0, 1, memory=2**34) == told(0, 1, memory=2**30)
