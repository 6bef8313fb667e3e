"""MLflow."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fedjaxlite import checks
from fedjaxlite.observers import records
from fedjaxlite.observers.observer import Observer, Start
from fedjaxlite.observers.trackers.tracking import Open, package, text_or_none, tracked

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
_METRICS, _PARAMS, _LENGTH = 1000, 100, 6000
"""What MLflow takes in one call, and the length of a parameter's text."""


def mlflow(
    experiment: str = "fedjaxlite",
    *,
    uri: str | None = None,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Observer:
    """Sends every number of every record to MLflow, with the round as its step.

    What was composed becomes the run's parameters. A run that goes on in its folder (`fl.train(..., resume=True)`) goes
    on in MLflow too: the folder's `mlflow.json` says in which run. Rounds that are done twice are sent once.

    Args:
      experiment: the experiment's name; made where there is none.
      uri: of the tracking server, such as "http://localhost:5000", or a folder; None is MLflow's own choice. The
        package `mlflow-skinny` knows servers and folders alone, `mlflow` databases too.
      name: of the run; None lets MLflow choose.
      tags: of a new run.
      config: parameters beside what was composed, such as a program's own arguments.

    Returns:
      an Observer for `fl.train(observers=[...])`. What MLflow refuses before the first round is raised. Later a server
      that does not answer never ends a run: a warning says so, and the rounds are sent again with later ones. A run
      that fails or raises is marked as FAILED, one that Ctrl-C or SIGTERM ends as KILLED.

    Raises:
      ModuleNotFoundError: MLflow is not installed. TypeError: for arguments that are no texts.
    """
    checks.text(experiment=experiment)
    text_or_none(uri=uri, name=name)
    library = package("mlflow", "MLflow", "mlflow")

    def open_run(start: Start, facts: Mapping[str, Any], run_id: str | None) -> Open:
        del start
        client = library.MlflowClient(tracking_uri=uri)
        if run_id is None:
            found = client.get_experiment_by_name(experiment)
            place = client.create_experiment(experiment) if found is None else found.experiment_id
            run_id = str(client.create_run(place, run_name=name, tags=dict(tags or {})).info.run_id)
            params = [library.entities.Param(_named(key), str(value)[:_LENGTH]) for key, value in facts.items()]
            for first in range(0, len(params), _PARAMS):
                client.log_batch(run_id, params=params[first : first + _PARAMS], synchronous=True)
        else:
            client.update_run(run_id, status="RUNNING")

        def send(waiting: Sequence[records.Record]) -> None:
            now = int(time.time() * 1000)
            metrics = [
                library.entities.Metric(_named(key), float(value), now, record["round"])
                for record in waiting
                for key, value in records.numbers_of(record).items()
            ]
            for first in range(0, len(metrics), _METRICS):
                client.log_batch(run_id, metrics=metrics[first : first + _METRICS], synchronous=True)

        close = lambda how: client.set_terminated(run_id, _STATUS[how])  # noqa: E731
        return Open(run_id, send, close, f"experiment {experiment!r}, run {run_id}")

    return tracked("mlflow", open_run, config)


def _named(key: str) -> str:
    """A name with the characters that MLflow allows."""
    return re.sub(r"[^\w\-. :/]", "_", key)
