"""The device's half of a masked round: its vector leaves as one summand of a secure sum, and in no other way.

The steps are those of the secure aggregation protocol, driven by what the server answers to `secure` messages; secrets
come from the device's operating system and live for one attempt of one round, in memory.
"""

import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedjaxlite.deploy.device.link import ServerRefuses
from fedjaxlite.deploy.device.protocol import Message
from fedjaxlite.deploy.device.work.moving import Ask, ServerMisbehaves, of_kind

_MOST_ATTEMPTS, _MOST_ROUNDS = 1 << 16, 1 << 48
_SHORTEST_WAIT, _LONGEST_WAIT, _PATIENCE = 0.05, 30.0, 3600.0


def number_of(round_number: int, attempt: int) -> int:
    """The number of a secure sum: another one for every attempt, since keys and masks may never serve twice.

    Raises:
      ValueError: there is none.

    Example:
      >>> number_of(3, 1)
      196609
    """
    if not (0 <= round_number < _MOST_ROUNDS and 0 <= attempt < _MOST_ATTEMPTS):
        raise ValueError(f"round {round_number}, attempt {attempt} has no secure sum.")
    return round_number * _MOST_ATTEMPTS + attempt


def refusal(manifest: Mapping[str, Any], *, known: bool) -> str | None:
    """Why the manifest's secure sum is none that keeps a client's vector to itself, or None.

    Args:
      manifest: of the pinned program.
      known: whether the device has the others' keys.
    """
    if not manifest["masked"]:
        return None
    if manifest["secure_sum"] is None:
        return "its updates are masked, and its manifest names no secure sum"
    try:
        parameters = _parameters(manifest)
    except (TypeError, ValueError) as error:
        return f"its secure sum keeps no promise: {error}"
    if parameters.server == "lying" and not known:
        return "its secure sum is signed, and this device knows no keys of the others: put known.json into its folder"
    words = [spec["shape"] for spec in manifest["message"] if spec["dtype"] == "uint32"]
    if words != [[parameters.length]] or len(manifest["message"]) != 1:
        return f"its secure sum is of {parameters.length} words, and its message is another"
    return None


def _parameters(manifest: Mapping[str, Any]) -> Any:
    from fedjaxlite.privacy import secagg

    return secagg.parameters(**manifest["secure_sum"])


def identity(private: bytes, known: Path) -> Any:
    """Who the device is to the others, where the server may lie about who is there.

    Args:
      private: the device's Ed25519 private key, 32 bytes.
      known: a JSON file, {"client's number": "its Ed25519 public key, hex"}, which the owner got from somebody other
        than the server.

    Returns:
      secagg.Identity, or None where there is no such file.

    Raises:
      ValueError: the file holds something else.
    """
    from fedjaxlite.privacy import secagg

    try:
        given = json.loads(known.read_bytes())
        keys = {int(name): bytes.fromhex(key) for name, key in given.items()}
        if any(len(key) != 32 for key in keys.values()):
            raise ValueError("a key has another length than 32 bytes")
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f'{str(known)!r} is damaged ({error}); expected {{"number": "64 digits of hex"}} for every client.'
        ) from error
    return secagg.Identity(private, keys)


async def take_part(
    ask: Ask,
    manifest: Mapping[str, Any],
    vector: np.ndarray,
    *,
    round_number: int,
    attempt: int,
    client: int,
    identity: Any = None,
    wait: Callable[[float], Awaitable[None]],
    random: Callable[[int], bytes] = os.urandom,
) -> None:
    """Takes part in one secure sum, to its end.

    Args:
      ask: see `moving.told`.
      manifest: of the pinned program: what the sum is of, and of how many, whatever the server says later.
      vector: uint32 `[length]`, the message of the program.
      round_number: the round's number.
      attempt: which try of the round.
      client: the device's number.
      identity: needed where the manifest says that the server may lie; see `identity`.
      wait: waits so many seconds; it may raise to leave.
      random: where secrets come from.

    Raises:
      ServerRefuses: the server, or this device, leaves the round; the text says why.
      ServerMisbehaves: an answer out of order.

    Guarantees:
      What leaves are messages of the protocol that its own steps made; the vector leaves once, under its masks.
    """
    from fedjaxlite.privacy import secagg
    from fedjaxlite.privacy.secagg import messages

    parameters = _parameters(manifest)
    limits = messages.limits(parameters)
    try:
        number = number_of(round_number, attempt)
    except ValueError as error:
        raise ServerMisbehaves(str(error)) from error
    head = {"round": round_number, "attempt": attempt}
    state, step = secagg.client.advertise(parameters, round_number=number, me=client, identity=identity, random=random)
    body, waited = messages.encode(step), 0.0
    while waited < _PATIENCE:
        reply = of_kind(await ask(Message("secure", head, body)), "secure", "wait", "taken")
        if reply.kind == "taken":
            return
        if reply.kind == "wait" or not reply.body:
            seconds = min(max(reply.head.get("seconds", 0.1), _SHORTEST_WAIT), _LONGEST_WAIT)
            body, waited = b"", waited + seconds
            await wait(seconds)
            continue
        if state.stage == "revealed":
            raise ServerMisbehaves("the server goes on after the last step of a secure sum.")
        try:
            told = messages.decode(reply.body, limits)
            state, step = secagg.answer(state, told, vector, primitives=secagg.keys.real(), random=random)
        except secagg.SecureAggregationError as error:
            await _leave(ask, head, number, client, error)
            raise ServerRefuses(
                f"this device leaves the secure sum: {type(error).__name__}: {error}", again=True
            ) from error
        body, waited = messages.encode(step), 0.0
    raise ServerRefuses(f"the secure sum has not gone on for {waited:.0f} seconds.", again=True)


async def _leave(ask: Ask, head: dict[str, Any], number: int, client: int, error: Any) -> None:
    """Tells the others why this device leaves the sum, so that they need not wait for it."""
    from fedjaxlite.privacy.secagg import errors, messages

    blame = errors.NOBODY if error.offender is None else error.offender
    abort = messages.Abort(number, client, blame, f"{type(error).__name__}: {error}")
    with contextlib.suppress(ServerRefuses):
        await ask(Message("secure", head, messages.encode(abort)))
