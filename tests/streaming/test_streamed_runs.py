"""Runs whose data or client states stream are the runs that they would be in memory, bit for bit."""

import os
import signal
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import privacy, streaming
from fedjaxlite.data.prepared import gathering
from fedjaxlite.execution.layout import place, resolve
from fedjaxlite.sampling import Cohort
from fedjaxlite.streaming import client_store, states
from fedjaxlite.streaming.background import Later, background
from fedjaxlite.streaming.loading import Loaded

pytestmark = pytest.mark.usefixtures("no_pictures")

SIZES = (4, 9, 1, 6, 2, 30, 3, 3)
PEOPLE = helpers.regression(SIZES)
PARAMS = helpers.linear_params()
NUM_ROUNDS = 6


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> fl.Population:
    folder = tmp_path_factory.mktemp("people") / "people"
    return fl.Population.write(folder, (PEOPLE.client(i) for i in range(len(SIZES))))


def composed(name: str, where: str = "device", **execution: Any) -> fl.Rounds:
    dp = fl.chain(fl.mean(over=4), privacy.gaussian(clip_norm=1.0, noise_multiplier=0.5))
    algorithm, sampler, aggregator = {
        "fed_avg": (helpers.fed_avg(), fl.sampling.uniform(4, dropout=0.3), fl.weighted_mean()),
        "scaffold": (helpers.scaffold(), fl.sampling.uniform(4, dropout=0.3), fl.weighted_mean()),
        "private": (helpers.fed_avg(), fl.sampling.poisson(rate=0.5, capacity=8), dp),
        "error feedback": (
            helpers.local_momentum(),
            fl.sampling.uniform(3),
            fl.chain(fl.weighted_mean(), fl.compression.error_feedback(fl.compression.top_k(fraction=0.5))),
        ),
    }[name]
    execution = {"lanes": 2, "devices": 1, **execution, "client_states": where}
    return fl.rounds(algorithm, sampler=sampler, aggregator=aggregator, execution=fl.Execution(**execution))


def first(run: fl.Rounds, people: fl.Population) -> fl.RoundState:
    return run.init(PARAMS, people, key=jax.random.key(0), noise_key=jax.random.key(1))


def trained(run: fl.Rounds, people: fl.Population, **options: Any) -> Any:
    state = options.pop("state", None) or first(run, people)
    given: dict[str, Any] = {"num_rounds": NUM_ROUNDS, "progress": False, **options}
    return fl.train(run, state, people, **given)


def timeless(history: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k not in ("seconds", "elapsed")} for record in history.records]


def assert_same(found: Any, expected: Any) -> None:
    same = lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b))  # noqa: E731
    jax.tree.map(same, found, expected)


def no_threads_left() -> bool:
    return not {thread.name.split("_")[0] for thread in threading.enumerate()} & {
        "fedjaxlite-data",
        "fedjaxlite-states",
    }


@pytest.mark.parametrize(
    "name",
    [
        "fed_avg",
        pytest.param("scaffold", marks=pytest.mark.slow),
        pytest.param("private", marks=pytest.mark.slow),
        "error feedback",
    ],
)
def test_a_streamed_run_is_the_run_in_memory_bit_for_bit(name: str, on_disk: fl.Population, tmp_path: Path) -> None:
    whole = trained(composed(name), PEOPLE, rounds_per_dispatch=1)
    keeps = bool(jax.tree.leaves(whole.state.clients))
    run = composed(name, str(tmp_path / "clients") if keeps else "device")
    streamed = trained(run, on_disk, rounds_per_dispatch=3)
    assert timeless(streamed) == timeless(whole)
    parts = lambda state: (state.round, state.server_state, state.aggregator_state)  # noqa: E731
    assert_same(parts(streamed.state), parts(whole.state))
    if keeps:
        one = client_store.first_of(first(run, on_disk).clients)
        store = client_store.open_at(str(tmp_path / "clients"), one, len(SIZES))
        assert_same(store.read(np.arange(len(SIZES))), whole.state.clients)
        store.close()
    assert no_threads_left()


def test_one_compilation_serves_all_rounds_whatever_the_cohorts_sizes(on_disk: fl.Population) -> None:
    """Clients have 1 to 30 examples, so that no two cohorts need the same room."""
    compiled: list[str] = []
    counts: list[int] = []

    def listen(event: str, duration_secs: float, **told: Any) -> None:
        del duration_secs, told
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    run = composed("error feedback", "host")
    trained(run, on_disk, num_rounds=8, observers=[lambda record, state: counts.append(len(compiled))])
    assert counts[0] > 0
    assert counts[1:] == counts[1:2] * 7
    assert counts[1] - counts[0] <= 1  # what the first round's end compiles, such as its record


class Broken:
    """Rows that can be read until one is asked for that cannot."""

    def __init__(self, rows: np.ndarray, from_row: int) -> None:
        self.rows, self.from_row, self.shape, self.dtype = rows, from_row, rows.shape, rows.dtype

    def __getitem__(self, where: slice) -> np.ndarray:
        if where.stop > self.from_row:
            raise OSError(5, "Input/output error")
        return self.rows[where]


def test_what_fails_beside_a_round_ends_the_run_with_its_own_error() -> None:
    rows = {name: np.asarray(array) for name, array in PEOPLE.features.items()}
    broken = fl.Population({**rows, "y": Broken(rows["y"], 57)}, PEOPLE.offsets, PEOPLE.max_size)
    sampler = fl.sampling.replay(np.array([[0, 1], [2, 3], [1, 0], [5, 7]]))
    run = fl.rounds(
        helpers.fed_avg(), sampler=sampler, aggregator=fl.mean(), execution=helpers.ONE._replace(client_states="host")
    )
    seen: list[int] = []
    with pytest.raises(OSError, match="Input/output error") as failed:
        trained(run, broken, num_rounds=4, observers=[lambda record, state: seen.append(record["round"])])
    assert seen[:1] == [1]
    assert len(seen) < 4
    assert failed.value.__notes__ == ["That was beside a round of the run, while the data of round 4 were gathered."]
    assert no_threads_left()


def test_the_error_of_a_store_is_the_runs() -> None:
    def full(number: int, ids: Any, rows: Any) -> None:
        raise OSError(28, "No space left on device")

    run = composed("error feedback", "host")
    state = first(run, PEOPLE)
    store = client_store.open_at("host", client_store.first_of(state.clients), len(SIZES))._replace(write=full)
    with (
        pytest.raises(OSError, match="No space left on device") as failed,
        streaming.opened(run, PEOPLE, state, 6, store) as stream,
    ):
        for _ in range(6):
            state, _ = stream.run(state, 1)
    assert failed.value.__notes__ == [
        "That was beside a round of the run, while the client states of round 1 were written."
    ]
    assert no_threads_left()


def test_a_state_whose_client_states_are_gone_is_refused() -> None:
    run = composed("scaffold", "host")
    later = first(run, PEOPLE)._replace(round=jnp.int32(3))
    with pytest.raises(ValueError, match=r"`state` has done 3 rounds and does not say where its clients.*resume=True"):
        trained(run, PEOPLE, state=later)


def test_a_sampler_that_reads_features_is_told_that_it_cannot() -> None:
    def sample(key: Any, number: Any, population: Any) -> Cohort:
        return fl.sampling.cohort(jnp.argsort(population.features["y"])[:2] % 8, jnp.ones(2, bool))

    accounting = fl.sampling.uniform(2).accounting
    sampler = fl.Sampler(sample, 2, accounting, "by_label")
    run = fl.rounds(
        helpers.fed_avg(), sampler=sampler, aggregator=fl.mean(), execution=helpers.ONE._replace(client_states="host")
    )
    with pytest.raises(TypeError, match=r"by_label asks for the feature 'y' of the population.*may read"):
        first(run, PEOPLE)


def cohort_of(ids: np.ndarray, trained: np.ndarray, num_clients: int, devices: int) -> Later:
    """A cohort of one example a client that is loaded already, without its data."""
    nothing: Any = None
    slots = gathering.Slots(ids, np.ones_like(ids), ids, gathering.owners(ids, num_clients, devices))
    future: Future[Loaded] = Future()
    future.set_result(Loaded(nothing, slots, trained, np.ones(len(ids), bool)))
    return Later(future)


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=helpers.needs_devices(2))])
def test_states_are_never_older_than_the_round_before(devices: int) -> None:
    """Rounds that add one to what their clients keep; of a third of them it does not count, since they dropped out."""
    num_clients, num_slots, rng = 7, 3, np.random.default_rng(0)
    layout = resolve(fl.Execution(devices=devices), num_slots)
    store = client_store.open_at("host", np.int32(0), num_clients)
    trained = place(np.zeros((devices * num_slots,), np.int32), layout, sharded=True)
    expected = np.zeros(num_clients, np.int32)
    cohorts = [
        cohort_of(rng.permutation(num_clients)[:num_slots], rng.random(num_slots) < 0.7, num_clients, devices)
        for _ in range(20)
    ]
    with background("fedjaxlite-states") as thread:
        kept, before = states.states_of(store, trained, layout, thread), None
        fetched = kept.fetch(cohorts[0])
        for number, cohort in enumerate(cohorts):
            now = cohort.found()
            if before is not None:
                kept.write(number, before, trained)
            rows = kept.joined(fetched.found(), now, before, trained)
            for device, piece in enumerate(np.asarray(rows).reshape(devices, num_slots)):
                mine = now.slots.owner == device
                np.testing.assert_array_equal(piece[: mine.sum()], expected[now.slots.ids[mine]])
            trained, before = rows + 1, now
            expected[now.slots.ids[now.trained]] += 1
            fetched = kept.fetch(cohorts[min(number + 1, len(cohorts) - 1)])
    assert expected.max() > 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["private", "error feedback"])
def test_a_run_that_is_asked_to_end_goes_on_with_the_same_bits(
    name: str, on_disk: fl.Population, tmp_path: Path
) -> None:
    def ask(record: Any, state: Any) -> None:
        if record["round"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    kept = lambda which: composed(name, str(tmp_path / which) if name == "error feedback" else "device")  # noqa: E731
    measured: dict[str, Any] = {"evaluate": lambda params: {"loss": params["b"]}}
    whole = trained(kept("a"), on_disk, **measured)
    options: dict[str, Any] = {"out_dir": tmp_path / "run", "checkpoint_every": 2, **measured}
    with pytest.raises(SystemExit):
        trained(kept("b"), on_disk, observers=[ask], **options)
    history = trained(kept("b"), on_disk, resume=True, **options)
    assert history.state.round == NUM_ROUNDS
    assert_same(history.state.server_state, whole.state.server_state)
    assert timeless(history) == timeless(whole)
    assert no_threads_left()


@pytest.mark.slow
@helpers.needs_devices(4)
@pytest.mark.parametrize(("name", "shape"), [("fed_avg", (1, 2)), ("scaffold", (2, 2))])
def test_on_a_mesh_with_a_model_axis(name: str, shape: tuple[int, int], on_disk: fl.Population) -> None:
    devices = np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape)
    mesh = jax.sharding.Mesh(devices, ("clients", "model"))
    options: dict[str, Any] = {"devices": None, "mesh": mesh, "param_shardings": {"w": jax.P(), "b": jax.P()}}
    whole = trained(composed(name, **options), PEOPLE, num_rounds=3, rounds_per_dispatch=1)
    streamed = trained(composed(name, **options), on_disk, num_rounds=3)
    assert timeless(streamed) == timeless(whole)
    assert_same(streamed.state.server_state, whole.state.server_state)
