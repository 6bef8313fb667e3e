"""Options of a run: robust rules, and attacks to hold against them."""

from typing import Annotated

from fedjaxlite.cli.options.option import ROBUST, option

Robust = Annotated[
    str | None,
    option(
        ROBUST,
        "A rule in place of the mean, which some bad clients cannot wreck: median, trimmed_mean:f=3, krum:f=3 ...; an "
        "unknown name lists all. Or your own, package.module:function.",
        metavar="RULE",
    ),
]

Before = Annotated[
    str | None,
    option(
        ROBUST,
        "What is done to all messages before the rule, with + between: nnm:f=3, bucketing:size=2 ...",
        metavar="NAME",
    ),
]

Attack = Annotated[
    str | None,
    option(
        ROBUST,
        "What bad clients do, with + between: alie, sign_flip:scale=4, label_flip ...; needs --bad.",
        metavar="NAME",
    ),
]

Bad = Annotated[
    str | None,
    option(
        ROBUST,
        "Who is bad: 3 is the first three clients; 3,7,9 are those (one is 3,); 0.1 is each client in a tenth of its "
        "rounds.",
        metavar="WHO",
    ),
]
