"""What a run says last: what is safe, and how it goes on."""

import os
from typing import Any

from fedjaxlite.observers.observer import History
from fedjaxlite.observers.records import here
from fedjaxlite.storage import StorageError, failed, words_of
from fedjaxlite.training.checkpoints import Checkpoints


def storage_failed(error: StorageError, kept: Checkpoints) -> StorageError:
    """The error of storage, with the last whole checkpoint named.

    Args:
      error: what failed.
      kept: the run's checkpoints.
    """
    return failed(
        error.errno,
        f"{words_of(error)}. {kept.whole()}; what was done since is lost. Free some space, or bring the storage back, "
        "then go on with resume=True (--resume on the command line)",
    )


def how_to_go_on(history: History, num_rounds: int, out_dir: Any) -> str:
    """What a run says that SIGTERM ended: how much of it is done, and how it goes on."""
    done = int(here(history.state.round))
    if done >= num_rounds or history.stopped not in (None, "SIGTERM"):
        return f"SIGTERM: the run in {os.fspath(out_dir)} has ended, all of it is saved"
    return (
        f"SIGTERM: {done} of {num_rounds} rounds in {os.fspath(out_dir)} are done and saved. Go on by resume=True "
        "(--resume on the command line)"
    )
