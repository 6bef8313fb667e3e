"""The benchmark suite at sizes that say nothing about speed: it runs, and compares like with like."""

import ast
import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.benchmarks import contenders, report, suite, timing
from fedjaxlite.benchmarks.limits import loops
from fedjaxlite.benchmarks.problem import batches
from fedjaxlite.benchmarks.workloads import WORKLOADS, w3_ragged, w5_cifar

LIMITS = Path(loops.__file__).parent


def problem_of(name):
    # Dropout draws other units in each program: without it, they are the same function.
    return w5_cifar.build("tiny", dropout=(0.0, 0.0)) if name == "w5" else WORKLOADS[name].build("tiny")


@pytest.mark.parametrize("name", WORKLOADS)
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


def test_the_limits_import_raw_jax_only() -> None:
    for path in LIMITS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {n.split(".")[0] for n in names} <= {"jax", "numpy", "typing", "collections"}, path.name


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
        "ours_over": {"plain": ratio, "fastest": ratio},
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
    for text in ("w9 toy", "1.50 (1.25-2.00)", "abacus"):
        assert text in plain
    assert "w9" in "".join(written)
    assert "abacus" in "".join(written)


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
