"""Options of a run: how long clients take, and what a server does that does not wait for all of them."""

from typing import Annotated

from fedjaxlite.cli.options.option import CLOCK, option

Service = Annotated[
    str | None,
    option(
        CLOCK,
        "Seconds from a client's download to its report, on a virtual clock: constant:S, exponential:MEAN, "
        "lognormal:MEDIAN,SIGMA, or file:PATH with a number for each client.",
        metavar="SPEC",
        show_default="exponential:1 with another option of the clock",
    ),
]

AsyncBuffer = Annotated[
    int | None,
    option(
        CLOCK,
        "An asynchronous server, which steps whenever K messages have come; a round is one such step.",
        min=1,
        metavar="K",
    ),
]

Concurrency = Annotated[
    int | None,
    option(
        CLOCK, "Clients that train at the same time, of an asynchronous server.", min=1, metavar="M", show_default="K"
    ),
]

Staleness = Annotated[
    str | None,
    option(
        CLOCK,
        "What an update counts after TAU steps of the server: constant, polynomial:A ((1 + TAU)^-A), hinge:A,B.",
        metavar="SPEC",
        show_default="constant",
    ),
]

MaxStaleness = Annotated[
    int | None,
    option(CLOCK, "Drop messages that are staler than so many steps of the server.", min=0, metavar="TAU"),
]

AsyncMix = Annotated[
    bool,
    option(
        CLOCK,
        "The asynchronous server mixes models (FedAsync), instead of adding updates.",
        "--async-mix/--no-async-mix",
    ),
]

Deadline = Annotated[
    float | None,
    option(CLOCK, "Close a round after so many virtual seconds; who is late does not count.", metavar="S"),
]

OverSelect = Annotated[
    int | None,
    option(CLOCK, "Select N clients a round, and close it with the first --cohort reports.", min=1, metavar="N"),
]
