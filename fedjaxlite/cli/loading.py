"""The data of a run: loaded, divided into clients, with a test set and public data beside them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

import fedjaxlite as fl
from fedjaxlite.cli import named, parse, signatures
from fedjaxlite.cli.settings import Settings


class Data(NamedTuple):
    """A data set, divided.

    Attributes:
      train: the clients.
      test: the central test set, a dict of arrays; a Population where it lies on a disk; None where nobody has one.
      own_test: every client's own test set, where asked for.
      public: what a warm start trains on, or None.
    """

    train: fl.Population
    test: Any
    own_test: fl.Population | None
    public: Mapping[str, Any] | None


NATURAL = ("shakespeare", "synthetic")
"""Data sets that come with clients."""
_TEST = 0.2
"""The share of examples that are held out where a data set of one's own has no test set."""


def is_own(dataset: str) -> bool:
    """Whether a data set is the user's: a table, folders on a disk, or what a function loads."""
    return named.is_table(dataset) or named.is_folder(dataset) or signatures.is_import(dataset)


def load(settings: Settings) -> Data:
    """The data set, divided into clients, a test set, and public data."""
    options: dict[str, Any] = {}
    natural = settings.partition == "natural"
    if settings.dataset in NATURAL and natural and settings.clients is not None:
        options["num_clients"] = settings.clients
    if settings.dataset in NATURAL:
        options["seed"] = settings.seed
    if is_own(settings.dataset):
        return _own(settings)
    train, test = fl.datasets.load(settings.dataset, data_dir=settings.data_dir, **options)
    return _divided(settings, train, test, natural)


def _own(settings: Settings) -> Data:
    """A data set of the user's: with clients of its own where it is a Population and no partition was asked for."""
    if settings.data_dir is not None:
        raise ValueError(f"--data-dir was given, and {settings.dataset} finds its data itself; leave it out.")
    train, test = named.dataset(settings.dataset)
    people = isinstance(train, fl.Population)
    natural = settings.partition == "natural" or (settings.partition is None and people)
    if natural and not people:
        raise ValueError(f"--dataset {settings.dataset} has no clients of its own; give another --partition.")
    if not natural and people and train.on_disk:
        raise ValueError(
            f"--partition {settings.partition} was given, and --dataset {settings.dataset} lies on a disk with clients "
            "of its own; leave it out."
        )
    if natural and settings.clients is not None:
        raise ValueError(f"--clients was given, and --dataset {settings.dataset} has clients of its own; leave it out.")
    if natural and test is None:
        train, test = fl.partition.train_test_split(train, seed=settings.seed)
    elif test is None:
        test, train = _split(dict(train.features), _TEST, settings.seed)
    if not natural and settings.partition is None:
        settings = settings._replace(partition="dirichlet:0.3", clients=settings.clients or 100)
    return _divided(settings._replace(clients=settings.clients or 100), train, test, natural)


def _divided(settings: Settings, train: Any, test: Any, natural: bool) -> Data:
    on_disk = isinstance(test, fl.Population) and test.on_disk  # evaluated piece by piece
    pooled = dict(test.features) if isinstance(test, fl.Population) and not on_disk else test
    if natural:
        return _natural(train, test, pooled, settings)
    arrays = dict(train.features) if isinstance(train, fl.Population) else train
    public, rest = _split(arrays, settings.warm_start, settings.seed)
    chosen = parse.partition(settings.partition or "", num_clients=settings.clients or 1, seed=settings.seed)
    clients, own_test = fl.datasets.federate(rest, chosen), None
    if at_clients(settings):
        clients, own_test = fl.partition.train_test_split(clients, seed=settings.seed)
    return Data(clients, pooled, own_test, public)


def _natural(train: fl.Population, test: Any, pooled: Any, settings: Settings) -> Data:
    public = None
    if settings.warm_start and train.on_disk:
        raise ValueError(
            f"--warm-start takes a part of the clients out of {settings.dataset}, which lies on a disk, and would "
            "copy all others into memory; leave it out."
        )
    own_test = _of_clients(settings, train, test) if at_clients(settings) else None
    if settings.warm_start:
        ids = np.random.default_rng(settings.seed).permutation(train.num_clients)
        count = _count(settings.warm_start, train.num_clients, "clients")
        public = train.select(np.sort(ids[:count])).features
        kept = np.sort(ids[count:])
        train, own_test = train.select(kept), own_test.select(kept) if own_test is not None else None
    return Data(train, pooled, own_test, public)


def at_clients(settings: Settings) -> bool:
    """Whether anything is evaluated on clients' own test parts."""
    return settings.per_client_eval or settings.personal_eval


def _of_clients(settings: Settings, train: fl.Population, test: Any) -> fl.Population:
    """The clients' own test parts, which natural clients bring along."""
    if isinstance(test, fl.Population) and test.num_clients == train.num_clients:
        return test
    option = "--personal-eval" if settings.personal_eval else "--per-client-eval"
    has = (
        f"one of {test.num_clients} clients, for {train.num_clients}" if isinstance(test, fl.Population) else "one set"
    )
    raise ValueError(
        f"{option} needs a test part of each client, and the test set of {settings.dataset} is {has}. Give a "
        "--partition, or a data set whose test set is an fl.Population of the same clients."
    )


def _split(arrays: Mapping[str, Any], fraction: float, seed: int) -> tuple[Mapping[str, Any] | None, Mapping[str, Any]]:
    if not fraction:
        return None, arrays
    n = len(next(iter(arrays.values())))
    order = np.random.default_rng(seed).permutation(n)
    cut = _count(fraction, n, "examples")
    take = lambda rows: {name: array[np.sort(rows)] for name, array in arrays.items()}  # noqa: E731
    return take(order[:cut]), take(order[cut:])


def _count(fraction: float, total: int, what: str) -> int:
    count = round(fraction * total)
    if not 1 <= count < total:
        raise ValueError(f"--warm-start {fraction} of {total} {what} is {count}; expected at least 1, and not all.")
    return count
