"""The server's own data, as one more client that is in every cohort."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.sampling import Cohort, Sampler

_NOTE = "The server's own data take part in every round, as one more client; no guarantee is about them."


class Served(NamedTuple):
    """A federation in which the server holds data.

    Attributes:
      population: a Population of N + 1 clients, the last of which is the server. Evaluate clients on the one that it
        was made of.
      sampler: draws as the one that it was made of, and puts the server into a slot of its own.
      id: int, the server's client: N.
    """

    population: Any
    sampler: Sampler
    id: int


def server_client(population: Any, sampler: Sampler, data: Mapping[str, Any], *, name: Any = None) -> Served:
    """Lets the server take part with data of its own: one more client, in every cohort, that no draw picks.

    Rules that compare clients with the server (`fl_trust`, `zeno_pp`) find its message by this id. It is trained and
    sent as every other's, by the same algorithm and the same steps, and stands last in the cohort. With other rules it
    is one more vote.

    What a run says of clients then has one more: cohorts, examples, bytes and states count the server, and an algorithm
    that keeps a state for each client (SCAFFOLD) keeps one for it. `fl.evaluate_clients` on `Served.population`
    would measure it too: evaluate on the population that is given here. Attacks do not reach it as long as its id is in
    no pool of bad clients. Wrap a sampler with dropouts or deadlines before it comes here, so that the server does not
    drop out.

    Args:
      population: a Population of N clients, on the host.
      sampler: any Sampler for it.
      data: the server's examples, a dict of arrays `[n, ...]` with the population's features.
      name: the server's among the clients' names; None is "server" among strings, and the next int among ints.

    Returns:
      a Served: pass `population` and `sampler` to the run, `id` to the rule. The accounting claims no amplification by
      sampling, since the population's size is no longer the number of clients that are drawn from.

    Raises:
      TypeError, ValueError: for features that differ from the population's in name, shape or dtype, no examples, or a
        name that is taken.

    Example:
      >>> import fedjaxlite as fl
      >>> clients = fl.Population.from_arrays({"y": [1, 2, 3]}, client_ids=["a", "b", "b"])
      >>> served = server_client(clients, fl.sampling.uniform(1), {"y": [4, 5]})
      >>> served.id, served.population.names.tolist(), served.sampler.capacity
      (2, ['a', 'b', 'server'], 2)
      >>> served.sampler.sample(jax.random.key(0), 0, served.population).ids.tolist()[-1]
      2
    """
    for part in ("features", "offsets", "max_size", "names"):
        if not hasattr(population, part):
            raise TypeError(f"`population` is {checks.shown(population)}; expected a fl.Population.")
    checks.one_instance(Sampler, "a Sampler, such as fl.sampling.uniform(10)", sampler=sampler)
    checks.concrete("Add the server's data before a run.", population=population.offsets)
    num = population.num_clients
    sampler.check(num)
    added, rows = _added(population.features, data)
    joined = {k: np.concatenate([np.asarray(v), added[k]]) for k, v in population.features.items()}
    offsets = np.asarray(population.offsets)
    both = dataclasses.replace(
        population,
        features=joined,
        offsets=np.append(offsets, offsets[-1] + rows).astype(np.int32),
        max_size=max(population.max_size, rows),
        names=_names(population.names, name),
    )
    return Served(both, _with_server(sampler, num), num)


def _with_server(sampler: Sampler, num: int) -> Sampler:
    """The cohorts of a sampler of `num` clients, with client `num` behind them."""

    def sample(key: Any, round_number: Any, population: Any) -> Cohort:
        _, treedef = jax.tree.flatten(population)
        whole = jax.tree.leaves(population)
        bare = jax.tree.unflatten(treedef, [*whole[:-1], population.offsets[:-1]])
        drawn = sampler.sample(key, round_number, bare)
        behind = lambda given, own: jnp.append(given, jnp.asarray(own, given.dtype))  # noqa: E731
        return Cohort(
            ids=behind(drawn.ids, num),
            selected=behind(drawn.selected, True),
            reported=behind(drawn.reported, True),
            work=behind(drawn.work, 1),
            scale=behind(drawn.scale, 1),
            overflow=drawn.overflow,
            late=None if drawn.late is None else behind(drawn.late, False),
        )

    def check(num_clients: int) -> None:
        if num_clients != num + 1:
            raise ValueError(
                f"this sampler puts the server's client {num} into each cohort, and the population has {num_clients} "
                f"clients; expected {num + 1}, the last of which is the server. Use both of `server_client(...)`."
            )

    told = sampler.accounting
    size = None if told.cohort_size is None else told.cohort_size + 1
    return sampler._replace(
        sample=sample,
        capacity=sampler.capacity + 1,
        accounting=told.noting(_NOTE, cohort_size=size, amplification=False),
        name=f"{sampler.name}+server",
        check=check,
    )


def _added(features: Mapping[str, Any], data: Any) -> tuple[dict[str, np.ndarray], int]:
    """The server's examples in the population's dtypes, and how many they are."""
    if not isinstance(data, Mapping):
        raise TypeError(f"`data` is {checks.shown(data)}; expected a dict of arrays [n, ...], by the features' names.")
    if set(data) != set(features):
        raise ValueError(f"`data` has features {sorted(data)}; expected those of the population, {sorted(features)}.")
    added = {}
    for feature, like in features.items():
        array = checks.as_array(f"data[{feature!r}]", data[feature], "an array [n, ...]")
        if array.ndim == 0 or array.shape[1:] != like.shape[1:]:
            raise ValueError(
                f"`data[{feature!r}]` has shape {list(array.shape)}; expected [n, ...] with rows of "
                f"{list(like.shape[1:])}, as the population's."
            )
        dtype = np.dtype(like.dtype)
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise TypeError(f"`data[{feature!r}]` has dtype {array.dtype}; expected {dtype}, as the population's.")
        added[feature] = np.asarray(array, dtype)
        if np.issubdtype(dtype, np.floating) and not np.isfinite(added[feature]).all():
            raise ValueError(f"`data[{feature!r}]` holds NaN or infinity; expected finite values.")
    sizes = {feature: len(array) for feature, array in added.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise ValueError(f"`data` has rows {sizes}; expected the same number in every feature, at least 1.")
    return added, next(iter(sizes.values()))


def _names(names: np.ndarray | None, name: Any) -> np.ndarray | None:
    if names is None:
        if name is not None:
            raise ValueError(f"`name` is {name!r}, and the population has no names; leave it out.")
        return None
    texts = names.dtype.kind in "US"
    if name is None:
        name = "server" if texts else int(names.max()) + 1
    if isinstance(name, bool) or not isinstance(name, str if texts else (int, np.integer)):
        kind = "a str" if texts else "an int"
        raise TypeError(f"`name` is {checks.shown(name)}; expected {kind}, as the clients' names are, or None.")
    if name in names.tolist():
        raise ValueError(f"`name` is {name!r}, which is a client's already; expected another one.")
    return np.append(names, np.asarray([name]))
