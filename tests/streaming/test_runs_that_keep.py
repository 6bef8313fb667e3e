"""Runs whose clients' states are kept elsewhere: they go on, resume and are looked at as if devices kept them."""

import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.execution.layout import lanes_that_fit
from fedjaxlite.training import checkpoint_folder

pytestmark = pytest.mark.usefixtures("no_pictures")

ROOT = Path(__file__).resolve().parents[2]
SIZES = (4, 9, 1, 6, 2, 12, 3, 3)
PEOPLE = helpers.regression(SIZES)
PARAMS = helpers.linear_params()
NUM_ROUNDS = 8


@functools.cache
def composed(where: str, name: str = "ditto") -> fl.Rounds:
    algorithm = {
        "ditto": lambda: algorithms.ditto(helpers.linear_loss, lam=0.1, client_optimizer=optax.sgd(0.05), batch_size=4),
        "keys": drawing,
    }[name]()
    execution = fl.Execution(lanes=2, devices=1, client_states=where)
    sampler = fl.sampling.uniform(3, dropout=0.2)
    return fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=execution)


def drawing() -> fl.Algorithm:
    """Federated averaging whose clients keep a random key, and a count in half precision."""
    algorithm = helpers.fed_avg()
    inner = algorithm.client_update

    def client_update(shared, kept, data, key):
        kept = {"key": jax.random.split(kept["key"])[0], "count": kept["count"] + jnp.bfloat16(1)}
        return inner(shared, (), data, key)._replace(client_state=kept)

    first = {"key": jax.random.key(7), "count": jnp.bfloat16(0)}
    return algorithm._replace(init_client=lambda params: first, client_update=client_update)


def begin(run: fl.Rounds) -> fl.RoundState:
    return run.init(PARAMS, PEOPLE, key=jax.random.key(0))


def go(run: fl.Rounds, num_rounds: int = NUM_ROUNDS, state: Any = None, **options: Any) -> fl.observers.History:
    options = {"progress": False, "rounds_per_dispatch": 1, **options}
    return fl.train(run, begin(run) if state is None else state, PEOPLE, num_rounds=num_rounds, **options)


@functools.cache
def on_devices(name: str = "ditto") -> fl.RoundState:
    return go(composed("device", name)).state


def kept_by(run: fl.Rounds, state: fl.RoundState) -> list[np.ndarray]:
    found = [run.client_params(state, i) for i in range(len(SIZES))]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(found)]


def assert_same(run: fl.Rounds, state: fl.RoundState) -> None:
    """Server and clients as where devices keep all."""
    expected = on_devices()
    jax.tree.map(np.testing.assert_array_equal, state.server_state, expected.server_state)
    for a, b in zip(kept_by(run, state), kept_by(composed("device"), expected), strict=True):
        np.testing.assert_array_equal(a, b)


# Every day in a folder alone, of which there is more to get wrong.
@pytest.fixture(params=[pytest.param("host", marks=pytest.mark.whole), "folder"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "host" if request.param == "host" else str(tmp_path / "clients")


def test_the_state_that_a_run_returned_goes_on(where: str) -> None:
    run = composed(where)
    early = go(run, 3).state
    late = go(run, state=early).state
    assert_same(run, late)
    with pytest.raises(ValueError, match=r"the state is that of round 3, and its clients' states .* round 8"):
        run.client_params(early, 0)
    with pytest.raises(ValueError, match=r"`state` is that of round 3, .* those of round 8: they have gone on since"):
        go(run, state=early)


def test_clients_are_evaluated_while_a_run_goes_and_afterwards(where: str) -> None:
    loss = helpers.linear_loss
    run, kept = composed(where), composed("device")
    evaluate = fl.evaluate_clients(loss, PEOPLE, rounds=run)
    history = go(run, evaluate_state=evaluate, evaluate_every=4)
    expected = go(kept, evaluate_state=fl.evaluate_clients(loss, PEOPLE, rounds=kept), evaluate_every=4)
    for a, b in zip(history.records, expected.records, strict=True):
        assert a.get("clients_loss_mean") == b.get("clients_loss_mean")
    last = evaluate(history.state).metrics["loss"]
    np.testing.assert_array_equal(last, fl.evaluate_clients(loss, PEOPLE, rounds=kept)(expected.state).metrics["loss"])
    first = evaluate(begin(run)).metrics["loss"]
    assert (first != last).any()


def test_a_resumed_run_is_the_run_whatever_came_after_its_checkpoint(where: str, tmp_path: Path) -> None:
    run, out = composed(where), tmp_path / "out"

    def fails(record: Any, state: Any) -> None:
        if record["round"] == 7:
            raise RuntimeError("here")

    with pytest.raises(RuntimeError, match="here"):
        go(run, out_dir=out, checkpoint_every=2, observers=[fails])
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["4", "6"]
    assert_same(run, go(run, out_dir=out, checkpoint_every=2, resume=True).state)


def test_where_the_newest_checkpoint_is_damaged_clients_go_back_to_the_one_before(where: str, tmp_path: Path) -> None:
    run, out = composed(where), tmp_path / "out"
    go(run, 6, out_dir=out, checkpoint_every=2)
    (out / "checkpoints" / "6" / "meta" / "metadata").write_text("{}")
    assert_same(run, go(run, out_dir=out, checkpoint_every=2, resume=True).state)


def test_a_run_that_ended_before_its_first_checkpoint_begins_again(tmp_path: Path) -> None:
    where, out = str(tmp_path / "clients"), tmp_path / "out"
    run = composed(where)

    def fails(record: Any, state: Any) -> None:
        if record["round"] == 3:
            raise RuntimeError("here")

    with pytest.raises(RuntimeError, match="here"):
        go(run, out_dir=out, checkpoint_every=100, observers=[fails])
    with pytest.raises(FileExistsError, match="holds a run already"):
        go(run, out_dir=out)
    with pytest.raises(ValueError, match=r"are in the middle of a round: .*was killed. Go on with it by resume=True"):
        go(run)
    assert_same(run, go(run, out_dir=out, resume=True).state)


@pytest.mark.whole
def test_other_client_states_than_the_checkpoints_are_refused(tmp_path: Path) -> None:
    where, out = str(tmp_path / "clients"), tmp_path / "out"
    go(composed(where), 4, out_dir=out, checkpoint_every=2)
    for other in ("host", "device"):
        with pytest.raises(
            ValueError, match=r"kept clients' states in a folder, and this one keeps them (in host|on the)"
        ):
            go(composed(other), out_dir=out, resume=True)
    shutil.move(where, tmp_path / "moved")
    with pytest.raises(ValueError, match=r"belongs to other client states than those in .*moved, not made anew"):
        go(composed(where), out_dir=out, resume=True)
    assert_same(moved := composed(str(tmp_path / "moved")), go(moved, out_dir=out, resume=True).state)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    where = str(tmp_path / "clients")
    go(composed(where), 2)
    with pytest.raises(FileExistsError, match=r"holds the states of a run after round 2. .*or give another folder"):
        go(composed(where))
    with pytest.raises(ValueError, match=r"holds the states of other clients: leaves is .* and was"):
        go(composed(where, "keys"))


def test_a_folder_is_one_runs_at_a_time(tmp_path: Path) -> None:
    where, said = str(tmp_path / "clients"), []

    def another(record: Any, state: Any) -> None:
        with pytest.raises(RuntimeError, match=r"where another run keeps its clients' states \(process \d+ on .*\)"):
            go(composed(where))
        said.append(record["round"])

    go(composed(where), 1, observers=[another])
    assert said == [1]


def test_random_keys_and_half_precision_are_kept(where: str, tmp_path: Path) -> None:
    run, out = composed(where, "keys"), tmp_path / "out"
    go(run, 5, out_dir=out, checkpoint_every=2)
    state = go(run, out_dir=out, checkpoint_every=2, resume=True).state
    expected = on_devices("keys").clients.algorithm
    found = state.elsewhere.read(NUM_ROUNDS, np.arange(len(SIZES))).algorithm
    np.testing.assert_array_equal(found["count"], np.asarray(expected["count"]))
    np.testing.assert_array_equal(found["key"], np.asarray(jax.random.key_data(expected["key"])))
    assert found["count"].astype(np.float32).max() > 1


def test_journals_hold_no_more_than_the_checkpoints_kept_need(tmp_path: Path) -> None:
    where, seen = tmp_path / "clients", []
    look = lambda record, state: seen.append(sorted(int(p.name.split(".")[0]) for p in where.glob("journal/*")))  # noqa: E731
    go(composed(str(where)), out_dir=tmp_path / "out", checkpoint_every=2, observers=[look])
    assert seen[-1] == [4, 6]  # in round 8, whose checkpoint comes after it
    assert sorted(int(p.name.split(".")[0]) for p in where.glob("journal/*")) == [6, 8]
    assert checkpoint_folder.oldest(tmp_path / "out" / "checkpoints") == 6


TWO_LAYERS = {"w1": jnp.zeros((784, 200)), "w2": jnp.zeros((200, 200)), "w3": jnp.zeros((200, 10))}


def many(client_states: str) -> tuple[fl.Rounds, fl.Population]:
    """A hundred thousand clients that keep a model of 0.8 MB each: 79.6 GB."""
    people = fl.Population.from_arrays({"x": np.zeros((100_000, 1), np.float32)}, client_ids=np.arange(100_000))
    zero = lambda params, batch, key: 0.0 * params["w1"].sum() + batch["x"][:, 0]  # noqa: E731
    algorithm = algorithms.ditto(zero, lam=0.1, client_optimizer=optax.sgd(0.05), batch_size=1)
    execution = fl.Execution(lanes=1, devices=1, client_states=client_states)
    return fl.rounds(
        algorithm, sampler=fl.sampling.uniform(2), aggregator=fl.weighted_mean(), execution=execution
    ), people


def test_states_that_are_larger_than_the_devices_are_refused_and_begin_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes_that_fit, "host_memory", lambda: 2**34)
    run, people = many("device")
    with pytest.raises(
        ValueError,
        match=r"what 100000 clients keep .* takes 79.5 GB, and the devices have 17.2. Keep it in host memory, "
        r'Execution\(client_states="host"\), or on a disk',
    ):
        run.init(TWO_LAYERS, people, key=jax.random.key(0))
    run, people = many("host")
    clients = run.init(TWO_LAYERS, people, key=jax.random.key(0)).clients
    assert {leaf.shape[0] for leaf in jax.tree.leaves(clients)} == {2}


@pytest.mark.parametrize("given", ["devices", "Host", " device", "GPU", "memory", "disk"])
def test_a_word_that_is_near_to_one_of_ours_is_no_folder(given: str) -> None:
    with pytest.raises(ValueError, match=r'expected "device", "host", or a folder .* A folder of that name is'):
        composed(given)


@pytest.mark.parametrize("given", ["", None, 3, b"host", "a\0b"])
def test_what_names_no_folder_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r'expected "device", "host", or a folder such as "runs/a/clients"'):
        composed(given)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"which is a file; expected"):
        composed(str(tmp_path / "file"))


PROGRAM = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 1)
import numpy as np
import optax
import fedjaxlite as fl
from fedjaxlite import algorithms

out, where, num_rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng = np.random.default_rng(0)
x = rng.normal(size=(120, 8)).astype(np.float32)
people = fl.Population.from_arrays({"x": x, "y": x.sum(1)}, client_ids=np.arange(120) // 6)
loss = lambda params, batch, key: (batch["x"] @ params - batch["y"]) ** 2
algorithm = algorithms.scaffold(loss, num_clients=20, client_lr=0.01, batch_size=3)
run = fl.rounds(
    algorithm, sampler=fl.sampling.uniform(5, dropout=0.2), aggregator=fl.weighted_mean(),
    execution=fl.Execution(client_states=where),
)
history = fl.train(
    run, run.init(np.zeros(8, np.float32), people, key=jax.random.key(1)), people, num_rounds=num_rounds,
    checkpoint_every=5, out_dir=out, resume=True, progress=False,
)
rows = history.state.elsewhere.read(num_rounds, np.arange(20)).algorithm
np.savez(out + "/final.npz", *jax.tree.leaves((history.state.server_state, rows)))
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    arguments = [str(folder / "out"), str(folder / "clients"), "40"]
    return subprocess.Popen([sys.executable, "-W", "error", "-c", PROGRAM, *arguments], cwd=ROOT)


def final(folder: Path) -> list[np.ndarray]:
    with np.load(folder / "out" / "final.npz") as arrays:
        return [arrays[name] for name in arrays]


@pytest.mark.whole
def test_a_killed_run_of_scaffold_ends_with_the_same_bits(tmp_path: Path) -> None:
    broken, straight, moments = tmp_path / "broken", tmp_path / "straight", random.Random(1)
    for kill in range(2):
        process, records = start(broken), broken / "out" / "records.jsonl"
        while (records.read_bytes().count(b"\n") if records.exists() else 0) < 12 * (
            kill + 1
        ) and process.poll() is None:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.02))
        assert process.poll() is None, "the run ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert start(broken).wait() == 0
    assert start(straight).wait() == 0
    for a, b in zip(final(broken), final(straight), strict=True):
        np.testing.assert_array_equal(a, b)


WRITER = """
import sys
import numpy as np
from fedjaxlite.streaming import client_store

store = client_store.open_at(sys.argv[1], np.zeros(2000, np.float32), 50)
store.mark(0)
for number in range(1, 100000):
    ids = np.random.default_rng(number).permutation(50)[:20]
    store.write(number, ids, np.full((20, 2000), number, np.float32))
    if number % 10 == 0:
        store.mark(number)
        store.forget(number - 10)
        print(number, flush=True)
"""


@pytest.mark.whole
def test_a_kill_in_the_middle_of_a_write_loses_nothing(tmp_path: Path) -> None:
    from fedjaxlite.streaming import client_store

    for trial in range(3):
        where = str(tmp_path / f"{trial}")
        process = subprocess.Popen([sys.executable, "-c", WRITER, where], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        marked = int([process.stdout.readline() for _ in range(3 + trial)][-1])
        time.sleep(0.003 * trial)
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read().split()
        process.stdout.close()
        process.wait()
        marked = int(rest[-1]) if rest else marked
        store = client_store.open_at(where, np.zeros(2000, np.float32), 50)
        store.rewind(marked)
        expected = np.zeros(50, np.float32)
        for number in range(1, marked + 1):
            expected[np.random.default_rng(number).permutation(50)[:20]] = number
        np.testing.assert_array_equal(store.read(np.arange(50)), np.repeat(expected[:, None], 2000, axis=1))
        store.close()
