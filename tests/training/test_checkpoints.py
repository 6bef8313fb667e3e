"""Checkpoints: killed anywhere and resumed, a run ends with the same bits; another run's checkpoint is refused."""

import functools
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms, storage
from fedjaxlite.observers import records
from fedjaxlite.training import checkpoints
from fedjaxlite.training.identity import identity
from fedjaxlite.training.train import train

pytestmark = pytest.mark.usefixtures("no_pictures")

ROOT = Path(__file__).resolve().parents[2]
NUM_ROUNDS = 32

# Logistic regression, with state at the clients, in the server's optimizer and in the codecs' stream of keys.
PROGRAM = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 1)
import jax.numpy as jnp
import numpy as np
import optax
import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.training.train import train

def loss(params, batch, key):
    logits = batch["x"] @ params["w"] + params["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])

data, test = fl.datasets.load("synthetic", num_clients=20, num_features=8, num_classes=4)
algorithm = algorithms.fed_avg(
    loss, client_optimizer=optax.sgd(0.1), server_optimizer=optax.adam(0.01), batch_size=10
)
inner = algorithm.client_update

def counting(shared, client_state, data, key):
    return inner(shared, client_state, data, key)._replace(client_state=client_state + 1)

algorithm = algorithm._replace(init_client=lambda params: jnp.int32(0), client_update=counting)
chain = fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), fl.quantize(bits=12))
run = fl.rounds(algorithm, sampler=fl.sampling.uniform(4, dropout=0.2), aggregator=chain)
params = {"w": jnp.zeros((8, 4)), "b": jnp.zeros((4,))}
history = train(
    run, run.init(params, data, key=jax.random.key(1)), data, num_rounds=int(sys.argv[2]),
    evaluate=fl.evaluate(loss, test), evaluate_every=2, checkpoint_every=4,
    out_dir=sys.argv[1], resume=True, progress=False,
)
state = history.state
kept = (state.params, state.server_state, state.clients, state.sampler, state.versions)
np.savez(sys.argv[1] + "/final.npz", *jax.tree.leaves(kept))
"""

# The same with a server that does not wait: a kill finds clients at work, on models of different ages.
ASYNCHRONOUS = PROGRAM.replace(
    "sampler=fl.sampling.uniform(4, dropout=0.2)",
    """sampler=fl.systems.fed_buff(
    3, concurrency=6, service=fl.systems.service.exponential(60.0), grace=5.0,
    sampler=fl.sampling.uniform(6, dropout=0.2),
)""",
)


def start(folder: Path, program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-W", "error", "-c", program, str(folder), str(NUM_ROUNDS)], cwd=ROOT)


def final(folder: Path) -> list[np.ndarray]:
    with np.load(folder / "final.npz") as arrays:
        return [arrays[name] for name in arrays]


def lines_of(folder: Path) -> int:
    path = folder / "records.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize(
    ("times", "program"),
    [
        pytest.param(1, PROGRAM, id="1"),
        pytest.param(3, PROGRAM, id="3", marks=pytest.mark.slow),
        pytest.param(2, ASYNCHRONOUS, id="asynchronous", marks=pytest.mark.slow),
    ],
)
@pytest.mark.whole
def test_a_run_that_is_killed_ends_with_the_same_bits(tmp_path: Path, times: int, program: str) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    uninterrupted = None
    moments = random.Random(0)
    for kill in range(times):
        process = start(broken, program)
        # After some rounds more than before, and then anywhere: in a round, a record, an evaluation or a checkpoint.
        wanted = NUM_ROUNDS * (kill + 1) // 5
        while lines_of(broken) < wanted and process.poll() is None:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.03))
        assert process.poll() is None, "the run ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (broken / "final.npz").exists()
        if uninterrupted is None:  # not earlier: now everything is compiled, and lies in the cache
            uninterrupted = start(straight, program)
    assert start(broken, program).wait() == 0
    assert uninterrupted is not None
    assert uninterrupted.wait() == 0
    for a, b in zip(final(straight), final(broken), strict=True):
        np.testing.assert_array_equal(a, b)
    want, got = (records.read(folder / "records.jsonl") for folder in (straight, broken))
    assert [r["round"] for r in got] == list(range(1, NUM_ROUNDS + 1))
    timed = ("seconds", "elapsed")
    strip = lambda found: [{n: v for n, v in r.items() if n not in timed} for r in found]  # noqa: E731
    assert strip(want) == strip(got)
    if program == ASYNCHRONOUS:
        assert max(record["staleness_max"] for record in got) > 0
        assert all(a["simulated_seconds"] <= b["simulated_seconds"] for a, b in itertools.pairwise(got))
    assert sorted(int(p.name) for p in (broken / "checkpoints").iterdir()) == [NUM_ROUNDS - 4, NUM_ROUNDS]


def loss_fn(params, batch, key):
    return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


def people(num_clients: int = 6, seed: int = 0) -> fl.Population:
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(num_clients), 5)
    x = rng.normal(size=(len(owner), 3)).astype(np.float32)
    return fl.Population.from_arrays({"x": x, "y": x.sum(1)}, client_ids=owner)


def counting(rate: float = 0.1, epochs: int = 1) -> fl.Algorithm:
    """Federated averaging whose clients count their rounds."""
    algorithm = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(rate), batch_size=5, epochs=epochs)
    inner = algorithm.client_update

    def client_update(shared, client_state, data, key):
        return inner(shared, client_state, data, key)._replace(client_state=client_state + 1)

    return algorithm._replace(init_client=lambda params: jnp.int32(0), client_update=client_update)


PARAMS = {"w": np.zeros((3,), np.float32), "b": np.float32(0)}


@functools.cache
def composed(devices: int) -> fl.Rounds:
    """One run for many tests, so that it is compiled once."""
    execution = fl.Execution(devices=devices)
    return fl.rounds(counting(), sampler=fl.sampling.uniform(3), aggregator=fl.weighted_mean(), execution=execution)


def make(population, *, devices=1, key=1, params=PARAMS, **other):
    run = composed(devices)
    if other:
        parts = {"algorithm": run.algorithm, "sampler": run.sampler, "aggregator": run.aggregator, **other}
        run = fl.rounds(parts.pop("algorithm"), execution=run.execution, **parts)
    return run, run.init(params, population, key=jax.random.key(key))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with the first checkpoint of the default run."""
    folder, population = tmp_path_factory.mktemp("saved"), people()
    run, state = make(population)
    checkpoints.open_at(folder / "checkpoints", identity(run, state, population)).save(state)
    return folder


def assert_same_bits(a, b) -> None:
    plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(plain(x)), np.asarray(plain(y)))


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_whole_state_comes_back_in_its_layout(tmp_path, devices) -> None:
    population = people()
    run, state = make(population, devices=devices)
    done = train(run, state, population, num_rounds=4, out_dir=tmp_path, rounds_per_dispatch=1, progress=False).state
    run, fresh = make(population, devices=devices)
    back = checkpoints.open_at(tmp_path / "checkpoints", identity(run, fresh, population)).restore(fresh).state
    assert_same_bits(back, done)
    assert jax.random.key_impl(back.keys.noise) == jax.random.key_impl(fresh.keys.noise)
    # `init` drew another noise key; the checkpoint's goes on.
    assert jax.random.key_data(back.keys.noise).tolist() != jax.random.key_data(fresh.keys.noise).tolist()
    assert int(back.clients.algorithm.sum()) == 12
    assert back.clients.algorithm.sharding == done.clients.algorithm.sharding
    assert len(back.clients.algorithm.sharding.device_set) == devices
    assert_same_bits(run.step(back, population)[0], run.step(done, population)[0])


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"algorithm": counting(epochs=2)}, "algorithm.epochs is 2 and was 1"),
        ({"algorithm": counting()._replace(name="mine")}, "algorithm.name is mine and was fed_avg"),
        ({"sampler": fl.sampling.uniform(4)}, r"sampler.name is uniform\(4\) and was uniform\(3\)"),
        ({"aggregator": fl.mean()}, "aggregator.name is mean and was weighted_mean"),
        ({"key": 2}, "keys is .* and was "),
        (
            {"params": {**PARAMS, "b": np.zeros((1,), np.float32)}},
            r"params.*\['b'\] is float32\[1\] and was float32\[\]",
        ),
        ({"population": people(seed=1)}, "population.fingerprint is "),
        ({"population": people(7)}, "population.num_clients is 7 and was 6"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(saved, other, told) -> None:
    other = dict(other)
    population = other.pop("population", people())
    run, state = make(population, **other)
    with pytest.raises(ValueError, match=f"is of another run: .*{told}.*Go on with the same arguments, or"):
        train(run, state, population, num_rounds=2, out_dir=saved, progress=False, resume=True)


@pytest.mark.whole
def test_a_full_disk_while_saving_leaves_the_last_checkpoint(tmp_path, monkeypatch) -> None:
    import orbax.checkpoint as ocp

    population = people()
    run, state = make(population)
    save = ocp.Checkpointer.save

    def full(self, directory, *args, **kwargs):
        if "4.tmp" in str(directory):
            raise ValueError("RESOURCE_EXHAUSTED: Error writing leaf00000/0\nFailed")  # as Orbax says it
        return save(self, directory, *args, **kwargs)

    monkeypatch.setattr(storage, "WAITS", (0.0,))
    with monkeypatch.context() as patch:
        patch.setattr(ocp.Checkpointer, "save", full)
        with pytest.raises(
            OSError,
            match=r"round 4 could not be written to .*No space left.*The last whole checkpoint is that of round 2",
        ):
            train(run, state, population, num_rounds=6, out_dir=tmp_path, checkpoint_every=2, progress=False)
    run, state = make(population)
    history = train(
        run, state, population, num_rounds=6, out_dir=tmp_path, rounds_per_dispatch=2, progress=False, resume=True
    )
    assert [r["round"] for r in history.records] == [1, 2, 3, 4, 5, 6]
    assert [r["round"] for r in records.read(tmp_path / "records.jsonl")] == [1, 2, 3, 4, 5, 6]


FULL = """
import resource, signal, sys
sys.path.insert(0, "tests/training")
import jax
jax.config.update("jax_num_cpu_devices", 1)
import numpy as np
import orbax.checkpoint
import small_runs
run = small_runs.composed()
small_runs.PARAMS = {**small_runs.PARAMS, "noise": np.random.default_rng(0).normal(size=60_000).astype(np.float32)}
state = small_runs.begin()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
small_runs.train(run, state, small_runs.people(), num_rounds=2, out_dir=sys.argv[1], progress=False)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.whole
def test_a_first_checkpoint_that_does_not_fit_ends_in_the_error_that_says_so(tmp_path) -> None:
    """No file may grow beyond a limit, which the storage layer meets as it meets a full disk: within its threads."""
    # Under that limit the compiler's cache would be left with halves of programs.
    surroundings = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, "-c", FULL, tmp_path / "run"]
    done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 1
    # Threads of the storage layer may print of their own end after it.
    told = [line for line in done.stderr.splitlines() if line.startswith("fedjaxlite.storage.StorageError: ")]
    assert len(told) == 2, done.stderr  # what failed, and the last words
    assert "the checkpoint of round 2 could not be written to" in told[1]
    assert f"No checkpoint was made yet in '{tmp_path}/run/checkpoints'" in told[1]
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_checkpoints_are_readable_by_their_owner_only(saved) -> None:
    assert (saved / "checkpoints").stat().st_mode & 0o777 == 0o700


def test_empty_leaves_and_other_generators_are_kept(tmp_path) -> None:
    population = people()
    run, state = make(population, params={**PARAMS, "none": np.zeros((0, 3), np.float32)})
    state = state._replace(keys=state.keys._replace(noise=jax.random.key(5, impl="rbg")))
    kept = checkpoints.open_at(tmp_path, identity(run, state, population))
    kept.save(state)
    back = kept.restore(state).state
    assert_same_bits(back, state)
    assert str(jax.random.key_impl(back.keys.noise)) == "rbg"
