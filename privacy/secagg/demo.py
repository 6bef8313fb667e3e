"""A secure sum over loopback: a server process, client processes, some of them killed in the middle of the round.

    python -m fedjaxlite.privacy.secagg.demo --clients 20 --kill 3

Clients quantize made-up updates, take part over TCP, and some are killed: after they shared their secrets, after they
sent their vector, before the last step. The sum that the server opens is compared, bit for bit, with the sum of the
survivors' vectors and with the same round played in memory.
"""

import argparse
import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.privacy.secagg import transport
from fedjaxlite.privacy.secagg.errors import SecureAggregationError
from fedjaxlite.privacy.secagg.masking import Words
from fedjaxlite.privacy.secagg.messages import Confirm, MaskedInput, Message, Shares
from fedjaxlite.privacy.secagg.parameters import Parameters, parameters
from fedjaxlite.privacy.secagg.parties.client_state import Identity
from fedjaxlite.privacy.secagg.parties.driver import ClientStage, run_in_memory
from fedjaxlite.privacy.secagg.parties.server_state import RoundResult

# After which message a victim is killed, and what that is in memory: the first stage in which it sends nothing.
_KILLS: tuple[tuple[type[Any], ClientStage], ...] = ((Shares, "mask"), (MaskedInput, "confirm"), (Confirm, "reveal"))
_ROUND = 1


class Outcome(NamedTuple):
    """What a deployment on loopback gave.

    Attributes:
      result: the server's.
      in_memory: the result of the same round played in one process.
      expected: uint32 `[length]`, the sum of the survivors' vectors.
      killed: {client: the first stage in which it sent nothing}.
      seconds: from the start of the first process to the result.
    """

    result: RoundResult
    in_memory: RoundResult
    expected: Words
    killed: Mapping[int, ClientStage]
    seconds: float

    @property
    def exact(self) -> bool:
        """Whether all three sums, and both sets of survivors, are the same."""
        same = self.result.survivors == self.in_memory.survivors
        return same and all(np.array_equal(self.result.total, total) for total in (self.in_memory.total, self.expected))


def quantized(num_clients: int, length: int, seed: int, *, clip: float = 1.0, bits: int = 16) -> dict[int, Words]:
    """Made-up updates in [-clip, clip] as whole numbers of `bits` bits, in two's complement.

    Example:
      >>> {u: v.dtype.name for u, v in quantized(2, 3, seed=0).items()}
      {0: 'uint32', 1: 'uint32'}
    """
    draws = np.random.default_rng(seed)
    levels = 2 ** (bits - 1) - 1
    if num_clients * levels > 2**31 - 1:
        raise ValueError(f"`num_clients` is {num_clients}, too many for {bits} bits each: the sum could wrap.")
    updates = draws.normal(0, clip / 2, (num_clients, length)).clip(-clip, clip)
    return {u: np.rint(x / clip * levels).astype(np.int32).view(np.uint32) for u, x in enumerate(updates)}


def deploy(params: Parameters, vectors: Mapping[int, Words], *, kill: int, timeouts: transport.Timeouts) -> Outcome:
    """Runs a round with one process for the server and one for each client, `kill` of which are killed.

    Args:
      params: what everybody agrees on; a server that may lie, so that every step is taken.
      vectors: {client: uint32 `[length]`}.
      kill: how many clients die, in turn after sharing secrets, after sending the vector, after confirming.
      timeouts: how long anything is waited for.

    Returns:
      An `Outcome`.

    Raises:
      SecureAggregationError: the round could not be opened.
    """
    started = time.monotonic()
    server_credentials, credentials = transport.issue(vectors)
    known = transport.identities(credentials)
    public = {u: who.public for u, who in credentials.items()}
    victims = dict(zip(vectors, (_KILLS * len(vectors))[:kill], strict=False))
    leaves: dict[int, ClientStage] = {u: stage for u, (_, stage) in victims.items()}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([transport.__name__])
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs, params, tuple(vectors), server_credentials, public, timeouts))
    processes = [server]
    try:
        server.start()
        theirs.close()
        port = _received(ours, timeouts.connect)
        for u, vector in vectors.items():
            dies_after = victims[u][0] if u in victims else None
            args = (port, params, u, vector, credentials[u], known[u], timeouts, dies_after)
            processes.append(context.Process(target=_join, args=args))
            processes[-1].start()
        result = _received(ours, len(_KILLS) * timeouts.stage + timeouts.patience)
        for process in processes:
            process.join(timeouts.frame)
    finally:
        ours.close()
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
    seconds = time.monotonic() - started
    in_memory = run_in_memory(vectors, params, leaves=leaves, round_number=_ROUND, known=known).result
    expected = np.zeros(params.length, np.uint32)
    for u in result.survivors:
        expected += vectors[u]
    return Outcome(result, in_memory, expected, leaves, seconds)


def _received(pipe: Connection, seconds: float) -> Any:
    """What the server's process has to say: a port, a result, or the error to raise."""
    if not pipe.poll(seconds):
        raise TimeoutError(f"the server's process was silent for {seconds:g} seconds.")
    said = pipe.recv()
    if isinstance(said, Exception):
        raise said
    return said


def _serve(
    pipe: Connection,
    params: Parameters,
    cohort: Sequence[int],
    credentials: transport.Credentials,
    known: Mapping[int, bytes],
    timeouts: transport.Timeouts,
) -> None:
    """The server's process."""
    logging.basicConfig(level=os.environ.get("SECAGG_LOG", "ERROR"), stream=sys.stderr)
    serving = transport.serve_round(
        params,
        round_number=_ROUND,
        cohort=cohort,
        context=transport.server_context(credentials),
        known=known,
        timeouts=timeouts,
        on_listening=pipe.send,
    )
    try:
        pipe.send(asyncio.run(serving))
    except (SecureAggregationError, OSError) as error:
        pipe.send(error)


def _join(
    port: int,
    params: Parameters,
    me: int,
    vector: Words,
    credentials: transport.Credentials,
    identity: Identity,
    timeouts: transport.Timeouts,
    dies_after: type[Any] | None,
) -> None:
    """A client's process; a victim is killed as the system kills, with no chance to say so."""

    def on_sent(message: Message) -> None:
        if dies_after is not None and isinstance(message, dies_after):
            os.kill(os.getpid(), signal.SIGKILL)

    taking_part = transport.take_part(
        params,
        vector,
        round_number=_ROUND,
        me=me,
        context=transport.client_context(credentials),
        host="127.0.0.1",
        port=port,
        identity=identity,
        timeouts=timeouts,
        on_sent=on_sent,
    )
    try:
        asyncio.run(taking_part)
    except (SecureAggregationError, OSError, EOFError) as error:
        sys.exit(f"client {me}: {type(error).__name__}: {error}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 where all sums agree, 1 where they do not or no sum could be opened."""
    parser = argparse.ArgumentParser(prog="python -m fedjaxlite.privacy.secagg.demo", description=__doc__)
    parser.add_argument("--clients", type=int, default=20, help="client processes")
    parser.add_argument("--kill", type=int, default=3, help="how many of them are killed")
    parser.add_argument("--length", type=int, default=10_000, help="numbers in every update")
    parser.add_argument("--neighbors", type=int, default=None, help="k of the ring; everyone when left out")
    parser.add_argument("--colluders", type=int, default=2, help="c, in a neighborhood")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up updates; no key comes from it")
    options = parser.parse_args(arguments)
    try:
        params = parameters(
            num_clients=options.clients,
            length=options.length,
            neighbors=options.neighbors,
            colluders=options.colluders,
            server="lying",
        )
        vectors = quantized(options.clients, options.length, options.seed)
    except ValueError as error:
        parser.error(str(error))
    try:
        outcome = deploy(params, vectors, kill=options.kill, timeouts=transport.Timeouts())
    except SecureAggregationError as error:
        sys.stdout.write(f"no sum was opened: {type(error).__name__}: {error}\n")
        return 1
    result = outcome.result
    sys.stdout.write(
        f"{options.clients} client processes, t = {params.threshold} of {params.neighbors + 1}; killed before: "
        f"{dict(outcome.killed)}\n"
        f"sum of {len(result.survivors)} survivors {list(result.survivors)} in {outcome.seconds:.1f} s; dropped out "
        f"{list(result.dropped)}\n"
        f"equal to the sum in memory, bit for bit: {outcome.exact}\n"
    )
    return 0 if outcome.exact else 1


if __name__ == "__main__":
    sys.exit(main())
