"""Options of a run: how long clients take, and what a server does that does not wait for all of them."""

from typing import Annotated

from fedjaxlite.cli.options.option import CLOCK, option

Service = Annotated[
    str | None,
    option(
        CLOCK,
        "Seconds from a client's download to its report, on a virtual clock: constant:S, exponential:MEAN, "
        "lognormal:MEDIAN,SIGMA, or file:PATH with a number for each client; or those of its device, which follow from "
        "the run's steps and bytes: devices:drawn (with numbers as in devices:drawn,seconds_per_step=0.5), or "
        "devices:PATH, a .csv file or FedScale's.",
        metavar="SPEC",
        show_default="exponential:1 with another option of the clock",
    ),
]

Availability = Annotated[
    str | None,
    option(
        CLOCK,
        "When clients are there: diurnal, mostly at night (with numbers as in diurnal:hours=6), or file:PATH, a .csv "
        "file of client,begin,end or FedScale's. A round waits for who is not there, an asynchronous server takes "
        "another. Under --sampler available and refl: diurnal, by rounds, who can be drawn.",
        metavar="SPEC",
        show_default="always",
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

Grace = Annotated[
    float | None,
    option(
        CLOCK,
        "An asynchronous server steps S seconds after the K-th message, with all that came, or as soon as M have.",
        metavar="S",
        show_default="0",
    ),
]

Staleness = Annotated[
    str | None,
    option(
        CLOCK,
        "What an update counts after TAU steps of the server: constant, polynomial:A ((1 + TAU)^-A), hinge:A,B; told "
        "leaves it to --before stale_weights.",
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
