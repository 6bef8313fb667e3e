"""Options of a run: its data, its model and training, and who takes part."""

from pathlib import Path
from typing import Annotated, Literal

from fedjaxlite.cli.options.option import DATA, TRAINING, WHO, option

SERVER_OPTIMIZERS = Literal["sgd", "momentum", "adam", "yogi", "adagrad"]

Dataset = Annotated[
    str,
    option(
        DATA,
        "digits, mnist or any other TFDS name, shakespeare, synthetic; or your own: a table as in "
        "visits.csv:client=hospital,label=ill, or package.module:function, which gives (train, test) or a Population.",
        metavar="NAME",
    ),
]

DataDir = Annotated[
    Path | None,
    option(DATA, "Folder of prepared data.", metavar="DIR", show_default="$FEDJAXLITE_DATA, $TFDS_DATA_DIR"),
]

Clients = Annotated[
    int | None,
    option(DATA, "Number of clients.", min=1, metavar="N", show_default="100, or all natural ones"),
]

Partition = Annotated[
    str | None,
    option(
        DATA,
        "How clients get their data: iid, dirichlet:ALPHA, shards:S, classes:K, quantity:ALPHA, key:FEATURE, natural.",
        metavar="SPEC",
        show_default="dirichlet:0.3; natural for shakespeare, synthetic",
    ),
]

WarmStart = Annotated[
    float,
    option(
        DATA,
        "Share of the training data (of the clients, where they are natural) that is public: the server trains on "
        "it before the first round.",
        metavar="SHARE",
    ),
]

Algorithm = Annotated[
    str,
    option(
        TRAINING,
        "The method: one of `fedjaxlite methods`, or your own, package.module:function, a function of the loss.",
        metavar="NAME",
    ),
]

Set = Annotated[
    list[str] | None,
    option(
        TRAINING,
        "A hyperparameter of the method; may be given again. `fedjaxlite methods NAME` lists them.",
        "--set",
        metavar="NAME=VALUE",
    ),
]

Model = Annotated[
    str | None,
    option(
        TRAINING,
        "mlp (2nn: two layers of 200), logistic, cnn, dropout-cnn, cifar-cnn, lstm, word-lstm, with arguments as in "
        "mlp:features=64x10; or your own, package.module:function, which gives a Model.",
        metavar="NAME",
        show_default="2nn; lstm for text, logistic for synthetic",
    ),
]

Loss = Annotated[
    str | None,
    option(
        TRAINING,
        "A loss of fl.losses by name, with arguments as in cross_entropy:label_smoothing=0.1; or your own, "
        "package.module:function, of (params, batch, key) or of the model.",
        metavar="NAME",
        show_default="the model's, where its outputs are classes",
    ),
]

Rounds = Annotated[int, option(TRAINING, "Rounds, counted from the beginning of the run.", min=1, metavar="N")]

Epochs = Annotated[int | None, option(TRAINING, "Local epochs E.", min=1, metavar="E", show_default="5; 1 for text")]

BatchSize = Annotated[
    str | None,
    option(
        TRAINING,
        "Local batch size B; inf is the full batch.",
        metavar="B",
        show_default="10; inf for fed_lin, one_shot",
    ),
]

ClientLr = Annotated[
    float | None,
    option(
        TRAINING,
        "Rate of the clients' SGD, or of what a method has in its place.",
        metavar="RATE",
        show_default="0.1; 1.0 for text, 0.01 for synthetic",
    ),
]

ServerOptimizer = Annotated[
    SERVER_OPTIMIZERS | None,
    option(
        TRAINING,
        "What the server does with the mean: sgd, momentum, adam, yogi, adagrad.",
        metavar="NAME",
        show_default="sgd",
    ),
]

ServerLr = Annotated[
    float | None,
    option(
        TRAINING,
        "Its rate; the server_lr of a method that has one.",
        metavar="RATE",
        show_default="1.0; 0.01 for adam, yogi, adagrad",
    ),
]

Cohort = Annotated[int, option(WHO, "Clients a round (poisson: on average).", min=1, metavar="K")]

Sampler = Annotated[
    str | None,
    option(
        WHO,
        "uniform, poisson, cyclic, or available (along a simulated day of devices). By utility, with arguments as in "
        "oort:preferred_seconds=60: oort (much loss, soon told), power_of_choice:D (the largest losses among D "
        "candidates), refl (who will hardly be there again; with --availability).",
        metavar="NAME",
        show_default="uniform; poisson with noise",
    ),
]

Dropout = Annotated[float, option(WHO, "Chance that a selected client does not report.", metavar="CHANCE")]

CohortSeed = Annotated[
    int | None,
    option(
        WHO,
        "Draw the cohorts from this seed. With noise they come from a secret unless this is given: against whoever "
        "knows the seed, sampling hides nobody, and epsilon is larger.",
        min=0,
        metavar="SEED",
        show_default="--seed; with noise, a secret",
    ),
]

Stragglers = Annotated[float, option(WHO, "Chance that a client gets only part of its steps done.", metavar="CHANCE")]
