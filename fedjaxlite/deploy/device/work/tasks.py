"""One task of the server: its terms are looked at, its program and model fetched, it is done, and the answer sent.

A device that refuses a task raises `Refused` with the reason, and is afterwards what it was before.
"""

import asyncio
import hashlib
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedjaxlite.deploy.device import data, policy, program, terms
from fedjaxlite.deploy.device.artifact import pack, unpack
from fedjaxlite.deploy.device.home import folder, ledger, states
from fedjaxlite.deploy.device.home.states import Kept
from fedjaxlite.deploy.device.program import Program
from fedjaxlite.deploy.device.protocol import Message
from fedjaxlite.deploy.device.work import masked, moving
from fedjaxlite.deploy.device.work.moving import Ask
from fedjaxlite.deploy.device.work.needs import Device, Refused, Stopped, model_of_task, program_of_task, state_of
from fedjaxlite.transport.credentials import kept as kept_credentials


async def do(device: Device, ask: Ask, task: Mapping[str, Any]) -> None:
    """Does a task and sends its answer.

    Args:
      device: who does it.
      ask: what carries messages; everything is told to the ledger here.
      task: the head of the server's message.

    Raises:
      Refused: this device does not do it.
      ServerRefuses, ServerMisbehaves: the server does not go on, or goes on otherwise than was agreed.
    """
    reason = terms.changed_program(device.home.program, task, new_programs=device.policy.new_programs)
    refuse(reason or _verdict(device, None, task))
    ready = await program_of_task(device, ask, task)
    manifest = ready.manifest
    pending = states.pending(device.home)
    refuse(
        masked.refusal(manifest, known=(device.home.folder / folder.KNOWN).exists())
        or terms.breach(
            manifest,
            task,
            client=device.home.client,
            progress=states.progress(device.home),
            committed=states.committed(device.home),
            pending=pending,
        )
        or _verdict(device, manifest, task)
    )
    try:
        data.check(device.arrays, manifest)
        masked.identity(b"", device.home.folder / folder.KNOWN)  # a damaged file is found before the work is done
    except ValueError as error:
        raise Refused(str(error)) from error
    folder.pin(device.home, ready.sha256)
    if task["what"] == "evaluate":
        return await _evaluate(device, ask, task, ready)
    work = _work_of(task)
    before = _done_before(device, task, work)
    if before is None:
        return await _train(device, ask, task, ready, work)
    kept, message = before
    states.begin(device.home, ready.sha256, kept.round, kept.attempt)
    states.keep(device.home, kept, message)
    return await _upload(device, ask, ready, kept, message, resume=True)


def _done_before(device: Device, task: Mapping[str, Any], work: str) -> tuple[Kept, bytes] | None:
    """The same work, if its update is still here: the same bytes leave then, under the newest attempt.

    Noise that is drawn twice for one update would protect the examples less.
    """
    for kept in (states.pending(device.home), states.dropped(device.home)):
        if kept is not None and (kept.work, kept.num_examples) == (work, device.num_examples):
            message = states.message_of(device.home, kept)
            if message is not None:
                return kept._replace(attempt=task["attempt"]), message
    return None


def refuse(reason: str | None) -> None:
    """Raises `Refused` where there is a reason to."""
    if reason is not None:
        raise Refused(reason)


def _verdict(device: Device, manifest: Mapping[str, Any] | None, task: Mapping[str, Any]) -> str | None:
    last = states.progress(device.home)
    begun = (last.program, last.round, last.attempt) == (task["program"], task["round"], task["attempt"])
    return verdict(device, manifest, task, goes_on=begun)


def verdict(
    device: Device, manifest: Mapping[str, Any] | None, task: Mapping[str, Any] | None, *, goes_on: bool
) -> str | None:
    """Why the owner's rules speak against a task.

    Args:
      device: whose owner.
      manifest: of the task's program, where it is known.
      task: the head of the server's message; None before one came.
      goes_on: whether it was begun before: then it is no new one to what is allowed of them.

    Returns:
      A reason, or None.
    """
    now, used = device.clock(), ledger.Used()
    if device.policy.counts:
        used = ledger.used(device.log, now)
        used = used._replace(rounds=max(0, used.rounds - 1), last=None) if goes_on else used
    status, n = device.status(), device.num_examples
    return policy.verdict(device.policy, manifest, task, status, used, num_examples=n, now=now)


async def _train(device: Device, ask: Ask, task: Mapping[str, Any], ready: Program, work: str) -> None:
    down = await model_of_task(device, ask, task, ready)
    number, attempt = task["round"], task["attempt"]
    about = {"round": number, "attempt": attempt, "program": ready.sha256}
    states.begin(device.home, ready.sha256, number, attempt)
    ledger.record(device.log, device.clock(), "train", about)
    device.report(f"round {number}: training on {device.num_examples} examples")
    noise = np.frombuffer(os.urandom(8), np.uint32) if ready.manifest["noise"] else None
    done = await _ran(
        program.run,
        *(ready, down, state_of(device.home, ready), device.arrays, device.num_examples),
        np.asarray(task["key"], np.uint32),
        client=device.home.client,
        noise=noise,
    )
    if not done.finite and not ready.manifest["masked"]:  # behind a mask, zeros of weight 0 keep the sum going
        raise Refused("the update is not finite")
    for name, value in done.info.items():
        device.report(f"round {number}: {name} {value:.4g}")
    kept = Kept(ready.sha256, number, attempt, work, "", device.num_examples, pack(done.state))
    if ready.manifest["masked"]:
        states.keep(device.home, kept, None)
        return await _add(device, ask, ready, kept, done.message[0])
    message = pack(done.message)
    kept = kept._replace(message=hashlib.sha256(message).hexdigest())
    states.keep(device.home, kept, message)
    return await _upload(device, ask, ready, kept, message)


async def _ran(work: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """Runs a program beside the loop; one that fails, for want of memory say, must not end the device."""
    try:
        return await asyncio.to_thread(work, *inputs, **options)
    except Exception as error:
        raise Refused(f"the program failed on this device: {type(error).__name__}: {str(error)[:300]}") from error


async def _add(device: Device, ask: Ask, ready: Program, kept: Kept, vector: np.ndarray) -> None:
    own = kept_credentials(device.home.folder)

    async def wait(seconds: float) -> None:
        # Whoever leaves a sum in the middle makes all others mend it: a device that is to end stays until it is over.
        try:
            await device.wait(seconds)
        except Stopped:
            await asyncio.sleep(seconds)

    await masked.take_part(
        moving.told(ask, device.home, device.clock, program=kept.program),
        ready.manifest,
        vector,
        round_number=kept.round,
        attempt=kept.attempt,
        client=device.home.client,
        identity=masked.identity(own.private, device.home.folder / folder.KNOWN),
        wait=wait,
    )


async def _upload(
    device: Device, ask: Ask, ready: Program, kept: Kept, message: bytes, *, resume: bool = False
) -> None:
    specs = ready.manifest["message"]  # a weight (how many examples) is no part of the update's length
    leaves = zip(unpack(message, specs), specs, strict=True)
    norm = ledger.norm_of([leaf for leaf, spec in leaves if not spec["path"].startswith("message.weight")])
    facts = {"program": kept.program, "sha256": kept.message, "norm": norm, "num_examples": kept.num_examples}
    asked = moving.told(ask, device.home, device.clock, **facts)
    where = {"round_number": kept.round, "attempt": kept.attempt}
    await moving.upload(asked, ready.manifest, message, resume=resume, **where)


async def _evaluate(device: Device, ask: Ask, task: Mapping[str, Any], ready: Program) -> None:
    down = await model_of_task(device, ask, task, ready)
    about = {"round": task["round"], "attempt": task["attempt"], "program": ready.sha256}
    ledger.record(device.log, device.clock(), "evaluate", about)
    state, n = state_of(device.home, ready), device.num_examples
    found = await _ran(program.evaluate, ready, down, state, device.arrays, n)
    metrics = {name: value for name, value in found.items() if math.isfinite(value)}
    if len(metrics) < len(found):
        raise Refused(f"the model's metrics on this device are not finite: {found}")
    asked = moving.told(ask, device.home, device.clock, program=ready.sha256, metrics=metrics)
    head = {"round": task["round"], "metrics": metrics, "num_examples": n}
    moving.of_kind(await asked(Message("evaluated", head, b"")), "taken")
    device.report(f"round {task['round']}: told the server {metrics}")


def _work_of(task: Mapping[str, Any]) -> str:
    """What a task computes, as a hash: equal for tasks that give the same update but for its noise."""
    words = (task["program"], task["model"], *task["key"], task["client"], task["round"])
    return hashlib.sha256(" ".join(map(str, words)).encode()).hexdigest()
