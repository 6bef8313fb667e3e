"""The vocabulary of an algorithm: what a client and the server compute, as one NamedTuple of pure functions.

Shape letters used throughout the library: N clients in the population, K clients in a cohort (padded to the
sampler's capacity), L lanes (clients trained side by side), B examples in a batch.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

PyTree = Any
"""Any nesting of tuples, dicts, NamedTuples and registered nodes with arrays as leaves."""


class ClientOutput(NamedTuple):
    """What one client's local work returns.

    Attributes:
      update: pytree of floats; by convention a delta, server minus client, so that any optax optimizer can be the
        server's. Only this, the weight and the scalars ever cross the wire.
      weight: scalar, or a tree prefix of `update` (SCAFFOLD weighs its delta by examples, its control variate by 1).
        Non-negative. An algorithm that weighs by examples gives the number of examples.
      scalars: dict of scalars that are aggregated beside the update and never clipped with it (FedNova's steps);
        every name has a bound in `Algorithm.scalar_bounds`. They carry the update's weight when that is one number.
      client_state: the client's new state, of the structure that `Algorithm.init_client` gives.
      info: dict of scalars for the record of the run, such as the mean training loss. Simulation only: it does not
        pass the aggregator.
    """

    update: PyTree
    weight: Any = 1.0
    scalars: Mapping[str, Any] = {}
    client_state: PyTree = ()
    info: Mapping[str, Any] = {}


class Aggregate(NamedTuple):
    """What the server learns of a round.

    Attributes:
      value: pytree like `ClientOutput.update`; the (weighted) mean over the clients that reported.
      weight: the total weight, a scalar or a tree prefix of `value`. Zero where nobody reported; `value` is zero then.
      num_clients: int32 scalar, how many clients are in the sum.
      scalars: dict of scalars, the mean of each of the clients' scalars under the same weight as the update.
      left_out: bool `[K]`, whose messages arrived and were left out by what stands before a rule; None for other
        chains. A server that sees every message apart knows.
    """

    value: PyTree
    weight: Any
    num_clients: Any
    scalars: Mapping[str, Any]
    left_out: Any = None


def _params_of(server_state: Any) -> PyTree:
    try:
        return server_state.params
    except AttributeError:
        raise AttributeError(
            f"the server state is a {type(server_state).__name__} without a field `params`; name the field so, or give "
            "the Algorithm a function `params(server_state)` that returns the model."
        ) from None


def _no_client_state(params: PyTree) -> PyTree:
    del params
    return ()


def _nothing(shared: PyTree) -> PyTree:
    del shared
    return ()


def _shared(shared: PyTree, client_state: PyTree) -> PyTree:
    del client_state
    return shared


class Algorithm(NamedTuple):
    """A federated algorithm: pure functions for the client and the server, and nothing about wires or devices.

    Attributes:
      init: `init(params) -> server_state`.
      client_update: `client_update(shared, client_state, data, key) -> ClientOutput`; `data` is the client's view of
        its own examples (`fedjaxlite.ClientData`). Runs under `vmap`, on any device.
      server_update: `server_update(server_state, aggregate, key) -> server_state`.
      params: `params(server_state) -> params`, the model that is evaluated and exported.
      broadcast: `broadcast(server_state) -> shared`, what a client downloads; `None` means `params`.
      init_client: `init_client(params) -> client_state`, what a client keeps between its rounds; nothing by default.
      client_params: `client_params(shared, client_state) -> params`, a client's personalized model.
      resident: `resident(shared) -> pytree`, the part of `shared` that clients have already (a frozen base), which is
        not counted as download.
      download: `download(shared, client_state) -> uint32`, bytes that this client downloads beside what is broadcast:
        what it missed since it was last there. Added mod 2^32, so it may take away too. None: nothing.
      scalar_bounds: the largest absolute value of each of `ClientOutput.scalars`; needed by codecs to integers.
      name: for records and messages.
      hparams: the hyperparameters, for printing and for the record of a run. One named "num_clients" is held against
        the population when a run begins.
      mechanisms: what the local work says of noise that it adds itself, for accountants; the engine does not look into
        them. An algorithm around a local training passes on what that states, `getattr(local, "mechanisms", ())`.
      in_rounds: whether all messages of a sum must have begun from one model, since what clients send changes from
        round to round (one fragment each, or measuring and training in turn). Asynchronous servers are refused then.
    """

    init: Callable[[PyTree], Any]
    client_update: Callable[[PyTree, PyTree, Any, Any], ClientOutput]
    server_update: Callable[[Any, Aggregate, Any], Any]
    params: Callable[[Any], PyTree] = _params_of
    broadcast: Callable[[Any], PyTree] | None = None
    init_client: Callable[[PyTree], PyTree] = _no_client_state
    client_params: Callable[[PyTree, PyTree], PyTree] = _shared
    resident: Callable[[PyTree], PyTree] = _nothing
    download: Callable[[PyTree, PyTree], Any] | None = None
    scalar_bounds: Mapping[str, float] = {}
    name: str = "algorithm"
    hparams: Mapping[str, Any] = {}
    mechanisms: tuple[Any, ...] = ()
    in_rounds: bool = False
