"""The benchmark suite at sizes that say nothing about speed: it runs, and compares like with like."""

import ast
import contextlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import some_often

import fedjaxlite as fl
from fedjaxlite.benchmarks import contenders, peers, report, suite, timing
from fedjaxlite.benchmarks.limits import loops
from fedjaxlite.benchmarks.peers import entry, environments, jax_model, libraries
from fedjaxlite.benchmarks.problem import batches
from fedjaxlite.benchmarks.wire import codecs
from fedjaxlite.benchmarks.workloads import WORKLOADS, w3_ragged, w5_cifar

LIMITS = Path(loops.__file__).parent


def problem_of(name):
    # Dropout draws other units in each program: without it, they are the same function.
    return w5_cifar.build("tiny", dropout=(0.0, 0.0)) if name == "w5" else WORKLOADS[name].build("tiny")


@pytest.mark.parametrize("name", some_often(WORKLOADS, 2))
def test_the_limits_take_the_gradient_that_ours_takes(name) -> None:
    problem = problem_of(name)
    batch = {key: jnp.asarray(array[problem.rows[0]]) for key, array in problem.population.features.items()}
    mask = jnp.ones((problem.batch_size,), bool)
    key = jax.random.key(0)

    def all_three(params):
        ours, gradient = fl.value_and_grad(problem.loss_fn)(params, {**batch, "mask": mask}, mask, key)
        limits = [
            jax.value_and_grad(loss)(problem.to_limit(params), batch, key)
            for loss in (problem.plain_loss, problem.fast_loss)
        ]
        return (ours.loss, problem.to_limit(gradient)), *limits

    quick_to_compile = {"xla_backend_optimization_level": 0}
    ours, plain, fast = jax.jit(all_three, compiler_options=quick_to_compile)(problem.params)
    assert 0.5 < float(ours[0]) < 10
    for limit in (plain, fast):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, limit)


@pytest.mark.parametrize("name", ["w4"])
def test_users_models_have_the_gradient_of_the_plain_limit(name) -> None:
    problem = problem_of(name)
    batch = {key: jnp.asarray(array[problem.rows[0]]) for key, array in problem.population.features.items()}
    mask = jnp.ones((problem.batch_size,), bool)
    for written in problem.written.values():

        def both(params, written=written):
            ours, gradient = fl.value_and_grad(written.loss_fn)(
                params, {**batch, "mask": mask}, mask, jax.random.key(0)
            )
            plain = jax.value_and_grad(problem.plain_loss)(written.to_limit(params), batch, None)
            return (ours.loss, written.to_limit(gradient)), plain

        ours, plain = jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})(written.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, plain)


def test_the_limits_import_raw_jax_only() -> None:
    for path in LIMITS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {n.split(".")[0] for n in names} <= {"jax", "numpy", "typing", "collections"}, path.name


@pytest.mark.whole
def test_one_command_measures_prints_and_writes(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(suite, "no_compilation_cache", contextlib.nullcontext)
    found = suite.main(["w6"], "tiny", tmp_path / "out", 2)
    (result,) = found["workloads"]
    assert json.loads((tmp_path / "out" / "bench.json").read_text()) == found
    assert (tmp_path / "out" / "bench.png").stat().st_size > 10_000
    assert result["steps_a_round"] == result["programs"]["plain"]["steps"] == 6
    assert result["clients_a_round"] == 6
    assert set(result["ours_over"]) == {"plain", "fastest", "population of 6"}
    for ratio in result["ours_over"].values():
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
    assert result["memory"]["resident_peak"] > 1e7
    assert found["machine"]["packages"]["jax"] == jax.__version__
    printed = capsys.readouterr()
    assert "6 of 60" in printed.out
    assert "JAX has started already" in printed.err or jax.device_count() == found["machine"]["cores"]


def test_a_terminal_gets_the_same_table(capsys) -> None:
    ratio = {"median": 1.5, "low": 1.25, "high": 2.0}
    result = {
        "name": "w9", "title": "toy", "clients_a_round": 2, "num_clients": 3, "steps_a_round": 4, "batch_size": 5,
        "rounds_per_second": 1.0, "client_steps_per_second": 4.0, "compile_seconds": 0.5, "companions": [],
        "memory": {"resident_peak": 10**6, "device_peak": None}, "programs": {"ours": {"lanes": 1, "devices": 2}},
        "ours_over": {"plain": ratio, "fastest": ratio}, "written_over_plain": {"by hand": ratio},
    }  # fmt: skip
    machine = {
        "packages": {"jax": "0"}, "commit": None, "cpu": "abacus", "cores": 1, "devices": [""], "backend": "cpu",
        "python": "3", "date": "today", "load_average": None, "load_average_at_the_end": None,
    }  # fmt: skip
    found = {"workloads": [result], "machine": machine, "repeats": 2, "size": "tiny"}
    written: list[str] = []
    report.table(found, SimpleNamespace(isatty=lambda: True, write=written.append, flush=lambda: None))
    report.table(found)
    plain = capsys.readouterr().out
    for text in ("w9 toy", "1.50 (1.25-2.00)", "abacus", "by hand 1.50 (1.25-2.00)"):
        assert text in plain
    assert "w9" in "".join(written)
    assert "abacus" in "".join(written)


def test_codecs_are_measured_beside_a_copy(tmp_path) -> None:
    told: list[str] = []
    found = codecs.main(tmp_path / "out", 2, "tiny", ["sign", "k_level:16"], told.append)
    assert json.loads((tmp_path / "out" / "codecs.json").read_text()) == found
    (measured,) = found["sizes"].values()
    assert list(measured) == ["sign", "k_level:16"]
    for name, bits in [("sign", 1), ("k_level:16", 4)]:
        one = measured[name]
        assert bits < one["bits"] < bits + 0.5, "packed, and a little beside them"
        assert 0 < one["both"] < one["encode"]
        assert one["share"] > 0
        assert one["copy"] > 0
    assert len(told) == 3


def test_unlike_work_is_not_compared() -> None:
    problem = WORKLOADS["w3"].build("tiny")
    clients = {"in_sum": np.array([True, True]), "local_steps": np.array([2, problem.num_steps - 2])}
    info = fl.PassInfo(2, 2, 0, 20, 0, {}, clients)
    assert contenders.check_steps(info, problem, "w3") == problem.num_steps
    with pytest.raises(RuntimeError, match="w3: the round took 2 local steps and its limits take"):
        contenders.check_steps(info._replace(clients={**clients, "in_sum": np.array([True, False])}), problem, "w3")
    with pytest.raises(RuntimeError, match="1 clients became NaN and 2 of 2 reported"):
        contenders.check_steps(info._replace(num_nonfinite=1), problem, "w3")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"workloads": ["w1", "w7"]}, ValueError, r"`workloads` is \['w1', 'w7'\]; expected names of w1, w2"),
        ({"workloads": []}, ValueError, r"`workloads` is \[\]"),
        ({"size": "huge"}, ValueError, "size"),
        ({"repeats": 0}, ValueError, "repeats"),
    ],
)
def test_what_is_not_understood_is_refused(arguments, error, text) -> None:
    with pytest.raises(error, match=text):
        suite.main(**arguments)


def test_turns_are_taken_in_order() -> None:
    order: list[str] = []
    times = timing.take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_batches_hold_every_example_once_and_are_filled_up() -> None:
    offsets = np.array([0, 3, 10, 11])
    rows = batches(offsets, [1, 2], 4)
    assert rows.shape == (3, 4)
    assert sorted(rows[:2].ravel()[:7]) == list(range(3, 10))
    assert rows[1, 3] == rows[0, 0]
    assert rows[2].tolist() == [10] * 4


def test_chains_have_all_batches_and_equal_lengths() -> None:
    rows = np.arange(7)[:, None]
    assert loops.chains(rows, 2, 2).ravel().tolist() == [0, 1, 2, 3, 4, 5, 6, 0]
    assert loops.chains(rows, 2, 2).shape == (2, 2, 2, 1)
    assert contenders.steps_of_fastest(SimpleNamespace(num_steps=7), contenders.Setting(2, 2)) == 8


def test_ragged_sizes_are_as_told() -> None:
    sizes = w3_ragged.lognormal_sizes(500, 1000)
    assert (len(sizes), int(np.median(sizes)), sizes.max(), sizes.min()) == (500, 20, 1000, 1)


# A peer without a library: federated averaging of the dense models in numpy, as stand-alone as the real ones.
NUMPY_PEER = """
import numpy as np


def run(work):
    from entry import timed

    layers, steps = work.layers, 0

    def gradients(layers, x, y):
        inputs = [x.reshape(len(x), -1)]
        for kernel, bias in layers[:-1]:
            inputs.append(np.maximum(inputs[-1] @ kernel + bias, 0))
        logits = inputs[-1] @ layers[-1][0] + layers[-1][1]
        back = np.exp(logits - logits.max(1, keepdims=True))
        back = back / back.sum(1, keepdims=True)
        back[np.arange(len(y)), y] -= 1
        back, found = back / len(y), []
        for (kernel, _), values in zip(layers[::-1], inputs[::-1]):
            found.append((values.T @ back, back.sum(0)))
            back = (back @ kernel.T) * (values > 0)
        return found[::-1]

    def one_round():
        nonlocal layers, steps
        steps, total = 0, [(0 * kernel, 0 * bias) for kernel, bias in layers]
        for client in range(work.num_clients):
            x, y = work.client(client)
            mine = layers
            for first in range(0, len(y), work.batch_size):
                rows = slice(first, first + work.batch_size)
                found = gradients(mine, x[rows], y[rows])
                rate = work.learning_rate
                mine = [(k - rate * dk, b - rate * db) for (k, b), (dk, db) in zip(mine, found)]
                steps += 1
            share = len(y) / len(work.y)
            total = [(a + share * k, c + share * b) for (a, c), (k, b) in zip(total, mine)]
        layers = total

    seconds = timed(one_round, work.rounds)
    print("what a library prints is no answer")
    return {"seconds": seconds, "steps": steps EXTRA, "layers": layers, "packages": ["numpy"]}
"""


@pytest.fixture
def numpy_peer(tmp_path, monkeypatch):
    """`numpy_peer(extra)` puts the library "fake" in place of all others; `extra` changes what it says of its steps."""

    def install(extra: str = "") -> None:
        program = tmp_path / "fake_rounds.py"
        program.write_text(NUMPY_PEER.replace("EXTRA", extra))
        fake = libraries.Peer("Fake", ("numpy",), program, ("slow", "fast"))
        monkeypatch.setattr(peers, "PEERS", {"fake": fake})

    monkeypatch.setenv("FEDJAXLITE_PEER_FAKE", sys.executable)
    monkeypatch.setattr(suite, "no_compilation_cache", contextlib.nullcontext)
    return install


@pytest.mark.whole
def test_a_library_is_run_checked_and_reported(numpy_peer, tmp_path, capsys) -> None:
    numpy_peer()
    found = suite.main(["w3"], "tiny", tmp_path / "out", 2, ["fake"])
    (ragged,) = found["workloads"]
    run = ragged["peers"]["fake"]
    assert run["steps"] == run["padded"] == ragged["steps_a_round"]
    assert run["packages"] == {"numpy": np.__version__}
    assert set(run["trials"]) == {"slow", "fast"}
    assert run["variant"] in run["trials"]
    assert len(run["all_seconds"]) == 2
    assert 0 < run["ours_over"]["low"] <= run["ours_over"]["median"] <= run["ours_over"]["high"]
    assert run["loss"] < run["first_loss"]
    assert abs(run["loss"] - run["our_loss"]) < 0.2 * (run["first_loss"] - run["our_loss"])
    assert json.loads((tmp_path / "out" / "bench.json").read_text()) == found
    printed = capsys.readouterr().out
    assert "time / Fake" in printed.splitlines()[0]
    assert "w3: Fake (" in printed


@pytest.mark.whole
def test_a_library_that_fails_is_told_after_the_rest(numpy_peer, tmp_path, capsys) -> None:
    numpy_peer("- 1")
    with pytest.raises(
        RuntimeError, match=r"w3: a round of Fake took \d+ local steps and ours takes \d+; times of unlike"
    ):
        suite.main(["w3"], "tiny", tmp_path / "out", 1, ["fake"])
    (result,) = json.loads((tmp_path / "out" / "bench.json").read_text())["workloads"]
    assert set(result["peers"]["fake"]) == {"title", "error"}
    assert "w3: Fake failed" in capsys.readouterr().out


def test_a_program_that_ends_with_an_error_is_quoted(numpy_peer) -> None:
    numpy_peer("* undefined")
    text = r"the program of fake ended with exit code 1:(.|\n)*NameError.*undefined(.|\n)*It ran in "
    with pytest.raises(RuntimeError, match=text):
        peers.run("fake", Path(sys.executable), peers.work_of(WORKLOADS["w3"].build("tiny"), 1))


def test_a_variant_that_takes_too_long_cannot_win(monkeypatch) -> None:
    asked = []

    def run(name, python, work, timeout=None):
        asked.append((work.variant, work.rounds))
        if work.variant == "slow":
            raise peers.TooSlow("slow")
        return {"seconds": [2.0, 1.0], "variant": work.variant}

    fake = libraries.Peer("Fake", ("numpy",), Path("x.py"), ("fine", "slow"))
    monkeypatch.setattr(peers, "PEERS", {"fake": fake})
    monkeypatch.setattr(peers, "run", run)
    found = peers._fastest("fake", Path("python"), peers.work_of(WORKLOADS["w3"].build("tiny"), 3))
    assert asked == [("fine", 1), ("slow", 1), ("fine", 3)]
    assert found == {"seconds": [2.0, 1.0], "variant": "fine", "trials": {"fine": 1.0}}


def test_other_work_is_not_compared() -> None:
    peers.check("Fake", "w1", {"steps": 4, "loss": 1.01}, 4, 1.0, 2.0)
    with pytest.raises(RuntimeError, match="w1: Fake trained from a loss of 2.0000 to 1.7000, ours to 1.0000"):
        peers.check("Fake", "w1", {"steps": 4, "loss": 1.7}, 4, 1.0, 2.0)
    with pytest.raises(RuntimeError, match="to nan"):
        peers.check("Fake", "w1", {"steps": 4, "loss": float("nan")}, 4, 1.0, 2.0)


def test_an_answer_that_is_none_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(peers, "PEERS", {"fake": libraries.Peer("Fake", ("numpy",), tmp_path / "x.py", ("only",))})
    monkeypatch.setattr(peers, "_call", lambda command, env, timeout: (0, "hello\n", ""))
    work = peers.work_of(WORKLOADS["w3"].build("tiny"), 1)
    with pytest.raises(RuntimeError, match=r"the program of fake printed 'hello\\n'; expected a line of JSON"):
        peers.run("fake", Path(sys.executable), work)
    monkeypatch.setattr(peers, "_call", lambda command, env, timeout: (None, "", ""))
    with pytest.raises(RuntimeError, match="the program of fake ran for more than 3600 s, and was ended"):
        peers.run("fake", Path(sys.executable), work)


@pytest.mark.parametrize("name", peers.WORKLOADS)
def test_libraries_get_the_model_of_the_workload(name, tmp_path) -> None:
    problem = WORKLOADS[name].build("tiny")
    work = peers.work_of(problem, 3)
    entry.write(tmp_path / "work.npz", work._replace(variant="some"))
    again = entry.read(tmp_path / "work.npz")
    assert (again.rounds, again.variant, again.num_clients) == (3, "some", problem.population.num_clients)
    batch = {"x": jnp.asarray(again.x), "y": jnp.asarray(again.y)}
    loss = jax_model.loss_of(again.num_convs)

    def both(params, layers):
        return problem.plain_loss(problem.to_limit(params), batch, None), loss(layers, batch["x"], batch["y"])

    ours, theirs = jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})(problem.params, again.layers)
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    np.testing.assert_allclose(entry.mean_loss(again.layers, again.num_convs, again.x, again.y), ours, rtol=1e-5)


def test_programs_of_libraries_do_not_import_this_one() -> None:
    for path in Path(peers.__file__).parent.glob("*.py"):
        if path.name in ("__init__.py", "environments.py", "libraries.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert "fedjaxlite" not in {n.split(".")[0] for n in names}, path.name


@pytest.mark.parametrize(
    ("names", "workloads", "text"),
    [
        (["fedjax", "fate"], ["w1"], r"`peers` is \['fedjax', 'fate'\]; expected names of fedjax, flower, pfl"),
        ([], ["w1"], r"`peers` is \[\]"),
        (["fedjax"], ["w4"], r"`peers` run the workloads w1, w2, w3, and `workloads` is \['w4'\]"),
    ],
)
def test_libraries_that_are_not_there_are_refused(names, workloads, text) -> None:
    with pytest.raises(ValueError, match=text):
        suite.main(workloads, "tiny", None, 1, names)


def test_a_python_that_is_not_there_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("FEDJAXLITE_PEER_FEDJAX", "/nowhere/python")
    with pytest.raises(FileNotFoundError, match="FEDJAXLITE_PEER_FEDJAX is '/nowhere/python'; expected a Python"):
        environments.python_of("fedjax", ("fedjax==0.0.17",), print)


def test_an_environment_is_made_once_and_anew_for_other_requirements(tmp_path, monkeypatch) -> None:
    commands, said = [], []

    def called(command, **options):
        commands.append(command)
        (tmp_path / "peers" / "fake").mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(returncode=0, stderr="", stdout="")

    monkeypatch.setenv("FEDJAXLITE_CACHE", str(tmp_path))
    monkeypatch.setattr(environments.subprocess, "run", called)
    python = environments.python_of("fake", ("a==1",), said.append)
    assert python.is_relative_to(tmp_path / "peers" / "fake")
    assert environments.python_of("fake", ("a==1",), said.append) == python
    assert len(commands) == 2
    assert said == [f"fake: making an environment in {tmp_path / 'peers' / 'fake'} with a==1; once, it downloads them"]
    environments.python_of("fake", ("a==2",), said.append)
    assert commands[-1][-1] == "a==2"


def test_an_environment_that_cannot_be_made_says_what_to_do(tmp_path, monkeypatch) -> None:
    def called(command, **options):
        failed = "pip" in command
        return SimpleNamespace(returncode=int(failed), stderr="no such version" if failed else "", stdout="")

    monkeypatch.setenv("FEDJAXLITE_CACHE", str(tmp_path))
    monkeypatch.setattr(environments.subprocess, "run", called)
    with pytest.raises(RuntimeError) as caught:
        environments.python_of("fake", ("a==1",), lambda line: None)
    for text in ("the environment of fake cannot be made in", "no such version", "FEDJAXLITE_PEER_FAKE=", "a==1"):
        assert text in str(caught.value)
    assert not (tmp_path / "peers" / "fake").exists()
