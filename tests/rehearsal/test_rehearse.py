"""A rehearsal from end to end, with this machine's CPU in place of the accelerator; and with compilers, where they are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from typer.testing import CliRunner

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.cli.app import app
from fedjaxlite.execution.layout import resolve
from fedjaxlite.rehearsal import absent, programs, rehearse
from fedjaxlite.rehearsal.targets import target_named

PARAMS = {"w": jax.ShapeDtypeStruct((6, 4), jnp.float32)}
SIZES = (3, 12, 5, 20, 7, 1)


def loss_fn(params, batch, key):
    return ((batch["x"] @ params["w"]) ** 2).sum(-1)


def population(sizes=SIZES) -> fl.Population:
    x = np.ones((sum(sizes), 6), np.float32)
    return fl.Population.from_arrays({"x": x}, np.repeat(np.arange(len(sizes)), sizes))


# One batch holds the largest client: without a permutation compiling takes half the time.
PLAIN = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(0.1), batch_size=20, epochs=1)
RAGGED = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(0.1), batch_size=5, epochs=1)


def make(algorithm=PLAIN, **execution):
    return fl.rounds(
        algorithm,
        sampler=fl.sampling.full(len(SIZES)),
        aggregator=fl.weighted_mean(),
        execution=fl.Execution(**execution),
    )


@pytest.fixture
def here(monkeypatch) -> None:
    """CPU devices stand in for those of a target."""
    monkeypatch.setattr(rehearse, "devices_of", lambda target: tuple(jax.devices()[: target.num_devices]))


def with_memory(monkeypatch, usable: int) -> None:
    """GPUs that leave so many bytes to programs."""
    named = lambda name: (t := target_named(name))._replace(chip=t.chip._replace(memory=usable * 4 // 3 + 1))  # noqa: E731
    monkeypatch.setattr(rehearse, "target_named", named)


@pytest.mark.usefixtures("here")
def test_a_plan_with_a_target_compiles_and_runs_nothing() -> None:
    costs = fl.plan(make(RAGGED, lanes=2), PARAMS, population(), num_rounds=10, target="h100")
    found = costs.rehearsal
    assert found is not None
    (trial,) = found.trials
    assert (costs.lanes, costs.probes, found.num_devices) == (2, (), 1)
    assert trial.length is not None
    assert (trial.length.steps, trial.length.turns) == (4 + 2 + 1, 3)
    # Forward and by the weights: the gradient by the examples is nobody's.
    assert trial.flops.default == 7 * 2 * 2 * (2 * 5 * 6 * 4)
    assert trial.memory is not None
    assert trial.over(found.target) == 0
    told = str(costs)
    assert "1 x NVIDIA H100 80GB HBM3, compiled for and not run on" in told
    assert "7 steps one after another in 3 turns, an even split is 6" in told
    assert "by XLA's own account" in told
    assert "10 rounds: at least" in told
    assert "not known to the compiler" in told


@pytest.mark.usefixtures("here")
def test_the_memory_is_the_compilers_own() -> None:
    found = rehearse.rehearse(make(lanes=3), PARAMS, population(), target="2xh100").trials[0]
    execution = fl.Execution(lanes=3, devices=2)
    layout = resolve(execution, len(SIZES))
    run = make(lanes=3, devices=2)
    lowered = programs.lowered(run, programs.first_shapes(run, PARAMS, population()), population(), layout)
    told = lowered.compile().memory_analysis()
    assert found.memory is not None
    assert found.memory.arguments == told.argument_size_in_bytes
    assert found.memory.output == told.output_size_in_bytes
    assert found.memory.total >= found.memory.arguments + found.memory.output


@pytest.mark.usefixtures("here")
@pytest.mark.whole
def test_devices_meet_once_a_round() -> None:
    found = rehearse.rehearse(make(), PARAMS, population(), target="4xh100")
    assert found.num_devices == 4
    assert sum(each.num_bytes for each in found.trials[0].collectives) >= 6 * 4 * 4
    few = rehearse.rehearse(make(devices=2), PARAMS, population(), target="4xh100")
    assert few.num_devices == 2


@pytest.mark.usefixtures("here")
@pytest.mark.whole
def test_each_number_of_lanes_that_was_asked_for_is_compiled() -> None:
    costs = fl.plan(make(), PARAMS, population(), target="h100", lanes_options=[4, 1, 100])
    assert costs.rehearsal is not None
    assert [trial.lanes for trial in costs.rehearsal.trials] == [1, 4, 6]  # no more than clients
    assert costs.lanes in (1, 4, 6)


@pytest.mark.usefixtures("here")
def test_client_states_are_shapes_too() -> None:
    scaffold = algorithms.scaffold(loss_fn, client_lr=0.1, batch_size=20, epochs=1, num_clients=len(SIZES))
    found = rehearse.rehearse(make(scaffold), PARAMS, population(), target="2xh100")
    assert found.state_bytes >= (len(SIZES) + 2) * 6 * 4 * 4


@pytest.mark.usefixtures("here")
def test_nothing_has_to_fit_into_this_machine() -> None:
    rows, wide = 10**9, 10**7
    shapes = (
        {"w": jax.ShapeDtypeStruct((wide, 4), jnp.float32)},
        fl.Population.tree_unflatten(
            10**4,
            ({"x": jax.ShapeDtypeStruct((rows, wide), jnp.float32)}, jax.ShapeDtypeStruct((10**6 + 1,), jnp.int32)),
        ),
    )
    run = make(lanes=2)._replace(sampler=fl.sampling.uniform(10))
    run = fl.rounds(
        run.algorithm, sampler=fl.sampling.uniform(10), aggregator=fl.weighted_mean(), execution=run.execution
    )
    state = programs.first_shapes(run, *shapes)
    assert jax.tree.leaves(state.server_state)[0].shape == (wide, 4)


@pytest.mark.usefixtures("here")
@pytest.mark.whole
def test_a_round_that_is_too_large_says_how_many_lanes_fit(monkeypatch) -> None:
    run = make(lanes=3)
    few, many = rehearse.rehearse(run, PARAMS, population(), target="h100", lanes_options=[2, 3]).trials
    assert few.memory is not None
    assert many.memory is not None
    assert few.memory.total < many.memory.total
    with_memory(monkeypatch, (few.memory.total + many.memory.total) // 2)
    found = rehearse.rehearse(run, PARAMS, population(), target="h100")
    most = max(trial.lanes for trial in found.fitting)
    assert most == 2
    assert f"{most} lanes fit: fl.Execution(lanes={most})" in str(found)
    assert "3 lanes would need" in str(found)
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" in str(found)


@pytest.mark.parametrize(
    ("usable", "remedy"),
    [
        (150, r"The state alone is \d+ B, .*take a larger device"),
        (900, r"Most of it is the data, \d.*prepare_cohort"),
    ],
)
@pytest.mark.usefixtures("here")
@pytest.mark.whole
def test_where_no_lane_fits_it_says_what_to_do(monkeypatch, usable, remedy) -> None:
    with_memory(monkeypatch, usable)
    costs = fl.plan(make(lanes=2), PARAMS, population(), num_rounds=3, target="h100")
    assert costs.lanes == 0
    told = str(costs)
    assert "No number of lanes that was tried fits" in told
    assert "too much" in told
    assert pytest.importorskip("re").search(remedy, told)
    assert "at least" not in told.splitlines()[-1]


@pytest.mark.usefixtures("here")
def test_a_compiler_that_gives_up_is_told_in_its_words(monkeypatch) -> None:
    compiled_for = programs.compiled_for

    def fails(program, platform):
        if "3x6x4" in program.as_text():  # three lanes of the model
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM (29.51G of 15.75G).\nmore")
        return compiled_for(program, platform)

    monkeypatch.setattr(rehearse, "compiled_for", fails)
    found = rehearse.rehearse(make(lanes=3), PARAMS, population(), target="v5e-1")
    assert [trial.lanes for trial in found.fitting] == [1, 2]
    assert "as the compiler says (Ran out of memory on HBM (29.51G of 15.75G))" in str(found)
    assert "2 lanes fit" in str(found)

    def broken(program, platform):
        raise jax.errors.JaxRuntimeError("INTERNAL: other")

    monkeypatch.setattr(rehearse, "compiled_for", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: other"):
        rehearse.rehearse(make(lanes=4), PARAMS, population(), target="v5e-1")


@pytest.mark.usefixtures("here")
def test_an_algorithm_that_does_not_tell_its_steps_is_compiled_all_the_same() -> None:
    algorithm = make().algorithm._replace(hparams={})
    told = str(fl.plan(make(algorithm, lanes=2), PARAMS, population(), target="h100"))
    assert "unknown: the algorithm does not tell its local steps" in told


@pytest.mark.usefixtures("here")
def test_what_is_compiled_for_absent_devices_is_not_kept_on_disk() -> None:
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    with rehearse._not_kept():
        assert jax.config.values[name] > 1e6
    assert jax.config.values[name] == before


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        ({"mapping": "pmap"}, r"`Execution\(mapping='pmap'\)` cannot be compiled for devices that are not here"),
        ({"devices": 4}, r"`Execution\(devices=4\)` is more than the 2 devices of 2xh100"),
    ],
)
@pytest.mark.usefixtures("here")
def test_an_execution_that_cannot_be_rehearsed_is_refused(execution, message) -> None:
    with pytest.raises(ValueError, match=message):
        fl.plan(make(**execution), PARAMS, population(), target="2xh100")


@pytest.mark.usefixtures("here")
def test_devices_of_this_machine_are_none_of_the_target() -> None:
    with pytest.raises(ValueError, match=r"names 1 devices of this machine, and the target is h100; expected None"):
        fl.plan(make(devices=jax.devices()[3:]), PARAMS, population(), target="h100")
    own = make(devices=jax.devices()[1:2])
    assert rehearse.rehearse(own, PARAMS, population(), target="2xh100").num_devices == 1


@pytest.mark.usefixtures("here")
def test_numbers_of_lanes_are_checked() -> None:
    with pytest.raises(ValueError, match="`lanes_options` is empty"):
        fl.plan(make(), PARAMS, population(), target="h100", lanes_options=[])
    with pytest.raises(ValueError, match="`lanes_options` is 0"):
        fl.plan(make(), PARAMS, population(), target="h100", lanes_options=[0])


def test_the_command_line_refuses_a_made_up_target() -> None:
    done = CliRunner().invoke(app, ["plan", "--target", "h9000"])
    assert done.exit_code == 2
    assert "`target` is 'h9000', which is none that is known. Known are the GPUs a100-40gb" in done.output


# With the compilers themselves

NAMES = {"gpu": ("h100", "8xh100", "a100", "h200", "b200"), "tpu": ("v5e-1", "v5e-8", "v5p-8", "v6e-256")}


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_rounds_are_compiled_for_what_is_not_here(platform) -> None:
    lacks = absent.missing(target_named(NAMES[platform][0]))
    if lacks:
        pytest.skip(lacks)
    for name in NAMES[platform]:
        costs = fl.plan(make(), PARAMS, population(), target=name)
        found = costs.rehearsal
        assert found is not None
        (trial,) = found.trials
        assert trial.kernels > 3
        assert trial.memory is not None
        assert trial.memory.arguments >= sum(SIZES) * 6 * 4
        assert bool(trial.collectives) == (found.num_devices > 1)
        # The same program by hand, and what XLA says of it.
        run = make(lanes=trial.lanes, devices=list(absent.devices_of(target_named(name))))
        layout = resolve(run.execution, len(SIZES))
        lowered = programs.lowered(run, programs.first_shapes(run, PARAMS, population()), population(), layout)
        compiled = programs.compiled_for(lowered, platform)
        assert programs.memory_of(compiled) == trial.memory
        assert compiled.memory_analysis().temp_size_in_bytes == trial.memory.temporaries
    wide = {"w": jax.ShapeDtypeStruct((6, 2 * 10**9), jnp.float32)}
    told = str(fl.plan(make(lanes=1), wide, population(), target=NAMES[platform][0]))
    assert "does not fit" in told
    assert "The state alone is 48.0 GB" in told
