"""The terms of a secure sum on the transport that it shares: its parties' names, and its own errors."""

import asyncio
import os
from collections.abc import Iterable, Mapping
from typing import Any

from fedjaxlite.privacy.secagg import masking
from fedjaxlite.privacy.secagg.errors import Malformed, SecureAggregationError, UnknownClient
from fedjaxlite.privacy.secagg.keys import Random
from fedjaxlite.privacy.secagg.parties.client_state import Identity
from fedjaxlite.transport import credentials, frames
from fedjaxlite.transport.certificates import load_cryptography
from fedjaxlite.transport.credentials import Credentials
from fedjaxlite.transport.errors import FrameTooLong, UnknownPeer

# The name that clients expect in the server's certificate.
SERVER_NAME = "secagg-server"


def issue(
    ids: Iterable[int], *, hours: float = 24.0, random: Random = os.urandom
) -> tuple[Credentials, dict[int, Credentials]]:
    """Credentials for the server and every client of a run; the authority's private key is forgotten.

    Args:
      ids: of the clients.
      hours: how long they are good for.
      random: where private keys come from.

    Returns:
      The server's, and {id: the client's}.

    Raises:
      ModuleNotFoundError: `cryptography` is not installed.

    Example:
      >>> server, clients = issue([0, 1])
      >>> server.authority == clients[1].authority
      True
    """
    load_cryptography(masking.NEEDS)
    return credentials.issue(
        ids, hours=hours, random=random, server_name=SERVER_NAME, authority_name="secagg-authority"
    )


def identities(clients: Mapping[int, Credentials]) -> dict[int, Identity]:
    """Every client's identity for the signed variant, all known to each other."""
    known = {u: who.public for u, who in clients.items()}
    return {u: Identity(who.private, known) for u, who in clients.items()}


def client_id(certificate: Mapping[str, Any] | None) -> int:
    """The id that a client's verified certificate names; UnknownClient where it names none."""
    try:
        return credentials.client_id(certificate)
    except UnknownPeer as error:
        raise UnknownClient(str(error)) from error


async def read_frame(reader: asyncio.StreamReader, *, longest: int, seconds: float) -> bytes:
    """The next frame, as the transport's; one that is too long is Malformed."""
    try:
        return await frames.read_frame(reader, longest=longest, seconds=seconds)
    except FrameTooLong as error:
        raise Malformed(str(error)) from error


def reason(error: BaseException) -> str:
    """An error as a log line: its type and its words.

    Example:
      >>> reason(UnknownClient("client 3 is not in the round."))
      'UnknownClient: client 3 is not in the round.'
    """
    words = str(error) or "no further words"
    blame = f" (blames {error.offender})" if isinstance(error, SecureAggregationError) and error.offender else ""
    return f"{type(error).__name__}: {words}{blame}"
