"""FedBuff's event loop in plain Python, one candidate and one arrival after the other, as a reference for tests."""

from math import inf
from typing import NamedTuple

COHORTS = 4


class Plain(NamedTuple):
    """Cohorts `[R, C]` of (client or None, reports), seconds `[T, N]` by start, and the server.

    `windows` are pairs of whole seconds by client, in a period; None where everyone is there, always. `able` are those
    who may begin at all.
    """

    clients: list
    reports: list
    seconds: list
    places: int
    buffer: int
    max_staleness: int | None = None
    patience: int = 4096
    windows: list | None = None
    period: int = 1
    able: list | None = None


class AtWork(NamedTuple):
    """Who is in a place."""

    client: int
    until: float
    order: int
    version: int
    reports: bool
    leaves: bool


def seconds_left(case, client, now):
    """Until a client leaves; None where it is not there."""
    if case.windows is None:
        return inf
    for begin, end in case.windows[client]:
        since = (now - begin) % case.period
        if since < end - begin:
            return inf if end - begin == case.period else end - begin - since
    return None


def seconds_to_come(case, client, now):
    """Until each window of a client that is not there."""
    return [(begin - now) % case.period for begin, end in case.windows[client] if end > begin]


def seconds_to_next(case, now, taken):
    """Until somebody can begin who is not at work or in the buffer."""
    waits = [inf]
    for client in set(case.able or range(len(case.seconds[0]))) - taken:
        if seconds_left(case, client, now) is not None:
            waits.append(0)
        else:
            waits.extend(seconds_to_come(case, client, now))
    return min(waits)


def buffers(case, num_steps):
    """Of each step: [(client, age)] in order of arrival, the time, dropped_stale, left_midway, stalled."""
    num_clients, capacity = len(case.seconds[0]), len(case.clients[0])
    able = set(range(num_clients)) if case.able is None else set(case.able)
    now, places, cohort, slot, begun = 0, [None] * case.places, 0, capacity, 0
    for version in range(num_steps):
        buffer, together, dropped, left, idle = [], 0, 0, 0, 0
        while len(buffer) < case.buffer and idle < case.patience:
            taken = {place.client for place in places if place} | {client for client, _ in buffer}
            looked, comes = 0, inf
            while together == 0 and len(taken) < len(able) and looked < COHORTS * capacity and None in places:
                if slot == capacity:
                    cohort, slot = cohort + 1, 0
                row = (cohort - 1) % len(case.clients)
                client, reports = case.clients[row][slot], case.reports[row][slot]
                slot, looked = slot + 1, looked + 1
                stays = None if client is None else seconds_left(case, client, now)
                if client in able - taken and stays is None:
                    comes = min([comes, *seconds_to_come(case, client, now)])
                elif client in able - taken:
                    takes = case.seconds[begun % len(case.seconds)][client]
                    until = now + min(takes, stays)
                    places[places.index(None)] = AtWork(client, until, begun, version, reports, takes > stays)
                    taken.add(client)
                    begun, looked = begun + 1, 0
            at_work = [place for place in places if place]
            idle += 1
            if not at_work:
                together, wait = 0, seconds_to_next(case, now, taken) if case.windows is not None else 0
                if wait == inf:
                    break
                now += wait
                continue
            done = min(at_work, key=lambda place: (place.until, place.order))
            if None in places and comes < done.until - now:
                now += comes
                continue
            if together == 0:
                all_at_once = all(place.until == done.until for place in at_work)
                together = len(at_work) if all_at_once and len(at_work) <= case.buffer - len(buffer) else 1
            together -= 1
            now = done.until
            places[places.index(done)] = None
            age = version - done.version
            stale = case.max_staleness is not None and age > case.max_staleness
            reports = done.reports and not done.leaves
            left += done.leaves
            dropped += reports and stale
            if reports and not stale:
                buffer.append((done.client, age))
                idle = 0
        yield buffer, now, dropped, left, int(len(buffer) < case.buffer)
