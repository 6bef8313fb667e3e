"""What a supervisor sees of a run that ended: a number of its own for each way."""

import errno
import os
import signal

import pytest
from test_cli import SMALL, call

from fedjaxlite import exit_codes, storage
from fedjaxlite.observers import records
from fedjaxlite.training import checkpoint_folder


def test_the_numbers_are_those_of_the_page() -> None:
    assert [exit_codes.DONE, exit_codes.REFUSED, exit_codes.FAILED] == [0, 2, 3]
    assert [exit_codes.PEER_LOST, exit_codes.STORAGE_FAILED] == [4, 5]
    assert (exit_codes.INTERRUPTED, exit_codes.TERMINATED) == (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert exit_codes.PIPE_CLOSED == 141


@pytest.mark.whole
def test_a_model_that_is_lost_ends_the_command_with_3_unless_told_to_go_on(tmp_path) -> None:
    options = [
        *SMALL,
        "--rounds",
        3,
        "--client-lr",
        100,
        "--server-lr",
        3e38,
        "--lost-rounds",
        0,
        "--diverged-rounds",
        0,
    ]
    told = call("run", *options, "--out", tmp_path / "a", code=exit_codes.FAILED)
    assert "failed: the model is not finite after round 1: NaN or infinity in " in told
    assert "the largest entries of updates in it were of clients " in told
    told = call("run", *options, "--no-stop-at-nan", "--out", tmp_path / "b")
    assert "failed" not in told
    assert [record["round"] for record in records.read(tmp_path / "b" / "records.jsonl")] == [1, 2, 3]


@pytest.mark.whole
def test_storage_that_fails_ends_the_command_with_5_and_names_the_checkpoint(tmp_path, monkeypatch) -> None:
    seal = checkpoint_folder._seal

    def full(folder, meta):
        if meta["round"] == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return seal(folder, meta)

    monkeypatch.setattr(storage, "WAITS", (0.0, 0.0))
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_folder, "_seal", full)
        options = [*SMALL, "--rounds", 6, "--checkpoint-every", 2, "--out", out]
        told = call("run", *options, code=exit_codes.STORAGE_FAILED)
    assert "error: the checkpoint of round 4 could not be written to" in told
    assert f"The last whole checkpoint is that of round 2, '{out}/checkpoints/2'" in told.replace("\n", "")
    assert "Traceback" not in told
    assert "after 6 rounds" in call("run", "--resume", out, "--rounds", 6, "--no-progress")
