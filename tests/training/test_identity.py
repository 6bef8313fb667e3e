"""Identity: whatever decides about a run's numbers is named when a checkpoint is gone on from with another."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_runs
from helpers import some_often
from small_runs import begin, composed, counting, go, loss_fn, people

import fedjaxlite as fl
from fedjaxlite.training.fingerprint import fingerprint
from fedjaxlite.training.identity import programs, unlike

pytestmark = pytest.mark.usefixtures("no_pictures")

ONE = fl.Execution(devices=1)


def run_of(algorithm=None, sampler=None, aggregator=None, execution=ONE) -> fl.Rounds:
    parts = composed()
    return fl.rounds(
        algorithm or parts.algorithm,
        sampler=sampler or parts.sampler,
        aggregator=aggregator or parts.aggregator,
        execution=execution,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    go(folder, 2)
    return folder


def noisy(params, batch, key):
    return loss_fn(params, batch, key) + 0.001 * jax.random.normal(key, batch["y"].shape)


@pytest.mark.parametrize(
    ("make", "told"),
    some_often(
        [
            (lambda: run_of(counting(rate=0.2)), r"what clients compute .* where there was -0.1\)"),
            (lambda: run_of(counting(loss=lambda p, b, k: 7 * loss_fn(p, b, k))), "what clients compute"),
            (lambda: run_of(counting(loss=noisy)), "what clients compute"),
            (lambda: run_of(counting(server=optax.sgd(0.5))), "what the server computes"),
            (
                lambda: run_of(sampler=fl.sampling.uniform(3, dropout=0.9)),
                r"what the sampler draws .* 0.9 where there was 0.1",
            ),
        ],
        2,
    ),
    ids=["client rate", "loss", "loss with a key", "server rate", "dropout"],
)
def test_what_decides_about_numbers_is_refused_by_name_or_accepted(whole, tmp_path, caplog, make, told) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    run = make()
    with pytest.raises(ValueError, match=f"is of another run: .*{told}.*accept_changes=True"):
        go(folder, 4, run=run, resume=True)
    caplog.clear()
    assert len(go(folder, 4, run=run, resume=True, accept_changes=True).records) == 4
    assert "the run goes on with a change that was accepted: what" in caplog.text
    assert "changed = [" in (folder / "config.toml").read_text()
    caplog.clear()
    go(folder, 6, run=run, resume=True)  # from now on it is this run
    assert "accepted" not in caplog.text


def test_weights_of_a_sampler_are_part_of_it() -> None:
    one = run_of(sampler=fl.sampling.weighted(3, np.linspace(1, 2, 6)))
    two = run_of(sampler=fl.sampling.weighted(3, np.linspace(1, 3, 6)))
    found = [programs(run, begin(run), people())["sampler"]["digest"] for run in (one, one, two)]
    assert found[0] == found[1] != found[2]


def test_other_structure_is_refused_even_where_changes_are_accepted(whole) -> None:
    with pytest.raises(
        ValueError, match=r"sampler.name is uniform\(2\)\+dropout and was uniform\(3\)\+dropout"
    ) as error:
        go(whole, 4, run=run_of(sampler=fl.sampling.uniform(2, dropout=0.1)), resume=True, accept_changes=True)
    assert "accept_changes" not in str(error.value)


def test_accept_changes_without_a_resume_is_refused() -> None:
    with pytest.raises(ValueError, match="`accept_changes` is True without `resume`"):
        go(None, 2, accept_changes=True)


def test_names_and_ways_of_writing_do_not_count() -> None:
    def renamed(parameters, examples, random_key):
        prediction = examples["x"] @ parameters["w"] + parameters["b"]
        return (prediction - examples["y"]) ** 2

    one, two = run_of(), run_of(counting(loss=renamed))
    assert programs(one, begin(one), people()) == programs(two, begin(two), people())


def test_lanes_are_told_and_do_not_count(whole, tmp_path, caplog) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    go(folder, 4, run=run_of(execution=fl.Execution(devices=1, lanes=1)), resume=True)
    assert "the same up to rounding only, since lanes is 1 and was 2" in caplog.text
    with pytest.raises(ValueError, match="what clients compute"):  # also seen through other lanes
        run = run_of(counting(rate=0.3), execution=fl.Execution(devices=1, lanes=2))
        go(folder, 6, run=run, resume=True)


def test_a_program_that_differs_under_another_version_is_told_and_goes_on() -> None:
    run = run_of()
    new = {"program": programs(run, begin(run), people()), "settings": {}}
    old = {**new, "program": {**new["program"], "client": {"digest": "x", "numbers": []}}}
    assert len(unlike(new, old).changed) == 1
    old["program"] = {**old["program"], "versions": {**old["program"]["versions"], "jax": "0.1"}}
    found = unlike(new, old)
    assert (found.refused, found.changed) == ([], [])
    assert "what clients compute" in found.told[0]
    assert f"that may be since jax is {jax.__version__} and was 0.1" in found.told[0]


def test_switches_of_jax_are_part_of_it() -> None:
    run = run_of()
    new = {"program": programs(run, begin(run), people()), "settings": {"default_matmul_precision": "highest"}}
    old = {**new, "settings": {"default_matmul_precision": "None"}}
    assert unlike(new, old).changed == ["jax_default_matmul_precision is highest and was None"]


PROGRAM = """
import sys
sys.path.insert(0, "tests/training")
import jax
jax.config.update("jax_num_cpu_devices", 4)
import small_runs
from fedjaxlite.training.identity import identity
print(identity(small_runs.composed(), small_runs.begin(), small_runs.people())["program"])
"""


@pytest.mark.whole
def test_two_processes_agree() -> None:
    """Whatever the order of sets and the addresses of functions in each."""
    root = Path(__file__).resolve().parents[2]
    told = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], cwd=root, env={**os.environ, "PYTHONHASHSEED": seed}, text=True,
            capture_output=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(told) == 1
    assert "digest" in told.pop()


# --- fingerprints


def of(function, *args) -> str:
    return fingerprint([jax.make_jaxpr(function)(*args)]).digest


def scan(rate):
    return lambda x: jax.lax.scan(lambda c, _: (c * rate, None), x, length=3)[0]


def cond(rate):
    return lambda x: jax.lax.cond(x > 0, lambda y: y * rate, lambda y: y, x)


def loop(rate):
    return lambda x: jax.lax.while_loop(lambda c: c < 9, lambda c: c + rate, x)


def custom(rate):
    @jax.custom_jvp
    def scale(x):
        return x * rate

    scale.defjvp(lambda primals, tangents: (scale(*primals), tangents[0]))
    return scale


def array(rate):
    return lambda x: x + jnp.array([rate, 1.0, 2.0]).sum()


def key_of(rate):
    return lambda x: x + jax.random.normal(jax.random.key(int(rate * 10)))


@pytest.mark.parametrize("make", [scan, cond, loop, custom, array, key_of, lambda r: jax.jit(lambda x: x * r)])
def test_constants_are_found_at_any_depth(make) -> None:
    assert of(make(0.5), 1.0) == of(make(0.5), 1.0)
    assert of(make(0.5), 1.0) != of(make(0.6), 1.0)


def test_the_wiring_is_part_of_a_fingerprint() -> None:
    assert of(lambda x, y: x - y, 1.0, 2.0) != of(lambda x, y: y - x, 1.0, 2.0)
    assert of(lambda x, y: (x, y), 1.0, 2.0) != of(lambda x, y: (y, x), 1.0, 2.0)
    assert of(lambda x: x[1:], jnp.arange(3.0)) != of(lambda x: x[:-1], jnp.arange(3.0))


def test_the_client_is_not_traced_again(monkeypatch) -> None:
    """A fingerprint takes the programs that `init` has traced; templates are traced once by a whole training."""
    calls = {"client": 0, "chain": 0}
    inner, mean = counting(), fl.weighted_mean()

    def client_update(shared, client_state, data, key):
        calls["client"] += 1
        return inner.client_update(shared, client_state, data, key)

    def init(wire):
        calls["chain"] += 1
        return mean.init(wire)

    run = run_of(inner._replace(client_update=client_update), aggregator=mean._replace(init=init))
    state = begin(run)
    before = dict(calls)
    programs(run, state, people())
    assert calls == before
    small_runs.train(run, state, people(), num_rounds=1, rounds_per_dispatch=1, progress=False)
    assert calls["client"] == before["client"]
    assert calls["chain"] == before["chain"] + 1
