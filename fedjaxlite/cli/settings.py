"""The options of `run` and `plan`, in one place: what the command line takes, and what config.toml keeps."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

import typer

from fedjaxlite.training import run_config

DATA, TRAINING, WHO, WIRE = "Data", "Model and training", "Participation", "What crosses the wire"
PRIVACY, EVALUATION = "Differential privacy", "Evaluation"
MACHINE, OUTPUT = "Execution", "Output"

MODELS = Literal["mlp", "2nn", "logistic", "cnn", "dropout-cnn", "cifar-cnn", "lstm"]
SAMPLERS = Literal["uniform", "poisson", "cyclic", "available"]
SERVER_OPTIMIZERS = Literal["sgd", "momentum", "adam", "yogi", "adagrad"]

_NOT_KEPT = ("out", "resume", "accept_changes", "config", "progress", "debug", "compile_cache")
"""Options that say nothing about what a run computes."""


def _option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


class Settings(NamedTuple):
    """What was asked for; None leaves a choice to the data set (`build.defaults_for`)."""

    dataset: Annotated[
        str, _option(DATA, "digits, mnist or any other TFDS name, shakespeare, synthetic.", metavar="NAME")
    ] = "digits"
    data_dir: Annotated[
        Path | None,
        _option(DATA, "Folder of prepared data.", metavar="DIR", show_default="$FEDJAXLITE_DATA, $TFDS_DATA_DIR"),
    ] = None
    clients: Annotated[
        int | None,
        _option(DATA, "Number of clients.", min=1, metavar="N", show_default="100, or all natural ones"),
    ] = None
    partition: Annotated[
        str | None,
        _option(
            DATA,
            "How clients get their data: iid, dirichlet:ALPHA, shards:S, classes:K, quantity:ALPHA, key:FEATURE, "
            "natural.",
            metavar="SPEC",
            show_default="dirichlet:0.3; natural for shakespeare, synthetic",
        ),
    ] = None
    warm_start: Annotated[
        float,
        _option(
            DATA,
            "Share of the training data (of the clients, where they are natural) that is public: the server trains on "
            "it before the first round.",
            metavar="SHARE",
        ),
    ] = 0.0
    model: Annotated[
        MODELS | None,
        _option(
            TRAINING,
            "mlp (2nn: two layers of 200), logistic, cnn, dropout-cnn, cifar-cnn, lstm.",
            metavar="NAME",
            show_default="2nn; lstm for text, logistic for synthetic",
        ),
    ] = None
    rounds: Annotated[int, _option(TRAINING, "Rounds, counted from the beginning of the run.", min=1, metavar="N")] = (
        100
    )
    epochs: Annotated[
        int | None, _option(TRAINING, "Local epochs E.", min=1, metavar="E", show_default="5; 1 for text")
    ] = None
    batch_size: Annotated[str, _option(TRAINING, "Local batch size B; inf is the full batch.", metavar="B")] = "10"
    client_lr: Annotated[
        float | None,
        _option(
            TRAINING, "Rate of the clients' SGD.", metavar="RATE", show_default="0.1; 1.0 for text, 0.01 for synthetic"
        ),
    ] = None
    server_optimizer: Annotated[
        SERVER_OPTIMIZERS,
        _option(TRAINING, "What the server does with the mean: sgd, momentum, adam, yogi, adagrad.", metavar="NAME"),
    ] = "sgd"
    server_lr: Annotated[
        float | None,
        _option(TRAINING, "Its rate.", metavar="RATE", show_default="1.0; 0.01 for adam, yogi, adagrad"),
    ] = None
    cohort: Annotated[int, _option(WHO, "Clients a round (poisson: on average).", min=1, metavar="K")] = 10
    sampler: Annotated[
        SAMPLERS | None,
        _option(
            WHO,
            "uniform, poisson, cyclic, or available (along a simulated day of devices).",
            metavar="NAME",
            show_default="uniform; poisson with noise",
        ),
    ] = None
    dropout: Annotated[float, _option(WHO, "Chance that a selected client does not report.", metavar="CHANCE")] = 0.0
    cohort_seed: Annotated[
        int | None,
        _option(
            WHO,
            "Draw the cohorts from this seed. With noise they come from a secret unless this is given: against whoever "
            "knows the seed, sampling hides nobody, and epsilon is larger.",
            min=0,
            metavar="SEED",
            show_default="--seed; with noise, a secret",
        ),
    ] = None
    stragglers: Annotated[
        float, _option(WHO, "Chance that a client gets only part of its steps done.", metavar="CHANCE")
    ] = 0.0
    aggregator: Annotated[
        Literal["weighted", "mean"] | None,
        _option(
            WIRE,
            "weighted by the clients' examples, or mean: all clients alike.",
            metavar="NAME",
            show_default="weighted; mean with noise",
        ),
    ] = None
    clip_norm: Annotated[float | None, _option(WIRE, "Clip every update to this L2 norm.", metavar="NORM")] = None
    quantize_bits: Annotated[
        int | None, _option(WIRE, "Bits per entry, summed as integers; needs --clip-norm.", metavar="BITS")
    ] = None
    compress: Annotated[
        str | None,
        _option(
            WIRE,
            "Codecs for what clients send, with + between them: eden:2, qsgd:16, top_k:0.01+qsgd:16 ...; an unknown "
            "name lists all.",
            metavar="CODEC",
        ),
    ] = None
    error_feedback: Annotated[
        bool,
        _option(WIRE, "Clients send later what --compress or --quantize-bits left out.", "--error-feedback"),
    ] = False
    feedback_kind: Annotated[
        Literal["ef14", "ef21", "ef21_sgdm"] | None,
        _option(WIRE, "How: ef14, ef21 or ef21_sgdm.", metavar="NAME", show_default="ef14"),
    ] = None
    compress_down: Annotated[
        str | None,
        _option(WIRE, "Codecs for the model on its way down, as differences to what clients hold.", metavar="CODEC"),
    ] = None
    secure_sum: Annotated[
        bool,
        _option(
            WIRE,
            "Mask every message, so that the server learns sums alone; needs --clip-norm. Entries are rounded to 16 "
            "bits unless --compress or --quantize-bits make integers.",
            "--secure-sum",
        ),
    ] = False
    measure_entropy: Annotated[
        bool,
        _option(WIRE, "Also record the bytes that an ideal code of each message would take.", "--measure-entropy"),
    ] = False
    noise_multiplier: Annotated[
        float | None,
        _option(
            PRIVACY,
            "Gaussian noise of so many clip norms on the sum over clients; needs --clip-norm, fedjaxlite[privacy].",
            metavar="Z",
        ),
    ] = None
    epsilon: Annotated[
        float | None,
        _option(PRIVACY, "Choose the noise such that all --rounds together cost this epsilon.", metavar="EPS"),
    ] = None
    max_epsilon: Annotated[
        float | None, _option(PRIVACY, "End the run before it costs more than this epsilon.", metavar="EPS")
    ] = None
    delta: Annotated[
        float | None, _option(PRIVACY, "The delta that goes with epsilon.", metavar="DELTA", show_default="N^-1.1")
    ] = None
    evaluate_every: Annotated[int, _option(EVALUATION, "Rounds between evaluations.", min=1, metavar="N")] = 1
    lost_rounds: Annotated[
        int,
        _option(
            EVALUATION,
            "End the run, with code 3, after so many rounds in a row without any finite update; 0 never does.",
            min=0,
            metavar="N",
        ),
    ] = 10
    diverged_rounds: Annotated[
        int,
        _option(
            EVALUATION,
            "End the run, with code 3, when a loss was out of all bounds so many times in a row; 0 never does.",
            min=0,
            metavar="N",
        ),
    ] = 10
    target_accuracy: Annotated[
        float | None,
        _option(EVALUATION, "Stop at the first evaluated round with this test accuracy.", metavar="SHARE"),
    ] = None
    per_client_eval: Annotated[
        bool,
        _option(
            EVALUATION,
            "Also evaluate at every client, on a fifth of its examples that is held out (natural clients: on their own "
            "test part).",
            "--per-client-eval",
        ),
    ] = False
    lanes: Annotated[
        int | None,
        _option(
            MACHINE,
            "Clients side by side on a device; `plan` finds the best number.",
            min=1,
            metavar="L",
            show_default="1 on a CPU, else 16",
        ),
    ] = None
    devices: Annotated[
        int | None, _option(MACHINE, "Devices to use.", min=1, metavar="D", show_default="all; every core of a CPU")
    ] = None
    seed: Annotated[
        int,
        _option(
            MACHINE,
            "Of the partition, the model, the shuffles and, without noise, the sampling.",
            min=0,
            metavar="SEED",
        ),
    ] = 0
    compile_cache: Annotated[
        bool,
        _option(
            MACHINE,
            "Whether compiled programs are kept in $XDG_CACHE_HOME/fedjaxlite/jax; they are.",
            "--compile-cache/--no-compile-cache",
            show_default=False,
        ),
    ] = True
    out: Annotated[
        Path | None, _option(OUTPUT, "Folder to write to.", metavar="DIR", show_default="runs/DATASET-TIME")
    ] = None
    checkpoint_every: Annotated[
        int | None,
        _option(OUTPUT, "Rounds between checkpoints.", min=1, metavar="N", show_default="one every half minute"),
    ] = None
    resume: Annotated[
        Path | None,
        _option(OUTPUT, "Go on with the run in this folder; other options come from its config.toml.", metavar="DIR"),
    ] = None
    accept_changes: Annotated[
        bool,
        _option(OUTPUT, "With --resume: go on although a rate, the loss or the sampler changed.", "--accept-changes"),
    ] = False
    config: Annotated[
        Path | None, _option(OUTPUT, "Repeat the run of a config.toml; options given here win.", metavar="FILE")
    ] = None
    tensorboard: Annotated[bool, _option(OUTPUT, "Also write event files; needs tensorboardX.", "--tensorboard")] = (
        False
    )
    progress: Annotated[
        bool, _option(OUTPUT, "Whether progress is shown; it is.", "--progress/--no-progress", show_default=False)
    ] = True
    debug: Annotated[bool, _option(OUTPUT, "Show the traceback of an error.", "--debug")] = False


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
    kept = {name: value for name, value in settings._asdict().items() if value is not None and name not in _NOT_KEPT}
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
    return Settings(**{**arguments, **given})


def _fits(value: Any, hint: Any) -> bool:
    choices = get_args(hint)
    if not choices:
        if hint is float:
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        if hint is int:
            return isinstance(value, int) and not isinstance(value, bool)
        return isinstance(value, str if hint is Path else hint)
    if not any(isinstance(choice, type) or get_args(choice) for choice in choices):
        return value in choices
    return any(_fits(value, choice) for choice in choices if choice is not type(None))


def _described(hint: Any) -> str:
    return str(hint).replace("typing.", "") if get_args(hint) else hint.__name__
