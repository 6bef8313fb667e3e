"""What the commands do, once the options are known."""

import contextlib
import datetime
import os
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import typer

import fedjaxlite as fl
from fedjaxlite import exit_codes, processes
from fedjaxlite.cli import build, named, private_run, robust, sweeping
from fedjaxlite.cli.settings import Settings, to_arguments
from fedjaxlite.cli.several import joining
from fedjaxlite.datasets.folders import cache_folder
from fedjaxlite.distributed import leaving
from fedjaxlite.observers.progress import duration, size
from fedjaxlite.rehearsal.absent import devices_of
from fedjaxlite.rehearsal.plan import plan as make_plan
from fedjaxlite.rehearsal.targets import target_named
from fedjaxlite.storage import StorageError, words_of
from fedjaxlite.training import run_config
from fedjaxlite.training.run_folder import RunFolder, prepare
from fedjaxlite.training.train import History, train


def run(settings: Settings) -> None:
    """Trains, and says where everything is."""
    arguments = to_arguments(settings)
    if sweeping.is_sweep(settings):
        _sweep(settings, arguments)
        return
    joining.check(settings)
    settings = _with_machine(settings)
    out = Path(joining.first_path(lambda: settings.resume or settings.out or _fresh_folder(settings.dataset)))
    processes.by_first(lambda: prepare(out, resume=settings.resume is not None) and None)  # before any data are read
    try:
        job = build.job(settings)
        cohort_key = private_run.cohort_key(settings)
        state = job.rounds.init(job.params, job.population, key=build.keys(settings)["run"], cohort_key=cohort_key)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(out).rmdir()  # where it is empty
        raise
    target = {"accuracy": settings.target_accuracy} if settings.target_accuracy is not None else None
    attacked = robust.told(settings, job.population.num_clients)
    joining.say(attacked if settings.progress else None)
    try:
        history = train(
            job.rounds,
            state,
            job.population,
            num_rounds=settings.rounds,
            evaluate=job.evaluate,
            evaluate_state=job.evaluate_state,
            evaluate_every=settings.evaluate_every,
            out_dir=out,
            observers=(*job.observers, *_trackers(settings, arguments)),
            progress=settings.progress,
            checkpoint_every=settings.checkpoint_every,
            resume=settings.resume is not None,
            accept_changes=settings.accept_changes,
            lost_rounds=settings.lost_rounds or None,
            diverged_rounds=settings.diverged_rounds or None,
            stop_at_nan=settings.stop_at_nan,
            target=target,
            tensorboard=settings.tensorboard,
            config={"command": shlex.join(["fedjaxlite", *sys.argv[1:]]), "arguments": arguments, **job.config},
        )
    except KeyboardInterrupt:
        joining.say(f"\ninterrupted; {_go_on(out)}", err=True)
        raise typer.Exit(exit_codes.INTERRUPTED) from None
    except SystemExit as ended:  # by SIGTERM, as `train` documents
        joining.say(f"ended by SIGTERM; {_go_on(out)}", err=True)
        raise typer.Exit(int(ended.code or 0)) from None
    except StorageError as error:
        if settings.debug:
            traceback.print_exc()
        typer.echo(f"error: {words_of(error)}", err=True)
        leaving.failed(words_of(error), exit_codes.STORAGE_FAILED)
        raise typer.Exit(exit_codes.STORAGE_FAILED) from None
    if processes.is_first():
        _conclude(history, job, RunFolder(Path(out)))
    if history.failed:
        joining.say(f"failed: {history.stopped}", err=True)
        raise typer.Exit(exit_codes.FAILED)


def _sweep(settings: Settings, arguments: Mapping[str, Any]) -> None:
    """Many runs at once: the table, and the best of them."""
    sweeping.check(settings)
    joining.check(settings, "A sweep")
    settings = _with_machine(settings)
    out = settings.out or _fresh_folder(f"sweep-{settings.dataset}")
    folder = prepare(out, resume=False)
    try:
        found = sweeping.run(settings)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(out).rmdir()
        raise
    command = shlex.join(["fedjaxlite", *sys.argv[1:]])
    written = sweeping.write(found, folder, {"command": command, "arguments": dict(arguments)})
    typer.echo(found.table())
    for line in sweeping.told(found, settings):
        typer.echo(line)
    typer.echo(f"{duration(found.seconds)}; {folder.path}: {', '.join(written)}")


def _trackers(settings: Settings, arguments: Mapping[str, Any]) -> tuple[fl.observers.Observer, ...]:
    """What --tracker names; the options of the command line stand beside the run."""
    if settings.tracker is None:
        return ()
    given = {f"option.{name}": value for name, value in arguments.items()}
    makers = {"mlflow": fl.observers.mlflow, "wandb": fl.observers.wandb, "trackio": fl.observers.trackio}
    return (makers[settings.tracker](config={name: str(value) for name, value in given.items()}),)


def _go_on(out: Path) -> str:
    return f"go on by: fedjaxlite run --resume {shlex.quote(str(out))}"


def plan(settings: Settings, target: str | None = None) -> None:
    """Prints what a run will cost, here or on a target that is not here."""
    if sweeping.is_sweep(settings):
        raise ValueError("plan tells what one run will cost; leave --sweep, --seeds, --validation and --select out.")
    joining.check(settings, "plan")
    if target is not None:
        _rehearse(settings, target)
        return
    settings = _with_machine(settings)
    job = build.job(settings)
    typer.echo(str(make_plan(job.rounds, job.params, job.population, num_rounds=settings.rounds)))
    if attacked := robust.told(job.settings, job.population.num_clients):
        typer.echo(attacked)


def _rehearse(settings: Settings, target: str) -> None:
    known = target_named(target)  # before any data are read
    if not os.environ.get("JAX_PLATFORMS"):
        # Nothing runs: JAX need not look for accelerators, nor complain of what a compiler alone leaves missing.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_platforms", "cpu")
    devices = devices_of(known)
    if settings.devices is not None and settings.devices > len(devices):
        raise ValueError(f"--devices is {settings.devices}, and --target {known.name} has {len(devices)}.")
    job = build.job(settings._replace(devices=1))
    execution = job.rounds.execution._replace(devices=devices[: settings.devices])
    asked = job.rounds
    run = fl.rounds(asked.algorithm, sampler=asked.sampler, aggregator=asked.aggregator, execution=execution)
    typer.echo(str(make_plan(run, job.params, job.population, num_rounds=settings.rounds, target=known.name)))


def _with_machine(settings: Settings) -> Settings:
    """Starts JAX on the devices asked for, with its compilation cache, and writes down what was taken."""
    asked = settings.devices
    if settings.resume is not None:
        settings = _as_before(settings)
    if settings.compile_cache:
        keep_compiled()
    if settings.distributed:
        return _with_others(settings, asked)
    cores, wide = _cores() if settings.devices is None else settings.devices, settings.async_buffer or settings.cohort
    # If JAX has started already, inside of another program, its devices are what there is.
    with contextlib.suppress(RuntimeError):
        # More devices than clients in a round would stand idle.
        fl.use_cpu_cores(cores if settings.devices else max(1, min(cores, wide)))
    if jax.default_backend() == "cpu" and settings.devices is None:
        settings = settings._replace(devices=max(1, min(jax.device_count(), wide)))
    return settings


def _with_others(settings: Settings, asked: int | None) -> Settings:
    """Likewise as one of several processes, which have equally many devices each and take all of them."""
    count = joining.join(settings)
    shared = joining.share(asked, settings.devices, _cores(), settings.async_buffer or settings.cohort, count)
    return settings._replace(devices=joining.take(shared, count))


def keep_compiled() -> None:
    """Keeps what JAX compiles for the next run, unless the environment names a place for it already."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR") and (base := cache_folder()):
        jax.config.update("jax_compilation_cache_dir", str(base / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _as_before(settings: Settings) -> Settings:
    """A resumed run takes the devices and lanes it had, where nothing else is said: same layout, same bits."""
    config = run_config.read(Path(settings.resume or ".") / "config.toml")
    execution = config.get("execution", {})
    settings = private_run.as_before(settings, config.get("privacy", {}))
    return settings._replace(
        devices=settings.devices or execution.get("devices"), lanes=settings.lanes or execution.get("lanes")
    )


def _fresh_folder(dataset: str) -> Path:
    file = named.is_table(dataset) or named.is_folder(dataset)
    dataset = Path(dataset.partition(":")[0]).name if file else dataset
    name = f"{dataset.replace('/', '-').replace(':', '-')}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    folder = Path("runs") / name
    for i in range(2, 1000):
        if not folder.exists():
            break
        folder = Path("runs") / f"{name}-{i}"
    return folder


def _conclude(history: History, job: build.Job, folder: RunFolder) -> None:
    """The last words: how good it is, what it took, and where everything lies."""
    kept = [record for record in history.records if not record.get("missing")]
    if not kept:
        typer.echo(
            f"{folder.path}: nothing is left to do, and the records of all {len(history.records)} rounds are missing"
        )
        return
    last = kept[-1]
    for told in _quality(kept, job.num_test):
        typer.echo(told)
    if attacked := robust.told(job.settings, job.population.num_clients):
        typer.echo(attacked)
    if "epsilon" in last:
        typer.echo(private_run.told(last, job.settings))
    sent = [sum(record[name] for record in kept) for name in ("bytes_up", "bytes_down")]
    lost = len(history.records) - len(kept)
    beside = f" (without {lost} rounds whose records are missing)" if lost else ""
    beside += " (simulation only)" if "bytes_up" in last.get("simulation_only", ()) else ""
    typer.echo(f"{duration(last['elapsed'])}; clients sent {size(sent[0])} and received {size(sent[1])}{beside}")
    written = [path.name for path in (folder.records, folder.config, folder.curves, folder.checkpoints)]
    typer.echo(f"{folder.path}: {', '.join(written)}")


def _quality(kept: Sequence[Mapping[str, Any]], num_test: int) -> list[str]:
    """How good the model is, and the clients' own models where they were evaluated."""
    told = []
    found = [record for record in kept if "test_accuracy" in record]
    if found:
        final, best = found[-1], max(found, key=lambda record: record["test_accuracy"])
        told.append(
            f"test accuracy {final['test_accuracy']:.2%} on {num_test:,} examples after {final['round']} rounds "
            f"(best {best['test_accuracy']:.2%} at round {best['round']})"
        )
    elif losses := [record for record in kept if "test_loss" in record]:
        final, best = losses[-1], min(losses, key=lambda record: record["test_loss"])
        told.append(
            f"test loss {final['test_loss']:.4g} on {num_test:,} examples after {final['round']} rounds "
            f"(best {best['test_loss']:.4g} at round {best['round']})"
        )
    if stamped := [record for record in kept if "backdoor_accuracy" in record]:
        told.append(f"backdoor: {stamped[-1]['backdoor_accuracy']:.2%} of triggered examples are taken for the target")
    for name, shown in (("own_accuracy", "{:.2%}"), ("own_loss", "{:.4g}")):
        own = [record for record in kept if name in record]
        if own:
            mean, worst = (shown.format(own[-1][key]) for key in (name, f"{name}_worst10"))
            what = name.removeprefix("own_")
            told.append(f"{what} {mean} of clients' own models on their own test parts, {worst} in the worst tenth")
            break
    return told
