"""A token and a new key for a certificate: how a device becomes a client."""

import hmac
from collections.abc import Callable
from typing import NamedTuple

from fedjaxlite.deploy.device.link import Backoff, ask, close, expected, link_to
from fedjaxlite.deploy.device.protocol import BadMessage, Message
from fedjaxlite.transport.credentials import Credentials, public_of, stranger_context
from fedjaxlite.transport.enrolment import Request, fingerprint, request, told
from fedjaxlite.transport.frames import Timeouts


class Enrolled(NamedTuple):
    """Who a device is from now on.

    Attributes:
      client: its id.
      credentials: its key, its certificate and whom it trusts; `transport.credentials.keep` writes them.
      program: the hash of the program that it is to run, or "" where the server has not said.
    """

    client: int
    credentials: Credentials
    program: str


async def enroll(
    host: str,
    port: int,
    token: str,
    *,
    random: Callable[[], float],
    asked: Request | None = None,
    timeouts: Timeouts = Timeouts(),  # noqa: B008  (a NamedTuple of numbers)
    backoff: Backoff = Backoff(),  # noqa: B008  (a NamedTuple of numbers)
) -> Enrolled:
    """Enrols at a server, once the server has proved to be the one that the token names.

    Args:
      host: the server's address.
      port: the server's port.
      token: from the server's owner.
      random: draws in [0, 1), for the pauses between tries.
      asked: the key and its request, from before where an earlier try may have spent the token; else new ones.
      timeouts: how long anything is waited for.
      backoff: the pauses between tries.

    Returns:
      Enrolled.

    Raises:
      EnrolmentRefused: the token is none. ServerRefuses: the server does not take it.
      BadMessage: the server is another one, or gives a certificate for another key.
      ssl.SSLCertVerificationError: the server cannot prove that it is the authority's.
      Unreachable: all tries failed.

    Guarantees:
      The token is told to nobody but a server whose certificate is of the authority in the token.
    """
    _, mark = told(token)
    asked = asked or request()
    # Who the server trusts is asked over a connection that proves nothing; the token's fingerprint proves the answer.
    link = link_to(
        host, port, stranger_context(None), random=random, timeouts=timeouts, backoff=backoff, server_name=None
    )
    try:
        introduced = expected(await ask(link, Message("introduce", {})), "introduced")
    finally:
        await close(link)
    authority = introduced.head["authority"].encode()
    if not hmac.compare_digest(fingerprint(authority), mark):
        raise BadMessage(f"{host}:{port} is not the server that the token is for: its authority is another one.")
    link = link_to(host, port, stranger_context(authority), random=random, timeouts=timeouts, backoff=backoff)
    try:
        question = Message("enroll", {"token": token.strip(), "csr": asked.pem.decode("ascii")})
        reply = expected(await ask(link, question), "enrolled").head
    finally:
        await close(link)
    certificate = reply["certificate"].encode()
    if public_of(certificate) != asked.public or fingerprint(reply["authority"].encode()) != mark:
        raise BadMessage("the server gives a certificate for another key, or of another authority.")
    return Enrolled(reply["client"], Credentials(asked.private, asked.public, certificate, authority), reply["program"])
