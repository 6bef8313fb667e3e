"""Observers: what looks on while a run goes, round by round: progress, records, early stopping, and one's own.

An observer is a few functions. The loop knows nothing of what they do, so a running epsilon, a bandwidth budget or a
live plot is an observer like those in this room:

    observer.py   what an observer is told, and what it may answer
    records.py    one dict of plain numbers a round, and the file of JSON lines that holds them
    records_log.py   that file while a run writes it
    left_out.py   whose messages did not count, by name, in a round and over a run
    recovery.py   what a run that goes on makes of a file of records that was damaged
    files.py      records and event files, written round by round
    stopping.py   a target that is reached, a metric that no longer improves
    guards.py     the end of a run that has nothing left to gain
    progress.py   a bar on a terminal, plain lines elsewhere
    trackers/     MLflow, Weights & Biases, Trackio

What comes in: whatever watches a run of any algorithm. What it watches for privacy stands in `privacy/`.
"""

from fedjaxlite.observers.files import to_jsonl as to_jsonl
from fedjaxlite.observers.files import to_tensorboard as to_tensorboard
from fedjaxlite.observers.guards import stop_when_diverged as stop_when_diverged
from fedjaxlite.observers.guards import stop_when_lost as stop_when_lost
from fedjaxlite.observers.left_out import left_out as left_out
from fedjaxlite.observers.observer import History as History
from fedjaxlite.observers.observer import LastRound as LastRound
from fedjaxlite.observers.observer import Observer as Observer
from fedjaxlite.observers.observer import Start as Start
from fedjaxlite.observers.observer import Stop as Stop
from fedjaxlite.observers.observer import as_observer as as_observer
from fedjaxlite.observers.stopping import early_stop as early_stop
from fedjaxlite.observers.stopping import stop_at as stop_at
from fedjaxlite.observers.trackers import mlflow as mlflow
from fedjaxlite.observers.trackers import trackio as trackio
from fedjaxlite.observers.trackers import wandb as wandb
