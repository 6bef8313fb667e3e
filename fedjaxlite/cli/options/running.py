"""Options of a run: what is measured, on what it runs, and what it leaves."""

from pathlib import Path
from typing import Annotated, Literal

from fedjaxlite.cli.options.option import EVALUATION, MACHINE, OUTPUT, SWEEP, option

EvaluateEvery = Annotated[int, option(EVALUATION, "Rounds between evaluations.", min=1, metavar="N")]

LostRounds = Annotated[
    int,
    option(
        EVALUATION,
        "End the run, with code 3, after so many rounds in a row without any finite update; 0 never does.",
        min=0,
        metavar="N",
    ),
]

DivergedRounds = Annotated[
    int,
    option(
        EVALUATION,
        "End the run, with code 3, when a loss was out of all bounds so many times in a row; 0 never does.",
        min=0,
        metavar="N",
    ),
]

StopAtNan = Annotated[
    bool,
    option(
        EVALUATION,
        "Whether the run ends, with code 3, when its model holds NaN or infinity; it does.",
        "--stop-at-nan/--no-stop-at-nan",
        show_default=False,
    ),
]

TargetAccuracy = Annotated[
    float | None,
    option(EVALUATION, "Stop at the first evaluated round with this test accuracy.", metavar="SHARE"),
]

PerClientEval = Annotated[
    bool,
    option(
        EVALUATION,
        "Also evaluate at every client, on a fifth of its examples that is held out (natural clients: on their own "
        "test part).",
        "--per-client-eval",
    ),
]

PersonalEval = Annotated[
    bool,
    option(
        EVALUATION,
        "Also evaluate each client's own model, of a method that gives it one, on the examples of --per-client-eval.",
        "--personal-eval",
    ),
]

Lanes = Annotated[
    int | None,
    option(
        MACHINE,
        "Clients side by side on a device; `plan` finds the best number.",
        min=1,
        metavar="L",
        show_default="1 on a CPU, else 16",
    ),
]

Devices = Annotated[
    int | None, option(MACHINE, "Devices to use.", min=1, metavar="D", show_default="all; every core of a CPU")
]

ClientStates = Annotated[
    str,
    option(
        MACHINE,
        "Where what clients keep between their rounds lies: device, host (its memory), or a folder.",
        metavar="WHERE",
    ),
]

Distributed = Annotated[
    bool,
    option(
        MACHINE,
        "This is one of several processes of a run; which, SLURM, Open MPI or Kubernetes say, or the options below.",
        "--distributed",
    ),
]

Coordinator = Annotated[
    str | None, option(MACHINE, "With --distributed: host of process 0, and a free port.", metavar="HOST:PORT")
]

Processes = Annotated[int | None, option(MACHINE, "With --distributed: how many.", min=1, metavar="N")]

ProcessId = Annotated[int | None, option(MACHINE, "With --distributed: which one, from 0.", min=0, metavar="I")]

Heartbeat = Annotated[
    float | None,
    option(
        MACHINE,
        "With --distributed: all end within so many seconds after one died, with code 4.",
        metavar="SECONDS",
        show_default="30",
    ),
]

Seed = Annotated[
    int,
    option(
        MACHINE,
        "Of the partition, the model, the shuffles and, without noise, the sampling.",
        min=0,
        metavar="SEED",
    ),
]

CompileCache = Annotated[
    bool,
    option(
        MACHINE,
        "Whether compiled programs are kept in $XDG_CACHE_HOME/fedjaxlite/jax; they are.",
        "--compile-cache/--no-compile-cache",
        show_default=False,
    ),
]

Out = Annotated[Path | None, option(OUTPUT, "Folder to write to.", metavar="DIR", show_default="runs/DATASET-TIME")]

CheckpointEvery = Annotated[
    int | None,
    option(OUTPUT, "Rounds between checkpoints.", min=1, metavar="N", show_default="one every half minute"),
]

Resume = Annotated[
    Path | None,
    option(OUTPUT, "Go on with the run in this folder; other options come from its config.toml.", metavar="DIR"),
]

AcceptChanges = Annotated[
    bool,
    option(OUTPUT, "With --resume: go on although a rate, the loss or the sampler changed.", "--accept-changes"),
]

Config = Annotated[
    Path | None, option(OUTPUT, "Repeat the run of a config.toml; options given here win.", metavar="FILE")
]

Tensorboard = Annotated[bool, option(OUTPUT, "Also write event files; needs tensorboardX.", "--tensorboard")]

Tracker = Annotated[
    Literal["mlflow", "wandb", "trackio"] | None,
    option(
        OUTPUT,
        "Also send records to a tracker: mlflow, wandb or trackio; where to is what its own environment variables say.",
        metavar="NAME",
    ),
]

Progress = Annotated[
    bool, option(OUTPUT, "Whether progress is shown; it is.", "--progress/--no-progress", show_default=False)
]

Debug = Annotated[bool, option(OUTPUT, "Show the traceback of an error.", "--debug")]

Sweep = Annotated[
    list[str] | None,
    option(
        SWEEP,
        "Run every value of an option or a hyperparameter, such as client_lr=0.01,0.1; may be given again, for all "
        "combinations. Values that hold commas have ; between.",
        metavar="NAME=V1,V2",
    ),
]

Seeds = Annotated[
    int | None,
    option(
        SWEEP,
        "Run each with so many seeds, from --seed on; the data stay those of --seed.",
        min=1,
        metavar="S",
        show_default="1; 5 with --sweep",
    ),
]

Validation = Annotated[
    float | None,
    option(
        SWEEP,
        "Share of the clients that is held out to choose the best by; 0 holds out none, and nothing is chosen.",
        metavar="SHARE",
        show_default="0.2",
    ),
]

Select = Annotated[
    str | None,
    option(
        SWEEP,
        "The metric to choose the best by.",
        metavar="METRIC",
        show_default="validation_accuracy, or validation_loss",
    ),
]
