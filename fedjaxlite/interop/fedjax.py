"""FedJAX's federated data, in memory or in its files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from fedjaxlite import checks
from fedjaxlite.data.incoming import choice, gather
from fedjaxlite.data.population import Population


def from_fedjax(
    federated_data: Any,
    *,
    features: Sequence[str] | Mapping[str, str] | None = None,
    encode: Mapping[str, Callable[[Any], Any]] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    clients: Sequence[str] | None = None,
    num_clients: int | None = None,
    check_finite: bool = True,
    allow_empty: bool = False,
) -> Population:
    """Makes a Population of a `fedjax.FederatedData`, with its preprocessing applied.

    It goes by the protocol alone: `clients()` gives pairs of an id and a client's data set, whose `all_examples()` are
    its arrays. FedJAX 0.0.17 does not import beside the JAX of this library; where it runs in an environment of its
    own, write a file there by `fedjax.SQLiteFederatedDataBuilder` and read it by `fl.datasets.from_fedjax_sqlite`.

    Args:
      federated_data: a `FederatedData`, such as `InMemoryFederatedData`.
      features: which arrays to take, such as {"pixels": "x", "label": "y"} for names of one's own; None takes all.
      encode: for an array of texts a function of one value.
      shapes: the shape of one row, by the array's name there.
      clients: ids, in the order that the result has; None takes all.
      num_clients: take the first so many; None takes all.
      check_finite: refuse NaN and infinity.
      allow_empty: let a client have no example.

    Returns:
      A Population, clients in FedJAX's order; ids that are bytes become strings.

    Raises:
      TypeError: it follows another protocol. ValueError: clients that differ in arrays, or are not there.

    Example:
      >>> import types
      >>> import fedjaxlite as fl
      >>> one = types.SimpleNamespace(all_examples=lambda: {"x": [[1.0], [2.0]], "y": [0, 1]})
      >>> data = types.SimpleNamespace(clients=lambda: iter([(b"writer 7", one)]))     # stands for FedJAX's
      >>> fl.interop.from_fedjax(data).client(0)["y"].tolist()
      [0, 1]
    """
    wanted = choice.wanted(features, encode, shapes)
    chosen = choice.clients(clients, num_clients)
    checks.flag(check_finite=check_finite, allow_empty=allow_empty)
    if not callable(getattr(federated_data, "clients", None)):
        raise TypeError(
            f"`federated_data` is {checks.shown(federated_data)}; expected a fedjax.FederatedData, whose clients() "
            "gives ids and data sets."
        )
    source = "the federated data"
    read = _read_clients(federated_data, chosen)
    return gather.of_clients(
        gather.chunks_of(read, source),
        wanted,
        chosen,
        source=source,
        check_finite=check_finite,
        allow_empty=allow_empty,
    )


def _read_clients(federated_data: Any, chosen: choice.Clients) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    asked = None if chosen.names is None else set(chosen.names)
    pairs = federated_data.clients()
    if asked is not None and callable(getattr(federated_data, "client_ids", None)):
        # only these are then loaded; a client that is not there is missed by name, where FedJAX raises a KeyError
        ids = [i for i in federated_data.client_ids() if _name(i) in asked]
        pairs = federated_data.get_clients(ids)
    for client_id, dataset in islice(pairs, chosen.most):
        name = _name(client_id)
        if asked is not None and name not in asked:
            continue
        if not callable(getattr(dataset, "all_examples", None)):
            raise TypeError(
                f"`federated_data` gives {checks.shown(dataset)} for client {name!r}; expected a fedjax.ClientDataset."
            )
        yield name, dataset.all_examples()


def _name(client_id: Any) -> Any:
    return client_id.decode("utf-8", "backslashreplace") if isinstance(client_id, bytes) else client_id
