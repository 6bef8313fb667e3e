"""Who takes part, on the command line: samplers by utility, availability, devices; equal to Python, and every refusal."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from test_cli import SMALL, call, refused

import fedjaxlite as fl
from fedjaxlite.cli import build, taking_part
from fedjaxlite.cli.settings import Settings, keys
from fedjaxlite.cli.taking_part import times
from fedjaxlite.cli.taking_part.times import Facts
from fedjaxlite.observers import records
from fedjaxlite.sampling import Setting

N, STEPS = 20, {"batch_size": 10, "epochs": 1}
EXAMPLES = np.arange(5, 5 + N, dtype=np.int32)
HEADER = "seconds_per_step,up_bytes_per_second,down_bytes_per_second,latency_seconds"
SYSTEMS, SAMPLING = fl.systems, fl.sampling
SECONDS = SYSTEMS.service.lognormal(30.0, 1.0)
KEYS = keys(Settings())
DEVICES = SYSTEMS.drawn_devices(KEYS["devices"], N)
NIGHTS = SYSTEMS.drawn_availability(KEYS["availability"], N)
CLOCK = {"service": "lognormal:30,1"}


def made(num_clients: int = N, **options: Any) -> fl.Sampler:
    return taking_part.sampler(Settings(cohort=4, **options), Facts(num_clients, STEPS))


def cohorts(sampler: fl.Sampler, rounds: int = 4) -> list[Any]:
    """What a sampler draws and tells, where every client has lost as much as it has examples."""
    population = fl.Population({}, np.concatenate([[0], np.cumsum(EXAMPLES)]), max_size=int(EXAMPLES.max()))
    if sampler.memory is None:
        draw = jax.jit(lambda number: sampler.sample(jax.random.key(7), number, population))
        return [draw(np.int32(number)) for number in range(rounds)]
    memory: Any = sampler.memory
    steps = lambda sizes, work: -(-sizes // STEPS["batch_size"])  # noqa: E731
    state, found = memory.init(Setting(N, jax.numpy.asarray(EXAMPLES), 10**6, 10**6, steps, 10**6)), []

    def one(state: Any, number: Any) -> Any:
        cohort, state = memory.sample(state, jax.random.key(7), number, population)
        loss = {name: cohort.ids.astype("float32") for name in memory.reads}
        told = fl.sampling.Seen(cohort, cohort.reported, jax.numpy.asarray(EXAMPLES)[cohort.ids], loss)
        state = memory.learn(state, told)
        return (cohort, memory.tell(state)), state

    step = jax.jit(one)
    for number in range(rounds):
        seen, state = step(state, np.int32(number))
        found.append(seen)
    return found


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"sampler": "power_of_choice:8,weights=equal"}, lambda: SAMPLING.power_of_choice(4, 8, weights="equal")),
        (
            {"sampler": "oort:preferred_seconds=20,exploration=0.5", **CLOCK, "over_select": 6},
            lambda: SYSTEMS.timed(
                SAMPLING.oort(
                    6, latency="clock", preferred_seconds=20, exploration=0.5
                ),
                SECONDS,
                reports=4,
            ),
        ),
        pytest.param(
            {"sampler": "oort:preferred_seconds=3", "service": "devices:drawn"},
            lambda: SYSTEMS.timed(SAMPLING.oort(4, latency="clock", preferred_seconds=3), DEVICES),
            marks=pytest.mark.whole,
        ),
        (
            {"sampler": "refl:period=8,rest=1", "availability": "diurnal:rounds_per_day=8"},
            lambda: SAMPLING.refl(4, SAMPLING.diurnal(rounds_per_day=8), period=8, rest=1),
        ),
        ({"sampler": "available", "availability": "diurnal"}, lambda: SAMPLING.available(4, SAMPLING.diurnal())),
        (
            {"availability": "diurnal", **CLOCK},
            lambda: SYSTEMS.timed(SAMPLING.uniform(4), SECONDS, availability=NIGHTS),
        ),
        (
            {"availability": "diurnal", "async_buffer": 3, "concurrency": 6, "grace": 5.0, "service": "devices:drawn"},
            lambda: SYSTEMS.fed_buff(
                3, concurrency=6, service=SYSTEMS.service.on_devices(DEVICES), grace=5.0, availability=NIGHTS
            ),
        ),
    ],
    ids=["power_of_choice", "oort", "oort on devices", "refl", "available", "nights", "fed_buff"],
)  # fmt: skip
def test_options_draw_what_the_same_samplers_draw_in_python(
    options: dict[str, Any], same: Callable[[], fl.Sampler]
) -> None:
    asked, other = made(**options), same()
    assert (asked.name, asked.accounting) == (other.name, other.accounting)
    for one, two in zip(cohorts(asked), cohorts(other), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("devices.csv").write_text(f"{HEADER}\n0.5,1e6,2e6,0.1\n2.0,1e6,2e6,0.1\n")
    Path("broken.csv").write_text(f"{HEADER}\n0.5,0,2e6,0.1\n")
    Path("trace.csv").write_text("client,begin,end\n0,0,600\n1,300,900\n")
    Path("never.csv").write_text("client,begin,end\n0,0,0\n")
    Path("speeds.csv").write_text("1\n2\n")
    scale = {client: {"computation": 10.0 * client, "communication": 1000.0} for client in (1, 2, 3)}
    Path("fedscale").write_bytes(pickle.dumps(scale))


@pytest.mark.usefixtures("files")
def test_files_become_the_devices_and_windows_that_python_reads() -> None:
    facts, file = Facts(N, STEPS), SYSTEMS.devices_from_file
    cases: tuple[tuple[dict[str, Any], Callable[..., Any], Any], ...] = (
        ({"service": "devices:devices.csv"}, times.service, file("devices.csv", N)),
        # FedScale tells the milliseconds of an example, and a step of this run has ten.
        ({"service": "devices:fedscale"}, times.service, file("fedscale", N, examples_per_step=10)),
        ({"availability": "file:trace.csv"}, times.availability, SYSTEMS.availability_from_file("trace.csv", N)),
    )
    for options, read, expected in cases:
        found = read(Settings(**options), facts)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        assert made(**options).name == "uniform(4)+timed"
    with pytest.raises(ValueError, match="has the milliseconds of one example, and with --batch-size inf each client"):
        taking_part.sampler(Settings(service="devices:fedscale"), Facts(N, {**STEPS, "batch_size": None}))


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sampler": "ort"}, "expected one of available, cyclic, oort, poisson, power_of_choice, refl, uniform. Did"),
        ({"sampler": "uniform:3"}, "--sampler gives 'uniform:3'; uniform takes no arguments."),
        ({"sampler": "oort:explore=1"}, "--sampler gives 'oort:explore=1'; oort takes exploration, "),
        ({"sampler": "oort:exploration=2"}, "--sampler oort:exploration=2: `exploration` is 2; expected a number in"),
        ({"sampler": "oort:preferred_seconds=9"}, "compares preferred_seconds with how long clients take; give --serv"),
        ({"sampler": "oort", "async_buffer": 3}, "--sampler oort chooses round by round, from what it saw in the"),
        ({"sampler": "oort", "secure_sum": True}, "--sampler oort chooses clients by losses that they tell in the cl"),
        ({"sampler": "oort", "noise_multiplier": 1.0}, "beside messages that --noise-multiplier protects: nothing"),
        ({"sampler": "power_of_choice:9", "epsilon": 8.0}, "beside messages that --epsilon protects: nothing could be"),
        ({"sampler": "power_of_choice"}, "--sampler names power_of_choice without candidates; write power_of_choice:"),
        ({"sampler": "power_of_choice:3"}, "--sampler power_of_choice:3: `candidates` is 3, fewer than --cohort=4;"),
        ({"sampler": "power_of_choice:30"}, "--sampler power_of_choice:30: `candidates` is 30, but the population has"),
        ({"sampler": "refl"}, "--sampler refl takes, of the clients that are there, those that are seldom there; say"),
        ({"sampler": "refl:ahead=0", "availability": "diurnal"}, "--sampler refl:ahead=0: `ahead` is 0; expected an"),
        ({"sampler": "refl", "availability": "file:trace.csv"}, "--availability file:trace.csv counts seconds. Take"),
        ({"sampler": "available", "availability": "diurnal", "async_buffer": 3}, "is not there whatever the sampler"),
        ({"sampler": "available", "availability": "diurnal:hours=3"}, "diurnal takes rounds_per_day, zone_spread, "),
        ({"availability": "diurnal:rounds_per_day=3"}, "diurnal takes days, start, hours, zone_spread, person_spread"),
        ({"availability": "diurnal:hours=23"}, "--availability diurnal:hours=23: `hours` is 23 and `daily_spread` 1"),
        ({"availability": "nightly"}, "--availability is 'nightly'; expected diurnal or file:PATH."),
        ({"availability": "file:"}, "--availability is 'file:', without a path; expected file:PATH of client,begin,e"),
        ({"availability": "file:gone.csv"}, "--availability is 'file:gone.csv', and there is no file 'gone.csv'; ex"),
        ({"availability": "file:speeds.csv"}, "--availability file:speeds.csv: speeds.csv begins with ['1']; expected"),
        ({"availability": "file:never.csv", "async_buffer": 2}, "--availability file:never.csv, --async-buffer 2: `av"),
        ({"service": "device:drawn"}, "--service is 'device:drawn'; expected devices:drawn or devices:PATH. Did you"),
        ({"service": "devices:"}, "--service is 'devices:', without a path; expected devices:drawn, or devices:PATH"),
        ({"service": "devices:drawn,up=3"}, "--service gives 'devices:drawn,up=3'; devices:drawn takes seconds_per"),
        ({"service": "devices:drawn,seconds_per_step=0"}, "--service devices:drawn,seconds_per_step=0: `seconds_per"),
        ({"service": "devices:broken.csv"}, "--service devices:broken.csv: broken.csv: `Devices.up_bytes_per_second"),
        ({"service": "file:speeds.csv"}, "--service file:speeds.csv: measured: `values` are the seconds of 2 clients"),
        ({"before": "stale_weights", "async_buffer": 2}, "give --async-buffer K and --staleness told too, under which"),
        ({"staleness": "told", "async_buffer": 1, "async_mix": True}, "--async-mix has one message a step: nothing"),
        ({"grace": 0.0}, "--grace is of an asynchronous server; give --async-buffer K too, or leave it out."),
        ({"grace": -1.0, "async_buffer": 2}, "--grace is -1.0; expected a finite number of seconds, at least 0."),
        ({"grace": 1.0, "async_buffer": 1, "async_mix": True}, "--async-mix mixes each as it comes. Leave one out."),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_told_in_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        made(**options)
    assert text in str(caught.value)


def test_refusals_come_before_any_data() -> None:
    assert "--availability is 'night'" in refused("run", *SMALL, "--availability", "night")


@pytest.mark.whole
def test_a_run_equals_that_of_the_same_composition_in_python(tmp_path: Path) -> None:
    options: dict[str, Any] = {"sampler": "oort:preferred_seconds=40", "availability": "diurnal:hours=20", **CLOCK}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    call("run", *SMALL, "--rounds", "2", "--evaluate-every", "2", "--out", tmp_path / "run", *words)
    told = records.read(tmp_path / "run" / "records.jsonl")

    settings = Settings(model="logistic", clients=N, cohort=4, epochs=1, devices=1, **options)
    job = build.job(settings)
    oort = SAMPLING.oort(4, latency="clock", preferred_seconds=40.0)
    days = SYSTEMS.drawn_availability(KEYS["availability"], N, hours=20)
    sampler = SYSTEMS.timed(oort, SECONDS, availability=days)
    algorithm = job.rounds.algorithm
    rounds = fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=job.rounds.execution)
    state = rounds.init(job.params, job.population, key=keys(settings)["run"])
    state, infos = rounds.steps(state, job.population, 2)
    seconds = infos.sampler["simulated_seconds"]
    assert [r["simulated_seconds"] for r in told] == pytest.approx(
        [int(w) + float(p) for w, p in zip(*seconds, strict=True)]
    )
    assert [r["waited_for"] for r in told] == infos.sampler["waited_for"].tolist()
    accuracy = job.evaluate["test"](algorithm.params(state.server_state))["accuracy"]
    assert told[-1]["test_accuracy"] == pytest.approx(float(accuracy), abs=1e-6)
