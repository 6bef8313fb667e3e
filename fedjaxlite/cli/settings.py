"""The options of `run` and `plan`, in one place: what the command line takes, and what config.toml keeps."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import jax
import typer

from fedjaxlite.cli.options import bad_clients, clock, learning, running, wire
from fedjaxlite.training import run_config

_NOT_KEPT = (
    *("out", "resume", "accept_changes", "config", "progress", "debug", "compile_cache"),
    *("distributed", "coordinator", "processes", "process_id", "heartbeat"),
)
"""Options that say nothing about what a run computes."""


class Settings(NamedTuple):
    """What was asked for; None leaves a choice to the data set (`build.defaults_for`) or to the method."""

    dataset: learning.Dataset = "digits"
    data_dir: learning.DataDir = None
    clients: learning.Clients = None
    partition: learning.Partition = None
    warm_start: learning.WarmStart = 0.0
    algorithm: learning.Algorithm = "fed_avg"
    set: learning.Set = None
    model: learning.Model = None
    loss: learning.Loss = None
    rounds: learning.Rounds = 100
    epochs: learning.Epochs = None
    batch_size: learning.BatchSize = None
    client_lr: learning.ClientLr = None
    server_optimizer: learning.ServerOptimizer = None
    server_lr: learning.ServerLr = None
    cohort: learning.Cohort = 10
    sampler: learning.Sampler = None
    dropout: learning.Dropout = 0.0
    cohort_seed: learning.CohortSeed = None
    stragglers: learning.Stragglers = 0.0
    service: clock.Service = None
    availability: clock.Availability = None
    async_buffer: clock.AsyncBuffer = None
    concurrency: clock.Concurrency = None
    grace: clock.Grace = None
    staleness: clock.Staleness = None
    max_staleness: clock.MaxStaleness = None
    async_mix: clock.AsyncMix = False
    deadline: clock.Deadline = None
    over_select: clock.OverSelect = None
    aggregator: wire.Aggregator = None
    clip_norm: wire.ClipNorm = None
    quantize_bits: wire.QuantizeBits = None
    compress: wire.Compress = None
    error_feedback: wire.ErrorFeedback = False
    feedback_kind: wire.FeedbackKind = None
    compress_down: wire.CompressDown = None
    secure_sum: wire.SecureSum = False
    measure_entropy: wire.MeasureEntropy = False
    robust: bad_clients.Robust = None
    before: bad_clients.Before = None
    attack: bad_clients.Attack = None
    bad: bad_clients.Bad = None
    noise_multiplier: wire.NoiseMultiplier = None
    epsilon: wire.Epsilon = None
    max_epsilon: wire.MaxEpsilon = None
    delta: wire.Delta = None
    evaluate_every: running.EvaluateEvery = 1
    lost_rounds: running.LostRounds = 10
    diverged_rounds: running.DivergedRounds = 10
    stop_at_nan: running.StopAtNan = True
    target_accuracy: running.TargetAccuracy = None
    per_client_eval: running.PerClientEval = False
    personal_eval: running.PersonalEval = False
    lanes: running.Lanes = None
    devices: running.Devices = None
    client_states: running.ClientStates = "device"
    distributed: running.Distributed = False
    coordinator: running.Coordinator = None
    processes: running.Processes = None
    process_id: running.ProcessId = None
    heartbeat: running.Heartbeat = None
    seed: running.Seed = 0
    compile_cache: running.CompileCache = True
    out: running.Out = None
    checkpoint_every: running.CheckpointEvery = None
    resume: running.Resume = None
    accept_changes: running.AcceptChanges = False
    config: running.Config = None
    tensorboard: running.Tensorboard = False
    tracker: running.Tracker = None
    progress: running.Progress = True
    debug: running.Debug = False
    sweep: running.Sweep = None
    seeds: running.Seeds = None
    validation: running.Validation = None
    select: running.Select = None


def keys(settings: Settings) -> dict[str, jax.Array]:
    """The random keys of a run, all from one seed."""
    names = ("model", "run", "warm_start", "devices", "availability")
    return {name: jax.random.fold_in(jax.random.key(settings.seed), i) for i, name in enumerate(names)}


def takes_settings(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of Settings, before its own: Typer reads them from the signature."""
    own = list(inspect.signature(function).parameters.values())[2:]
    hints = get_type_hints(Settings, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *(
            inspect.Parameter(name, kind, default=default, annotation=hints[name])
            for name, default in Settings._field_defaults.items()
        ),
        *own,
    ]

    def command(ctx: typer.Context, **options: Any) -> None:
        further = {parameter.name: options.pop(parameter.name) for parameter in own}
        function(ctx, Settings(**options), **further)

    wrapped: Any = command
    wrapped.__signature__ = inspect.Signature(parameters)
    wrapped.__name__, wrapped.__doc__ = function.__name__, function.__doc__
    return wrapped


def to_arguments(settings: Settings) -> dict[str, Any]:
    """The options that a config.toml keeps: those that differ from nothing."""
    kept = {
        name: value for name, value in settings._asdict().items() if value not in (None, []) and name not in _NOT_KEPT
    }
    return {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()}


def from_file(path: Path, given: Mapping[str, Any]) -> Settings:
    """Settings from the arguments in a config.toml, and the options that were given beside it.

    Args:
      path: the file.
      given: options of the command line; they win.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no config of the command line, or has an argument that does not exist or is of another type.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {str(path)!r}. A run of the command line writes config.toml to its --out."
        )
    arguments = run_config.read(path).get("arguments")
    if not isinstance(arguments, dict):
        raise ValueError(f"{str(path)!r} has no [arguments]: it is not of a run of the command line.")
    hints = get_type_hints(Settings)
    for name, value in arguments.items():
        if name not in hints or name in _NOT_KEPT:
            known = ", ".join(name for name in hints if name not in _NOT_KEPT)
            raise ValueError(f"{str(path)!r} has the argument {name!r}; known are {known}.")
        if not _fits(value, hints[name]):
            raise ValueError(f"{str(path)!r} has {name} = {value!r}; expected {_described(hints[name])}.")
    if "data_dir" in arguments:
        arguments["data_dir"] = Path(arguments["data_dir"])
    return Settings(**{**arguments, **given, **_hyperparameters(arguments, given)})


def _hyperparameters(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What --set says under the file: given names win one by one, and another method begins without the file's."""
    was = before.get("algorithm", Settings._field_defaults["algorithm"])
    if given.get("algorithm", was) != was:
        return {"set": given.get("set")}
    name = lambda text: text.partition("=")[0].strip().replace("-", "_")  # noqa: E731
    mine = given.get("set") or []
    kept = [text for text in before.get("set") or [] if name(text) not in {name(text) for text in mine}]
    return {"set": [*kept, *mine]} if kept or mine else {}


def _fits(value: Any, hint: Any) -> bool:
    choices = get_args(hint)
    if not choices:
        if hint is float:
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        if hint is int:
            return isinstance(value, int) and not isinstance(value, bool)
        return isinstance(value, str if hint is Path else hint)
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(item, choices[0]) for item in value)
    if not any(isinstance(choice, type) or get_args(choice) for choice in choices):
        return value in choices
    return any(_fits(value, choice) for choice in choices if choice is not type(None))


def _described(hint: Any) -> str:
    return str(hint).replace("typing.", "") if get_args(hint) else hint.__name__
