"""Weights & Biases."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedjaxlite import checks
from fedjaxlite.observers import records
from fedjaxlite.observers.observer import Observer, Start
from fedjaxlite.observers.trackers.tracking import Open, package, text_or_none, tracked


def wandb(
    project: str = "fedjaxlite",
    *,
    name: str | None = None,
    mode: str | None = None,
    directory: str | os.PathLike[str] | None = None,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> Observer:
    """Sends every number of every record to Weights & Biases, with the round as its step.

    What was composed becomes the run's config. A run that goes on in its folder (`fl.train(..., resume=True)`) goes on
    in Weights & Biases too: the folder's `wandb.json` says in which run. Rounds that are done twice are sent once.

    Args:
      project: the project's name.
      name: of the run; None lets it be chosen.
      mode: "online", "offline" (files alone, for `wandb sync`) or "disabled"; None follows WANDB_MODE.
      directory: where its files go; None is the run's folder, or the working directory.
      config: facts beside what was composed, such as a program's own arguments.
      **options: further arguments of `wandb.init`, such as entity, group or tags.

    Returns:
      an Observer for `fl.train(observers=[...])`. What fails before the first round is raised (a missing login); later
      its own process sends, and no network ever ends a run. A run that fails or raises, or that Ctrl-C or SIGTERM ends,
      is marked as failed, by exit code 1.

    Raises:
      ModuleNotFoundError: it is not installed. TypeError, ValueError: for arguments that do not fit.
    """
    checks.text(project=project)
    text_or_none(name=name, directory=directory)
    checks.one_of(("online", "offline", "disabled", None), mode=mode)
    for taken in ("id", "resume"):
        if taken in options:
            raise TypeError(f"`{taken}` was given; the run's folder says which run goes on. Leave it out.")
    library = package("wandb", "Weights & Biases", "wandb")

    def open_run(start: Start, facts: Mapping[str, Any], run_id: str | None) -> Open:
        place = start.folder if directory is None else directory
        run = library.init(
            project=project,
            name=name,
            mode=mode,
            # Its own process writes the files, and may be an earlier one, which works in another folder.
            dir=str(Path("." if place is None else place).resolve()),
            config=dict(facts),
            id=run_id,
            resume=None if run_id is None else "allow",
            allow_val_change=True,  # a run that goes on may go further
            reinit="create_new",  # beside whatever the program tracks itself
            **options,
        )

        def send(waiting: Sequence[records.Record]) -> None:
            for record in waiting:
                run.log(records.numbers_of(record), step=record["round"])

        def close(how: str) -> None:
            run.finish(exit_code=0 if how == "finished" else 1)

        return Open(str(run.id), send, close, f"project {project!r}, run {run.id}, files in {run.dir}")

    return tracked("wandb", open_run, config)
