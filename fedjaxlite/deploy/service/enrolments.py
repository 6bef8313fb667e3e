"""The answer to `enroll`, from an authority's folder."""

from collections.abc import Callable
from pathlib import Path

from fedjaxlite.deploy.device.protocol import Message
from fedjaxlite.transport import authority


def enrolling(
    folder: str | Path, *, most: int, program: Callable[[], str] = lambda: "", hours: float = 2 * 365 * 24.0
) -> Callable[[str, str], Message]:
    """An `enroll` for `serve`.

    Args:
      folder: the authority's.
      most: how many clients there may be.
      program: the hash of the program that clients are to run, or "".
      hours: how long their certificates are good for.

    Returns:
      `enroll(token, csr) -> Message`, which raises EnrolmentRefused where the authority does.

    Raises:
      TransportError: the folder holds no authority.
    """
    folder = authority.open_at(folder)

    def enroll(token: str, csr: str) -> Message:
        signed = authority.sign(folder, token, csr.encode("ascii"), hours=hours, most=most)
        head = {"client": signed.client, "certificate": signed.certificate.decode("ascii")}
        own = authority.own_certificate(folder).decode("ascii")
        return Message("enrolled", head | {"authority": own, "program": program()})

    return enroll
