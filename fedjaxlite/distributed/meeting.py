"""The first contact of the processes of a run, before JAX's own runtime starts: who is there, and whether they fit."""

import contextlib
import selectors
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax

from fedjaxlite.distributed import lines
from fedjaxlite.distributed.launchers import Place
from fedjaxlite.distributed.lines import Wire
from fedjaxlite.processes import listed


def gather(place: Place, about: Mapping[str, Any], patience: float) -> tuple[dict[int, Wire], int]:
    """What the first process does: waits for all others, and tells them where JAX's service will be.

    Args:
      place: its own.
      about: what has to be the same in all processes, by name.
      patience: seconds.

    Returns:
      a Wire to each of the others, and a free port for JAX's service.

    Raises:
      ValueError: a process that does not fit, told to all that came. OSError: the port is not free. TimeoutError:
        some did not come.
    """
    others, until = set(range(1, place.num_processes)), time.monotonic() + patience
    came: dict[int, Wire] = {}
    with _listening(place) as listener, selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)
        new: dict[socket.socket, Wire] = {}
        while set(came) != others:
            if time.monotonic() > until:
                raise TimeoutError(_refuse(came, _absent(place, came, patience)))
            for key, _ in ready.select(0.5):
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    new[connection] = lines.wired(connection, 5.0)
                    ready.register(connection, selectors.EVENT_READ)
                    continue
                connection: Any = key.fileobj
                number = next((n for n, wire in came.items() if wire.socket is connection), None)
                wire = new[connection] if number is None else came[number]
                messages, stands = lines.received(wire)
                if messages and number is None and isinstance(messages[0], Mapping) and "hello" in messages[0]:
                    number = _welcomed(place, about, messages[0]["hello"], came, wire)
                    came[number] = new.pop(connection)
                elif not stands:  # something that came by chance; or a process that was started again, and comes anew
                    ready.unregister(connection)
                    lines.close(wire)
                    new.pop(connection, None)
                    came.pop(number, None) if number is not None else None
        for wire in new.values():
            lines.close(wire)
    port = _free_port()
    for wire in came.values():
        lines.send(wire, {"go": port})
    return came, port


def join(place: Place, about: Mapping[str, Any], patience: float) -> tuple[Wire, int]:
    """What the others do: reach the first, say who they are, and wait until all are there.

    Returns:
      the Wire to the first process, and the port of JAX's service on its host.

    Raises:
      ValueError: the first says what does not fit. TimeoutError: it is not reached, or not all came.
    """
    host, port = split(place.coordinator)
    until, last = time.monotonic() + patience, "nothing was tried"
    while (left := until - time.monotonic()) > 0:
        try:
            wire = lines.wired(socket.create_connection((host, port), timeout=min(left, 5.0)), 5.0)
        except OSError as error:  # not yet there; also names that are not yet known
            last = str(error)
            time.sleep(min(0.2, max(left, 0.0)))
            continue
        lines.send(wire, {"hello": {"process_id": place.process_id, "num_processes": place.num_processes, **about}})
        answer = lines.next_message(wire, until + 5.0)  # the first says by itself that its time is up
        if isinstance(answer, Mapping) and "go" in answer:
            return wire, int(answer["go"])
        lines.close(wire)
        if isinstance(answer, Mapping) and "refused" in answer:
            raise (TimeoutError if answer.get("late") else ValueError)(answer["refused"])
        last = "it closed the connection"
        time.sleep(0.2)
    raise TimeoutError(
        f"process {place.process_id} did not reach process 0 at {place.coordinator} within {patience:g} s ({last}). "
        "See that process 0 was started, that this is its host and a port that is open, and that all were started at "
        "about the same time."
    )


def split(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, without the brackets of an IPv6 host."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def about_this_program(heartbeat: float) -> dict[str, Any]:
    """What has to be the same in every process: else they would compute different numbers, or wait for each other."""
    version = sys.modules["fedjaxlite"].__version__
    return {"fedjaxlite": version, "jax": jax.__version__, "heartbeat_seconds": heartbeat}


def _listening(place: Place) -> socket.socket:
    _, port = split(place.coordinator)
    both = socket.has_dualstack_ipv6()
    try:
        if both:
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
        return socket.create_server(("", port), backlog=4096)
    except OSError as error:
        raise OSError(
            error.errno,
            f"`coordinator` is {place.coordinator!r}, and process 0 cannot listen on that port of its host: "
            f"{error.strerror or error}. Give another port to all processes, or wait for the program that has it",
        ) from None


def _welcomed(
    place: Place, about: Mapping[str, Any], hello: Mapping[str, Any], came: Mapping[int, Wire], wire: Wire
) -> int:
    """The number of a process that came; refuses one that does not fit, and with it the run."""
    number: Any = hello.get("process_id")
    known = {"num_processes": place.num_processes, **about}
    wrong = [
        f"{name} is {hello.get(name)} in process {number} and {value} in process 0"
        for name, value in known.items()
        if hello.get(name) != value
    ]
    text = ""
    if wrong:
        text = f"the processes do not fit together: {'; '.join(wrong)}. Start all with the same program and arguments."
    elif number == 0 or number in came or not isinstance(number, int):
        text = f"two processes came as process {number}. Give each its own process_id, 0 to {place.num_processes - 1}."
    if text:
        raise ValueError(_refuse({**came, -1: wire}, text))
    return number


def _absent(place: Place, came: Mapping[int, Wire], patience: float) -> str:
    absent = [number for number in range(1, place.num_processes) if number not in came]
    return (
        f"{listed(absent)} of {place.num_processes} did not come to {place.coordinator} within {patience:g} s. See "
        "that every process was started, with the same coordinator and number of processes."
    )


def _refuse(came: Mapping[int, Wire], text: str) -> str:
    """Tells all that came why there will be no run."""
    for wire in came.values():
        lines.send(wire, {"refused": text, "late": "did not come" in text})
        lines.close(wire)
    return text


def _free_port() -> int:
    with contextlib.closing(socket.create_server(("", 0))) as probe:
        return probe.getsockname()[1]
