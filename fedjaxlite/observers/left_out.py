"""Who was left out: clients whose messages did not count, by name, in a round and over a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEFT_OUT = ("nonfinite", "left_out")
"""Why a message did not count, as `PassInfo.clients` tells it."""


def left_out(records: Sequence[Mapping[str, Any]]) -> dict[Any, dict[str, int]]:
    """Who was left out over a run, and in how many rounds: the clients whose messages did not count.

    Args:
      records: of a run, `history.records` or what `fl.records.read` finds in its file.

    Returns:
      by the client's name, or its index where the population has no names: in how many rounds its update was
      "nonfinite", and in how many it was "left_out" by something before a rule, such as `fl.robust.norm_filter`. Those
      who were left out most often stand first.

    Example:
      >>> some = [{"round": 1, "left_out_clients": [3, 5]}, {"round": 2}, {"round": 3, "nonfinite_clients": [5]}]
      >>> left_out(some)
      {5: {'nonfinite': 1, 'left_out': 1}, 3: {'nonfinite': 0, 'left_out': 1}}
    """
    found: dict[Any, dict[str, int]] = {}
    for record in records:
        for name in LEFT_OUT:
            for client in record.get(f"{name}_clients", ()):
                found.setdefault(client, dict.fromkeys(LEFT_OUT, 0))[name] += 1
    return dict(sorted(found.items(), key=lambda item: -sum(item[1].values())))


def named_in_each(
    clients: Mapping[str, np.ndarray], num_rounds: int, names: np.ndarray | None
) -> dict[str, list[list[Any]]]:
    """The clients whose messages did not count, in each round.

    Args:
      clients: "id" and some of `LEFT_OUT`, of some rounds, `[num_rounds, K]` or `[K]` for one.
      num_rounds: how many.
      names: of all clients, `[N]`; None names them by their index.

    Returns:
      "nonfinite_clients" and the like, each a list a round.
    """
    found: dict[str, list[list[Any]]] = {}
    for fact in LEFT_OUT:
        if fact in clients:
            ids = clients["id"].reshape(num_rounds, -1)
            rows = [row[true] for row, true in zip(ids, clients[fact].reshape(num_rounds, -1), strict=True)]
            found[f"{fact}_clients"] = [(row if names is None else names[row]).tolist() for row in rows]
    return found
