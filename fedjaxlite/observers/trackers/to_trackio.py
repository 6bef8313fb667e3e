"""Trackio."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedjaxlite import checks
from fedjaxlite.observers import records
from fedjaxlite.observers.observer import Observer, Start
from fedjaxlite.observers.trackers.tracking import Open, package, text_or_none, tracked


def trackio(
    project: str = "fedjaxlite", *, name: str | None = None, config: Mapping[str, Any] | None = None, **options: Any
) -> Observer:
    """Sends every number of every record to Trackio, with the round as its step.

    What was composed becomes the run's config. A run that goes on in its folder (`fl.train(..., resume=True)`) goes on
    in Trackio too: the folder's `trackio.json` says in which run. Rounds that are done twice are sent once.

    Args:
      project: the project's name.
      name: of the run; None lets Trackio choose.
      config: facts beside what was composed, such as a program's own arguments.
      **options: further arguments of `trackio.init`, such as space_id, server_url or group.

    Returns:
      an Observer for `fl.train(observers=[...])`. Trackio keeps numbers in a file of its own (below TRACKIO_DIR) and
      sends them in the background, so that no network ever ends a run. It knows no state of a run: one that fails or
      raises gets an alert of level "error", and one that Ctrl-C or SIGTERM ends of level "warn".

    Raises:
      ModuleNotFoundError: Trackio is not installed. TypeError: for arguments that are no texts.
    """
    checks.text(project=project)
    text_or_none(name=name)
    if "resume" in options:
        raise TypeError("`resume` was given; the run's folder says which run goes on. Leave it out.")
    library = package("trackio", "Trackio", "trackio")

    def open_run(start: Start, facts: Mapping[str, Any], run_id: str | None) -> Open:
        del start
        run = library.init(
            project,
            name=name if run_id is None else run_id,
            config=dict(facts),
            resume="never" if run_id is None else "allow",
            **{"embed": False, **options},
        )

        def send(waiting: Sequence[records.Record]) -> None:
            for record in waiting:
                run.log(records.numbers_of(record), step=record["round"])

        def close(how: str) -> None:
            if how != "finished":
                level = library.AlertLevel.ERROR if how == "failed" else library.AlertLevel.WARN
                run.alert(f"the run was {how}" if how == "killed" else "the run failed", level=level)
            run.finish()

        return Open(str(run.name), send, close, f"project {project!r}, run {run.name}")

    return tracked("trackio", open_run, config)
