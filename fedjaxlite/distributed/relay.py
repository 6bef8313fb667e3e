"""The way to JAX's coordination service, which stays open when the service is gone.

JAX's runtime ends a process by SIGABRT, from a thread of its own, as soon as its connection to the coordinator breaks.
So each process but the first connects to itself, and what comes is passed on. Where the far end is gone, the near one
is left open: then it is the watch that ends the process, with a line that says why.
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from functools import partial


def relay(host: str, port: int, leaving: Callable[[], bool]) -> int:
    """Passes all that connects to a port of this process on to another host.

    Args:
      host: where to.
      port: likewise.
      leaving: whether the process ends in good order: then an end is passed on as well.

    Returns:
      the port on 127.0.0.1.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            near, _ = listener.accept()
            try:
                far = socket.create_connection((host, port), timeout=60.0)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _thread("relay", partial(_there, near, far))
            _thread("relay", partial(_back, far, near, leaving))

    _thread("relay", accept)
    return listener.getsockname()[1]


def _there(near: socket.socket, far: socket.socket) -> None:
    gone = False
    with contextlib.suppress(OSError):
        while piece := near.recv(2**16):
            if not gone:
                try:
                    far.sendall(piece)
                except OSError:  # what else comes is dropped, and the near end stays open
                    gone = True
    _end(far)
    near.close()


def _back(far: socket.socket, near: socket.socket, leaving: Callable[[], bool]) -> None:
    with contextlib.suppress(OSError):
        while piece := far.recv(2**16):
            near.sendall(piece)
    if leaving():
        _end(near)
    far.close()


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)


def _thread(name: str, body: Callable[[], None]) -> None:
    threading.Thread(target=body, name=f"fedjaxlite-{name}", daemon=True).start()
