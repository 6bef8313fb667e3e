"""A client's program is what the simulator computes for that client: the same bits, in a file of a few kilobytes."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import programs
import pytest
from jax import export
from programs import SIZES, N, composed, model_of, people, program_of

import fedjaxlite as fl
from fedjaxlite import algorithms, deploy
from fedjaxlite.deploy.device import program as device
from fedjaxlite.deploy.program import client_program as making
from fedjaxlite.deploy.program.client_program import client_program

ROOT = Path(__file__).resolve().parents[3]


def held_together(model: str, method: str, chain: str) -> tuple[float, float]:
    rounds, params = composed(model, method, chain), model_of(model)[1]
    state, program = programs.simulated(rounds, params), program_of(model, method, chain)
    deployed, kept = programs.deployed(program, params, programs.here(program))
    own = [jax.tree.map(lambda leaf: leaf[client], state.clients) for client in range(N)]  # noqa: B023
    assert programs.difference(params, state.params) > 0.02
    apart = max(programs.difference(one, other) for one, other in zip(own, kept, strict=True))
    return programs.difference(state.params, deployed.params), apart


def test_two_rounds_of_programs_are_two_rounds_of_the_simulator() -> None:
    model, kept = held_together("logistic", "scaffold", "mean")
    assert (model, kept) == (0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("chain", sorted(programs.CHAINS))
@pytest.mark.parametrize("method", sorted(programs.METHODS))
@pytest.mark.parametrize("model", sorted(programs.MODELS))
def test_every_pair_of_rounds_of_programs_is_one_of_the_simulator(model, method, chain) -> None:
    apart, kept = held_together(model, method, chain)
    assert (apart, kept) == (0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(programs.METHODS))
def test_other_lanes_are_as_near_as_they_are_to_each_other(method) -> None:
    params = model_of("2nn")[1]
    state = programs.simulated(composed("2nn", method, "mean", lanes=3), params)
    program = program_of("2nn", method, "mean")
    deployed, _ = programs.deployed(program, params, programs.here(program))
    assert programs.difference(state.params, deployed.params) <= 1e-6


DEVICE = """
import importlib.abc, json, sys
import numpy as np

class Nowhere(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fedjaxlite", "algorithms", "privacy", "flax", "optax", "chex", "orbax", "sklearn"):
            raise AssertionError(f"a device has no {name}")

sys.meta_path.insert(0, Nowhere())
sys.path.insert(0, sys.argv[1])
from fedjaxlite_device.device import program as device

given = np.load(sys.argv[1] + "/given.npz")
manifest_lists = json.loads(given["lists"].tobytes())
program = device.load(sys.argv[1] + "/client.fjlp", sha256=manifest_lists["sha256"])
made = {}
for client in range(manifest_lists["clients"]):
    download = [given[f"download{i}"] for i in range(manifest_lists["download"])]
    features = {name: given[f"{name}{client}"] for name in program.manifest["features"]}
    result = device.run(program, download, None, features, len(features["x"]), given[f"key{client}"], client=client)
    made |= {f"message{client}/{i}": leaf for i, leaf in enumerate(result.message)}
    made |= {f"state{client}/{i}": leaf for i, leaf in enumerate(result.state)}
    made[f"finite{client}"] = np.bool_(result.finite)
np.savez(sys.argv[1] + "/made.npz", **made)
print(sorted(name.split(".")[0] for name in sys.modules))
"""


def on_a_device(folder: Path, program: deploy.ClientProgram, params) -> tuple[dict, list[str]]:
    """One round of every client in a process that has neither the library nor the algorithm's source."""
    room = folder / "fedjaxlite_device" / "device"
    room.mkdir(parents=True)
    for name in ("artifact", "program"):  # the two files that are needed to run it; joining a run takes the whole room
        text = (ROOT / "fedjaxlite" / "deploy" / "device" / f"{name}.py").read_text()
        (room / f"{name}.py").write_text(text.replace("fedjaxlite.deploy.device", "fedjaxlite_device.device"))
    (room / "__init__.py").touch()
    (room.parent / "__init__.py").touch()
    (folder / "join.py").write_text(DEVICE)
    program.save(folder / "client.fjlp")
    download = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    lists = {"sha256": program.sha256, "download": len(download), "clients": N}
    given = {"lists": np.frombuffer(json.dumps(lists).encode(), np.uint8)}
    given |= {f"download{i}": leaf for i, leaf in enumerate(download)}
    for client in range(N):
        given |= {f"{name}{client}": np.asarray(array) for name, array in people().client(client).items()}
        given[f"key{client}"] = np.uint32([3, client])
    np.savez(folder / "given.npz", **given)
    command = [sys.executable, "-I", str(folder / "join.py"), str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "made.npz") as made:
        return dict(made), done.stdout


def test_a_device_has_neither_the_library_nor_the_algorithms_source(tmp_path) -> None:
    program, params = program_of("logistic", "scaffold", "mean"), model_of("logistic")[1]
    algorithm = composed("logistic", "scaffold", "mean").algorithm
    shared = algorithm.broadcast(algorithm.init(params))
    made, loaded = on_a_device(tmp_path, program, shared)
    for name in ("fedjaxlite'", "optax", "flax", "chex"):
        assert f"'{name}" not in loaded
    for client in range(N):
        own = {name: np.asarray(array) for name, array in people().client(client).items()}
        message, state = program(shared, None, own, SIZES[client], jnp.uint32([3, client]), client)
        assert made[f"finite{client}"]
        for what, tree in (("message", message), ("state", state)):
            for i, leaf in enumerate(jax.tree.leaves(tree)):
                np.testing.assert_array_equal(made[f"{what}{client}/{i}"], np.asarray(leaf))


def test_the_file_of_the_digits_2nn_is_small_and_holds_no_source(monkeypatch) -> None:
    monkeypatch.setattr(making, "memory_of", lambda program, platforms: None)  # nothing is compiled
    program = client_program(composed("2nn", "fed_avg", "mean"), model_of("2nn")[1], people())
    assert len(program.artifact) < 50_000
    assert program.sha256 == device.load(program.artifact).sha256
    with zipfile.ZipFile(io.BytesIO(program.artifact)) as entries:
        data = entries.read("program.bin")
    assert device.calls_of(export.deserialize(bytearray(data))) == []
    assert len(data) < 50_000
    for trace in (b".py", b"/fedjaxlite", os.fsencode(Path.home()), b"site-packages"):
        assert trace not in data


def test_a_manifest_says_what_the_program_takes() -> None:
    program, params = program_of("logistic", "scaffold", "mean"), model_of("logistic")[1]
    told = program.manifest
    assert [told[name] for name in ("algorithm", "capacity", "masked", "noise")] == ["scaffold", 40, False, False]
    assert told["aggregator"] == "weighted_mean"
    assert told["hyperparameters"]["algorithm"]["client_lr"] == 0.1
    assert told["features"] == {"x": {"shape": [8, 8, 1], "dtype": "float32"}, "y": {"shape": [], "dtype": "int32"}}
    assert (told["steps"], told["platforms"]) == (4, ["cpu", "cuda", "tpu"])
    assert set(told["memory"]) == {"arguments", "outputs", "temporaries"}
    assert told["memory"]["arguments"] > 40 * 64 * 4
    sent = sum(int(np.prod(leaf["shape"])) * np.dtype(leaf["dtype"]).itemsize for leaf in told["message"])
    traffic = composed("logistic", "scaffold", "mean").traffic(params, people())
    assert sent == traffic.up
    down = sum(int(np.prod(leaf["shape"])) * np.dtype(leaf["dtype"]).itemsize for leaf in told["download"])
    assert down >= traffic.down
    masked = program_of("logistic", "fed_avg", "mask").manifest
    assert masked["masked"]
    assert masked["message"] == [{"path": "words", "shape": [651], "dtype": "uint32"}]  # 650 codes, and the weight
    assert masked["secure_sum"]["length"] == 651
    fl.privacy.secagg.parameters(**masked["secure_sum"])


def test_what_lies_beyond_the_examples_is_never_read() -> None:
    program, params = program_of("logistic", "scaffold", "mean"), model_of("logistic")[1]
    rounds = composed("logistic", "scaffold", "mean")
    down = [np.asarray(leaf) for leaf in jax.tree.leaves(rounds.algorithm.broadcast(rounds.algorithm.init(params)))]
    own = {name: np.asarray(array) for name, array in people().client(1).items()}
    buffers = {"zeros": [], "nan": []}
    for name in ("x", "y"):
        for fill in buffers:
            value = np.nan if fill == "nan" and name == "x" else (-(2**31) if fill == "nan" else 0)
            buffer = np.full((40, *own[name].shape[1:]), value, own[name].dtype)
            buffer[: SIZES[1]] = own[name]
            buffers[fill].append(buffer)
    last = (np.int32(SIZES[1]), np.uint32([1, 2]), np.int32(1), np.zeros(2, np.uint32))
    zeros, nan = (program.loaded.call(*down, *program.loaded.start, *buffers[fill], *last) for fill in buffers)
    for one, other in zip(zeros, nan, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_a_program_comes_back_from_its_file(tmp_path) -> None:
    program, params = program_of("logistic", "fed_avg", "mask"), model_of("logistic")[1]
    program.save(tmp_path / "client.fjlp")
    assert [path.name for path in tmp_path.iterdir()] == ["client.fjlp"]
    again = deploy.load_program(tmp_path / "client.fjlp", sha256=program.sha256)
    own = people().client(0)
    words, _ = program(params, None, own, SIZES[0], jax.random.key(1))
    (flat,), state = again(params, None, own, SIZES[0], jax.random.key(1))
    np.testing.assert_array_equal(words, flat)
    assert (words.dtype, words.ndim, state) == (np.uint32, 1, [])
    with pytest.raises(deploy.ProgramRefused, match="was expected: it is another program"):
        deploy.load_program(program.artifact, sha256="0" * 64)


def square(params, batch, key):
    return (params - batch["x"]) ** 2 / 2


SPEC = deploy.DataSpec({"x": ((), np.float32)}, num_clients=9, capacity=4)


def run(algorithm=None, aggregator=None, **changes) -> fl.Rounds:
    step = {"client_optimizer": optax.sgd(1.0), "batch_size": None, "epochs": 1}
    algorithm = algorithms.fed_avg(square, **step) if algorithm is None else algorithm
    parts = {"sampler": fl.sampling.uniform(2), "aggregator": fl.mean() if aggregator is None else aggregator}
    return fl.rounds(algorithm, **{**parts, **changes})


def test_an_evaluation_is_that_of_the_simulator() -> None:
    data = fl.Population.from_arrays({"x": np.float32([1, 2, 3, 5])}, client_ids=[0, 0, 0, 1])
    program = client_program(run(), jnp.float32(0), data, evaluate=square)
    assert program.manifest["evaluation"] == ["loss"]
    report = fl.evaluate_clients(square, data)(jnp.float32(1))
    found = [program.evaluate(jnp.float32(1), None, data.client(i), int(data.num_examples[i]))["loss"] for i in (0, 1)]
    np.testing.assert_array_equal(found, np.asarray(report.metrics["loss"], np.float64))


def test_an_update_that_is_not_finite_sends_nothing_and_keeps_the_state() -> None:
    program = client_program(run(), jnp.float32(0), SPEC)
    message, _ = program(jnp.float32(0), None, {"x": np.float32([np.nan, 1])}, 2, jax.random.key(0))
    assert float(message.value) == float(message.weight) == 0.0


def calls_home(params, batch, key):
    jax.debug.print("{}", params)
    return square(params, batch, key)


def asks_the_host(params, batch, key):
    told = jax.pure_callback(
        lambda x: np.asarray(x), jax.ShapeDtypeStruct((), jnp.float32), jax.lax.stop_gradient(params)
    )
    return square(params, batch, key) + told


def of_this_machine(params, batch, key):
    call = jax.ffi.ffi_call("of_this_machine", jax.ShapeDtypeStruct((), jnp.float32))
    return square(params, batch, key) + call(jax.lax.stop_gradient(params))


def with_loss(loss) -> fl.Rounds:
    return run(algorithms.fed_avg(loss, client_optimizer=optax.sgd(1.0), batch_size=None, epochs=1))


@pytest.mark.parametrize(
    ("rounds", "text"),
    [
        (
            lambda: with_loss(calls_home),
            r"fed_avg with .*mean.* calls back into Python \(debug_print\), .*jax.debug.print",
        ),
        (lambda: with_loss(asks_the_host), r"calls back into Python \(pure_callback\), and a device has no Python"),
        (lambda: with_loss(of_this_machine), "cannot be exported for cpu, cuda, tpu: .*of_this_machine.*platforms="),
        (
            lambda: run(fl.attacks.sign_flip(run().algorithm, [0])),
            r"sign_flip\(fed_avg\) holds an attack \(`bad` clients\), .* attacks are measured in simulation",
        ),
        (
            lambda: run(aggregator=fl.chain(fl.mean(), fl.attacks.ipm([0]), fl.robust.median())),
            "ipm holds an attack",
        ),
        (
            lambda: run(algorithms.scaffold(square, client_lr=0.1, num_clients=7, batch_size=None, epochs=1)),
            "scaffold was made with num_clients=7, and the data have 9 clients. Make it with num_clients=9",
        ),
    ],
)
def test_what_a_device_cannot_run_says_why(rounds, text) -> None:
    with pytest.raises(ValueError, match=text):
        client_program(rounds(), jnp.float32(0), SPEC)


def test_arguments_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`platforms` is \(\); expected one or several of"):
        client_program(run(), jnp.float32(0), SPEC, platforms=())
    with pytest.raises(ValueError, match="`platforms` is 'gpu'"):
        client_program(run(), jnp.float32(0), SPEC, platforms=("gpu",))
    with pytest.raises(ValueError, match="`metrics` are given and `evaluate` is None"):
        client_program(run(), jnp.float32(0), SPEC, metrics=[fl.metrics.accuracy()])
    with pytest.raises(ValueError, match="`params` are shapes, and what clients of scaffold with .* keep at first"):
        scaffold = algorithms.scaffold(square, client_lr=0.1, num_clients=9, batch_size=None, epochs=1)
        client_program(run(scaffold), jax.ShapeDtypeStruct((), jnp.float32), SPEC)
    with pytest.raises(ValueError, match="takes part as one more client|server take part as one more client"):
        data = fl.Population.from_arrays({"x": np.float32([1, 2])}, client_ids=[0, 1])
        served = fl.robust.server_client(data, fl.sampling.uniform(1), {"x": np.float32([4])})
        client_program(run(sampler=served.sampler), jnp.float32(0), served.population)


def test_without_flatbuffers_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fedjaxlite\[deploy\]'"):
        client_program(run(), jnp.float32(0), SPEC)


ELSEWHERE = """
import sys
sys.path[:0] = sys.argv[1:4]
import test_exported_program as tests
print(tests.client_program(tests.run(), tests.jnp.float32(0), tests.SPEC, evaluate=tests.square).sha256)
"""


@pytest.mark.slow
def test_equal_programs_are_equal_bytes_in_every_process(tmp_path) -> None:
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    here = Path(__file__).parent
    command = [sys.executable, str(tmp_path / "elsewhere.py"), str(ROOT), str(here), str(here.parent)]
    environment = {**os.environ, "PYTHONHASHSEED": "17"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == client_program(run(), jnp.float32(0), SPEC, evaluate=square).sha256
