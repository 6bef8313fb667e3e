"""Rounds on a cohort that the host prepared give the numbers that they give on the whole population."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedjaxlite as fl
from fedjaxlite import testing
from fedjaxlite.data.prepared import gathering, whole

PEOPLE = helpers.regression((4, 9, 1, 6, 2, 30))
PARAMS = helpers.linear_params()


@pytest.mark.parametrize(
    ("algorithm", "execution"),
    [(helpers.fed_avg(), helpers.ONE), (helpers.local_momentum(), fl.Execution(lanes=2, devices=2))],
    ids=["stateless", "stateful"],
)
@pytest.mark.whole
def test_rounds_on_prepared_cohorts_equal_rounds_on_the_population(
    algorithm: fl.Algorithm, execution: fl.Execution
) -> None:
    sampler = testing.mixed_cohorts(6, 3)
    run = fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=execution)
    whole = streamed = run.init(PARAMS, PEOPLE, key=jax.random.key(0), noise_key=jax.random.key(1))
    for round_number in range(3):
        cohort = sampler.sample(streamed.keys.sample, round_number, PEOPLE)
        prepared = fl.prepare_cohort(PEOPLE, cohort, num_examples=60)
        assert prepared.population.features["x"].shape == (60, 3)
        for name in ("x", "y"):  # spare rows are never read
            spare = int(prepared.population.offsets[-1])
            prepared.population.features[name][spare:] = np.nan
        whole, info = run.step(whole, PEOPLE)
        streamed, streamed_info = run.step(streamed, prepared)
        testing.assert_close(streamed_info, info, what="infos", tolerance=testing.Tolerance())
    testing.assert_close(streamed, whole, what="states", tolerance=testing.Tolerance())


def test_a_prepared_cohort_holds_its_own_clients_in_cohort_order() -> None:
    people = helpers.one_value_each([1.0, 2.0, 3.0, 4.0], sizes=[2, 1, 3, 1])
    cohort = fl.sampling.cohort(jnp.int32([2, -1, 0]), jnp.array([True, False, True]))
    prepared = fl.prepare_cohort(people, cohort, num_examples=7)
    assert prepared.population.offsets.tolist() == [0, 3, 3, 5]
    assert prepared.population.features["x"].tolist() == [3, 3, 3, 1, 1, 0, 0]
    assert prepared.population.max_size == people.max_size  # static, so that rounds do not recompile
    assert prepared.cohort.ids.tolist() == [2, 0, 0]


def test_what_does_not_fit_is_refused() -> None:
    cohort = fl.sampling.full(6).sample(None, 0, PEOPLE)
    with pytest.raises(
        ValueError, match=r"`num_examples` is 51, and this cohort has 52. Raise it .* at most 6 x 30 here"
    ):
        fl.prepare_cohort(PEOPLE, cohort, num_examples=51)
    with pytest.raises(ValueError, match="`num_examples` is 0; expected an int of at least 1"):
        fl.prepare_cohort(PEOPLE, cohort, num_examples=0)


def test_it_works_on_memory_mapped_features(tmp_path: object) -> None:
    path = f"{tmp_path}/x.npy"
    np.save(path, np.asarray(PEOPLE.features["x"]))
    mapped = fl.Population({"x": np.load(path, mmap_mode="r")}, PEOPLE.offsets, PEOPLE.max_size)
    cohort = fl.sampling.cohort(jnp.int32([4, 0]), jnp.array([True, True]))
    prepared = fl.prepare_cohort(mapped, cohort, num_examples=6)
    np.testing.assert_array_equal(prepared.population.features["x"][:2], PEOPLE.client(4)["x"])


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[fl.Population, Any, int]:
    """A ragged population, some of whose clients have nothing; a cohort with spare slots; a number of devices."""
    sizes = draw(st.lists(st.integers(0, 9), min_size=2, max_size=9).filter(lambda found: sum(found) > 0))
    num = draw(st.integers(1, len(sizes)))
    ids = draw(st.permutations(range(len(sizes))))[:num]
    selected = [draw(st.booleans()) for _ in range(num)]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    wide = draw(st.sampled_from([1, 2000]))  # rows that go one by one, and rows that go in blocks
    rows = np.arange(sum(sizes), dtype=np.float32)
    people = fl.Population({"x": np.repeat(rows[:, None], wide, 1), "y": rows}, offsets, max(sizes))
    return people, fl.sampling.cohort(np.array(ids, np.int32), np.array(selected)), draw(st.integers(1, 3))


@given(cohorts())
def test_pieces_hold_the_rows_of_their_own_slots_in_slot_order(case: tuple[fl.Population, Any, int]) -> None:
    people, cohort, devices = case
    states = np.arange(len(cohort.ids), dtype=np.int32)
    prepared: Any = fl.prepare_cohort(people, cohort, num_devices=devices, clients=states)
    share = -(-people.num_clients // devices)
    ids, selected = np.asarray(cohort.ids), np.asarray(cohort.selected)
    sizes = np.diff(prepared.population.offsets)
    np.testing.assert_array_equal(sizes, np.where(selected, np.diff(people.offsets)[ids], 0))
    y, x = (prepared.population.features[name].reshape(devices, -1) for name in ("y", "x"))
    for device in range(devices):
        mine = [k for k in range(len(ids)) if ids[k] // share == device]
        rows = [people.client(int(ids[k]))["y"] for k in mine if selected[k]]
        expected = np.concatenate([*rows, np.zeros(0, np.float32)])
        np.testing.assert_array_equal(y[device][: len(expected)], expected)
        assert not y[device][len(expected) :].any()
        np.testing.assert_array_equal(x[device].reshape(len(y[device]), -1).T[-1], y[device])
        np.testing.assert_array_equal(prepared.clients.reshape(devices, -1)[device][: len(mine)], states[mine])
        assert devices == 1 or all(prepared.owner[k] == device for k in mine)
    np.testing.assert_array_equal(fl.cohort_clients(prepared, prepared.clients), states)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 12))
def test_every_cohort_fits_into_the_bound_and_the_largest_fills_it(sizes: list[int], num_slots: int) -> None:
    sizes = [*sizes, 1]
    people = fl.Population({}, np.concatenate([[0], np.cumsum(sizes)]), max(sizes) + 1)
    num_slots = min(num_slots, len(sizes))
    largest = sum(sorted(sizes, reverse=True)[:num_slots])
    assert gathering.most_examples(people, num_slots) == max(largest, 1)


class TestOnDevices:
    """Rounds on pieces give what they give on the whole population."""

    SIZES = (4, 9, 1, 6, 2, 30, 3, 3)
    PEOPLE = helpers.regression(SIZES)

    def both(self, algorithm: fl.Algorithm, execution: Any, **options: Any) -> tuple[Any, Any]:
        """States after three rounds: in memory, and by cohorts that the host prepared, with states of the test's own."""
        options = {"sampler": fl.sampling.uniform(4, dropout=0.3), "aggregator": fl.weighted_mean(), **options}
        key, secret = jax.random.key(0), jax.random.key(1)
        run = fl.rounds(algorithm, execution=execution._replace(client_states="device"), **options)
        whole = run.init(PARAMS, self.PEOPLE, key=key, noise_key=secret)
        other = fl.rounds(algorithm, execution=execution, **options)
        state = other.init(PARAMS, self.PEOPLE, key=key, noise_key=secret)
        devices = int(execution.devices)
        bank = jax.tree.map(np.array, whole.clients)
        elsewhere = execution.client_states != "device" and bool(jax.tree.leaves(bank))
        for number in range(3):
            cohort = options["sampler"].sample(state.keys.sample, number, self.PEOPLE)
            ids = np.asarray(cohort.ids)
            rows = jax.tree.map(lambda leaf: leaf[ids], bank) if elsewhere else ()  # noqa: B023
            prepared = fl.prepare_cohort(self.PEOPLE, cohort, num_devices=devices, clients=rows)
            for feature in prepared.population.features.values():
                for piece in feature.reshape(devices, -1, *feature.shape[1:]):
                    assert not piece[-1].any()
                    piece[-1] = np.nan  # a spare row, which nobody reads
            whole, info = run.step(whole, self.PEOPLE)
            state, streamed = other.step(state, prepared)
            testing.assert_close(streamed, info, what="infos", tolerance=testing.Tolerance())
            if elsewhere:
                new = fl.cohort_clients(prepared, state.clients)
                jax.tree.map(lambda table, own: table.__setitem__(ids, own), bank, new)  # noqa: B023
        states = bank if elsewhere else state.clients
        return whole, state._replace(clients=jax.tree.map(jnp.asarray, states))

    @pytest.mark.parametrize(
        ("algorithm", "devices", "options"),
        [
            pytest.param(helpers.local_momentum(), 1, {}, marks=pytest.mark.slow),
            pytest.param(helpers.scaffold(), 2, {}, marks=helpers.needs_devices(2)),
            pytest.param(
                helpers.scaffold(), 2, {"mapping": "pmap"}, marks=[helpers.needs_devices(2), pytest.mark.slow]
            ),
            pytest.param(helpers.local_momentum(), 3, {"lanes": 2}, marks=[helpers.needs_devices(3), pytest.mark.slow]),
        ],
        ids=["one device", "two devices", "pmap", "three devices"],
    )
    def test_with_states_elsewhere_bit_for_bit(
        self, algorithm: fl.Algorithm, devices: int, options: dict[str, Any]
    ) -> None:
        given: dict[str, Any] = {"lanes": 1, **options, "devices": devices, "client_states": "host"}
        execution = fl.Execution(**given)
        whole, streamed = self.both(algorithm, execution)
        jax.tree.map(np.testing.assert_array_equal, *(rows_of(s, len(self.SIZES)) for s in (whole, streamed)))

    @pytest.mark.parametrize(
        ("algorithm", "options"),
        [
            (helpers.fed_avg(), {}),
            pytest.param(
                helpers.fed_avg(), {"aggregator": fl.chain(fl.mean(), fl.robust.median())}, marks=pytest.mark.slow
            ),
            pytest.param(helpers.local_momentum(), {}, marks=pytest.mark.slow),
        ],
        ids=["stateless", "rows of a rule", "a bank on the devices"],
    )
    @helpers.needs_devices(2)
    def test_with_states_on_the_devices(self, algorithm: fl.Algorithm, options: dict[str, Any]) -> None:
        whole, streamed = self.both(algorithm, fl.Execution(lanes=2, devices=2), **options)
        testing.assert_close(streamed, whole, what="states", tolerance=testing.Tolerance())


def rows_of(state: Any, num_clients: int) -> Any:
    """The state without what its clients' bank is padded with."""
    return jax.tree.map(np.asarray, (state.server_state, jax.tree.map(lambda a: a[:num_clients], state.clients)))


class TestRefusals:
    PEOPLE = helpers.regression((3, 2, 4, 1))
    COHORT = fl.sampling.full(4).sample(None, 0, PEOPLE)

    def prepared(self, **options: Any) -> fl.PreparedCohort:
        return fl.prepare_cohort(self.PEOPLE, self.COHORT, **options)

    def stepped(self, data: Any, *, algorithm: fl.Algorithm | None = None, **execution: Any) -> None:
        run = fl.rounds(
            algorithm or helpers.local_momentum(),
            sampler=fl.sampling.full(4),
            aggregator=fl.mean(),
            execution=fl.Execution(lanes=1, **execution),
        )
        state = run.init(PARAMS, self.PEOPLE, key=jax.random.key(0))
        run.step(state, data)

    def test_states_that_are_not_one_a_slot(self) -> None:
        with pytest.raises(ValueError, match=r"`clients` holds an array of shape \[3\]; expected .* \[4, ...\]"):
            self.prepared(clients=np.zeros(3))
        with pytest.raises(ValueError, match=r"`clients` has \[6\] rows .* multiple of the cohort's 4 slots"):
            fl.cohort_clients(self.prepared(), np.zeros(6))

    def test_states_where_the_rounds_have_other_places_for_them(self) -> None:
        with pytest.raises(ValueError, match=r"brings states of its clients, and these rounds keep all of them on"):
            self.stepped(self.prepared(clients=np.zeros(4)), devices=1)
        with pytest.raises(ValueError, match=r"keep clients' states elsewhere \(client_states='host'\), and the prep"):
            self.stepped(self.prepared(), devices=1, client_states="host")
        with pytest.raises(ValueError, match=r"elsewhere \(client_states='host'\), so that a step needs those of its"):
            self.stepped(self.PEOPLE, devices=1, client_states="host")
        with pytest.raises(
            ValueError, match=r"what the prepared cohort holds of its clients' states has no leaf at .*one row a slot"
        ):
            self.stepped(self.prepared(clients=np.zeros(4, np.float32)), devices=1, client_states="host")

    def test_pieces_for_other_devices(self) -> None:
        with pytest.raises(ValueError, match=r"shared out over several devices .* and these rounds run on one"):
            self.stepped(self.prepared(num_devices=2), algorithm=helpers.fed_avg(), devices=1)

    @helpers.needs_devices(2)
    def test_pieces_that_devices_cannot_share(self) -> None:
        data = self.prepared(num_devices=3, num_examples=9)
        with pytest.raises(
            ValueError, match=r"27 rows of data in pieces, which 2 devices cannot share .*num_devices=2"
        ):
            self.stepped(data, algorithm=helpers.fed_avg(), devices=2)

    def test_where_states_are_kept(self) -> None:
        with pytest.raises(TypeError, match=r'`client_states` is 3; expected "device", "host", or a folder'):
            self.stepped(self.PEOPLE, client_states=3)


def test_more_rows_than_int32_counts_are_traced_without_any_index_of_them() -> None:
    rows, num_clients = 2**31 + 10, 5
    features = {"x": np.broadcast_to(np.float32(0), (rows, 3)), "y": np.broadcast_to(np.float32(0), (rows,))}
    offsets = np.linspace(0, rows, num_clients + 1).astype(np.int64)
    people = fl.Population.tree_unflatten(int(np.diff(offsets).max()), (features, offsets))
    execution = fl.Execution(lanes=1, devices=1, client_states="host")
    run = fl.rounds(helpers.fed_avg(), sampler=fl.sampling.uniform(2), aggregator=fl.mean(), execution=execution)
    assert run.traffic(PARAMS, people).up == run.traffic(PARAMS, PEOPLE).up
    cohort = run.sampler.sample(jax.random.key(0), 0, whole.traceable(people))
    assert sorted(np.asarray(cohort.ids)) != [0, 0]
