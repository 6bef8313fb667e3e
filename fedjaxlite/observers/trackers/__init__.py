"""Trackers: what a run records, handed to experiment trackers; one tracker a file.

    tracking.py     what they have in common: which run goes on, what is sent again, what a failure costs
    to_mlflow.py to_wandb.py to_trackio.py   what is special to each

What comes in: an observer for a tracker that is a package of its own; none of them is needed to import this.
"""

from fedjaxlite.observers.trackers.to_mlflow import mlflow as mlflow
from fedjaxlite.observers.trackers.to_trackio import trackio as trackio
from fedjaxlite.observers.trackers.to_wandb import wandb as wandb
