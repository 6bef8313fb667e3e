"""The commands."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from fedjaxlite.cli import settings as options
from fedjaxlite.cli.deploying.commands import add_to
from fedjaxlite.cli.options.option import MACHINE
from fedjaxlite.cli.settings import Settings, takes_settings
from fedjaxlite.cli.several.ending import told_plainly

app = typer.Typer(
    name="fedjaxlite",
    help="Federated learning in JAX: simulated clients by the thousand, as one XLA program.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

_EXAMPLES = "\n\n".join(
    [
        "**Examples**",
        "fedjaxlite run",
        "fedjaxlite run --partition shards:2 --cohort 20 --server-optimizer adam --out runs/adam",
        "fedjaxlite run --clip-norm 1.0 --quantize-bits 8 --dropout 0.1",
        "fedjaxlite run --clip-norm 0.5 --epsilon 8 --cohort 30",
        "fedjaxlite run --dataset mnist --model 2nn --partition iid --epochs 1 --rounds 200 --target-accuracy 0.97",
        "fedjaxlite run --dataset shakespeare --clients 50 --rounds 20",
        "fedjaxlite run --algorithm scaffold --client-lr 0.05 --set server_lr=0.5",
        "fedjaxlite run --algorithm ditto --set lam=0.1 --personal-eval",
        "fedjaxlite run --robust trimmed_mean:f=3 --before nnm:f=3 --attack alie --bad 3 --cohort 20",
        "fedjaxlite run --resume runs/adam --rounds 200",
        "fedjaxlite run --config runs/adam/config.toml --seed 1",
    ]
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from fedjaxlite.training import run_config

        typer.echo("  ".join(f"{name} {version}" for name, version in run_config.versions().items()))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show versions and exit.")
    ] = False,
) -> None:
    del version


@app.command(epilog=_EXAMPLES)
@takes_settings
def run(ctx: typer.Context, settings: Settings) -> None:
    """Trains a model with federated averaging, or any other method, and keeps the whole run.

    Without options: 100 clients with unlike shares of the handwritten digits (Dirichlet, alpha 0.3), 10 of them a
    round, 100 rounds. Writes records.jsonl (one line a round), config.toml (what repeats the run), curves.png and
    checkpoints to --out. A run that was killed goes on by --resume, and ends with the same bits.
    """
    from fedjaxlite.cli import commands

    with told_plainly(settings.debug):
        commands.run(_merged(ctx, settings))


_PLAN_EXAMPLES = "\n\n".join(
    [
        "**Examples**",
        "fedjaxlite plan --dataset mnist --model cnn --partition shards:2",
        "fedjaxlite plan --model cnn --target h100",
        "fedjaxlite plan --model cnn --cohort 64 --target tpu-v5e-8",
    ]
)


@app.command(epilog=_PLAN_EXAMPLES)
@takes_settings
def plan(
    ctx: typer.Context,
    settings: Settings,
    *,
    target: Annotated[
        str | None,
        typer.Option(
            help="Compile for these accelerators, which need not be here, and run nothing: h100, 8xh100, tpu-v5e-8, "
            "v5e:2x4 ...; an unknown name lists all. Needs fedjaxlite[rehearse-gpu] or [rehearse-tpu].",
            metavar="NAME",
            rich_help_panel=MACHINE,
        ),
    ] = None,
) -> None:
    """Tells what `run` with the same options will cost: traffic, steps, memory, time, and the best --lanes.

    With --target it compiles the round for an accelerator that is not at hand, and tells whether it fits there, and the
    least time that it can take.
    """
    from fedjaxlite.cli import commands

    with told_plainly(settings.debug):
        commands.plan(_merged(ctx, settings), target)


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(help="Which method, or package.module:function; without it, a list of all.")
    ] = None,
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    """Lists the methods that `run --algorithm` takes, with hyperparameters, sources and costs; or all about one."""
    with told_plainly(debug):
        from fedjaxlite.cli.methods import known, listing

        lines = listing.all_methods() if name is None else listing.one_method(known.find(name, "the method"))
        typer.echo("\n".join(lines))


@app.command()
def bench(
    workload: Annotated[list[str] | None, typer.Option(help="Which workload; may be given again. All of them.")] = None,
    size: Annotated[str, typer.Option(help="How large.")] = "full",
    out: Annotated[Path | None, typer.Option(help="Folder for the results.", metavar="DIR")] = None,
    repeats: Annotated[int, typer.Option(help="Turns in which every program is timed once.", min=1)] = 7,
    peers: Annotated[
        str | None,
        typer.Option(help="Other libraries to run as well, with commas between: fedjax, flower, pfl, drjax, torch."),
    ] = None,
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    """Measures rounds against the best that raw JAX does on this machine, and against other libraries.

    Each library of --peers runs in an environment of its own, made on first use by pip in the cache folder;
    FEDJAXLITE_PEER_FEDJAX and its like name a Python instead.
    """
    with told_plainly(debug):
        from fedjaxlite.benchmarks import suite

        further = {} if peers is None else {"peers": [name.strip() for name in peers.split(",") if name.strip()]}
        suite.main(workload or None, size, out, repeats, **further)


@app.command()
def reproduce(
    name: Annotated[str | None, typer.Argument(help="Which table; without it, a list of all.")] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds; intervals need two or more.", min=1)] = 5,
    rows: Annotated[
        list[str] | None,
        typer.Option(help='Only these rows, such as "2nn IID*"; may be given again.', metavar="GLOB"),
    ] = None,
    rates: Annotated[
        str | None, typer.Option(help="Client learning rates to search, with commas between, or 'grid'.")
    ] = None,
    smoke: Annotated[bool, typer.Option(help="Seconds instead of minutes; the figures mean nothing.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show the rows and how long each takes here.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for rows, table and figure; runs/NAME otherwise.", metavar="DIR")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of prepared data; FEDJAXLITE_DATA otherwise.", metavar="DIR")
    ] = None,
    again: Annotated[bool, typer.Option(help="Run rows again that are in the folder already.")] = False,
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    """Runs a table of a paper again and prints it beside the paper's figures.

    Rows are kept as they are done: the same command goes on where it was stopped. Rows that would take more than half
    an hour on this machine are left out, and run where --rows names them.
    """
    from fedjaxlite.cli import reproduction

    with told_plainly(debug):
        reproduction.reproduce(
            name,
            reproduction.Asked(seeds, tuple(rows or ()), rates, smoke, listed, out, data_dir, again),
        )


add_to(app)


def _merged(ctx: typer.Context, settings: Settings) -> Settings:
    """The settings; with --resume or --config those of the file, under what the command line gives itself."""
    if settings.resume is not None and settings.config is not None:
        raise ValueError("--resume and --config were both given; --resume takes the config.toml of its folder.")
    path = settings.config if settings.resume is None else settings.resume / "config.toml"
    if path is None:
        return settings
    given: dict[str, Any] = {
        name: value
        for name, value in settings._asdict().items()
        if (source := ctx.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }
    if settings.resume is not None and "out" in given:
        raise ValueError("--resume and --out were both given; a resumed run goes on in its own folder.")
    return options.from_file(Path(os.path.expanduser(path)), given)  # noqa: PTH111  (a path that may be relative)
