"""The terms of a run, which no server may change in the middle: the program, its shapes, who the device is, the rounds.

Pure: a reason to refuse, or None. Most of it is the manifest's, whose hash the device has pinned; the task repeats it,
and a task that says otherwise is refused, not followed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedjaxlite.deploy.device.artifact import dtype_of
from fedjaxlite.deploy.device.home.states import Kept, Progress


def changed_program(pinned: str, task: Mapping[str, Any], *, new_programs: bool) -> str | None:
    """Why a task's program is refused by its hash, before a byte of it is fetched.

    Args:
      pinned: sha256 of the program that the device has agreed to, hex; "" for none yet.
      task: the head of the server's task.
      new_programs: whether the owner allows others.

    Returns:
      A reason to refuse, or None.
    """
    if not pinned or task["program"] == pinned or new_programs:
        return None
    return (
        f"the server asks to run the program {task['program']}, and this device has agreed to {pinned}. If its owner "
        "agrees to the new one, let them enroll anew or set new_programs = true in policy.toml"
    )


def breach(
    manifest: Mapping[str, Any],
    task: Mapping[str, Any],
    *,
    client: int,
    progress: Progress,
    committed: Kept | None,
    pending: Kept | None,
) -> str | None:
    """What a task changes of the terms that the pinned program and the rounds so far have set.

    Args:
      manifest: of the pinned program.
      task: the head of the server's task.
      client: the device's number.
      progress: the last work that was begun.
      committed: the state after the last update that counted.
      pending: what is not settled.

    Returns:
      A reason to refuse, or None.
    """
    for name, of_task, of_manifest in (
        ("client", task["client"], client),
        ("masked", task["masked"], manifest["masked"]),
        ("model_bytes", task["model_bytes"], size_of(manifest["download"])),
    ):
        if of_task != of_manifest:
            return f"the task says {name} {of_task}, where this device and its program have {of_manifest}"
    if task["what"] == "evaluate":
        return None if manifest["evaluation"] else "the task is an evaluation, and the program has none"
    upload = size_of(manifest["message"])
    if task["upload_bytes"] != upload:
        return f"the task says upload_bytes {task['upload_bytes']}, where the program's message has {upload}"
    return _out_of_turn(task, progress, committed, pending)


def _out_of_turn(
    task: Mapping[str, Any], progress: Progress, committed: Kept | None, pending: Kept | None
) -> str | None:
    """Rounds go forward: what was done, or lies before, is not done again, and an open end is settled first."""
    asked, last = (task["round"], task["attempt"]), (progress.round, progress.attempt)
    named = f"round {asked[0]} (attempt {asked[1]})"
    if committed is not None and committed.program == task["program"] and asked[0] <= committed.round:
        return f"the task is for {named}, and this device's update of round {committed.round} is in a sum already"
    if progress.program == task["program"]:
        if asked < last:
            return f"the task is for {named}, and this device has begun round {last[0]} (attempt {last[1]})"
        if asked == last and progress.done:
            return f"the task is for {named}, which the server has settled already"
    if pending is not None and pending.program == task["program"] and pending.round < asked[0]:
        return (
            f"the task is for {named}, and the server has not said whether the update of round {pending.round} counted"
        )
    return None


def size_of(specs: Sequence[Mapping[str, Any]]) -> int:
    """Bytes of the arrays that a manifest lists.

    Example:
      >>> size_of([{"path": "w", "shape": [2, 3], "dtype": "float32"}, {"path": "n", "shape": [], "dtype": "bool"}])
      25
    """
    return sum(math.prod(spec["shape"]) * dtype_of(spec["dtype"]).itemsize for spec in specs)
