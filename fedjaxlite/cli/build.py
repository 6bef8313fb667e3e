"""From settings to a run: data, model, rounds, first state, evaluation."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.cli import compress, parse, private_run
from fedjaxlite.cli.settings import Settings
from fedjaxlite.evaluation.central import loss_for
from fedjaxlite.training.warm_start import warm_start


class Job(NamedTuple):
    """All that a command needs.

    Attributes:
      settings: with nothing left open that the data set decides.
      rounds: the composed run.
      params: the first model.
      population: what is trained on.
      evaluate: functions of the parameters by name.
      num_test: examples in the central test set.
      config: tables for config.toml.
      observers: what looks on: the budget of a private run.
    """

    settings: Settings
    rounds: fl.Rounds
    params: Any
    population: fl.Population
    evaluate: Mapping[str, Any]
    num_test: int
    config: Mapping[str, Any]
    observers: tuple[fl.observers.Observer, ...] = ()


class Data(NamedTuple):
    """A data set, divided.

    Attributes:
      train: the clients.
      test: the central test set, a dict of arrays.
      own_test: every client's own test set, where asked for.
      public: what a warm start trains on, or None.
    """

    train: fl.Population
    test: Mapping[str, Any]
    own_test: fl.Population | None
    public: Mapping[str, Any] | None


_NATURAL = ("shakespeare", "synthetic")
"""Data sets that come with clients."""


def defaults_for(dataset: str) -> dict[str, Any]:
    """What a data set decides where the settings leave it open."""
    if dataset == "shakespeare":
        return {"partition": "natural", "model": "lstm", "epochs": 1, "client_lr": 1.0}
    if dataset == "synthetic":
        return {"partition": "natural", "model": "logistic", "epochs": 5, "client_lr": 0.01}
    return {"clients": 100, "partition": "dirichlet:0.3", "model": "2nn", "epochs": 5, "client_lr": 0.1}


def filled(settings: Settings) -> Settings:
    """The settings with the data set's defaults, checked as far as no data are needed."""
    left_open = {n: v for n, v in defaults_for(settings.dataset).items() if getattr(settings, n) is None}
    settings = settings._replace(**left_open)
    private = settings.noise_multiplier is not None or settings.epsilon is not None
    settings = settings._replace(
        sampler=settings.sampler or ("poisson" if private else "uniform"),
        aggregator=settings.aggregator or ("mean" if private else "weighted"),
    )
    private_run.check(settings)
    if settings.clients is None and settings.partition != "natural":
        settings = settings._replace(clients=100)
    if settings.partition == "natural" and settings.dataset not in _NATURAL:
        raise ValueError(f"data set {settings.dataset!r} has no clients of its own; give another --partition.")
    parse.positive(client_lr=settings.client_lr, target_accuracy=settings.target_accuracy)
    parse.share(warm_start=settings.warm_start, dropout=settings.dropout)
    parse.batch_size(settings.batch_size)
    parse.partition(settings.partition or "natural", num_clients=settings.clients or 1, seed=settings.seed)
    return settings


def job(settings: Settings) -> Job:
    """Builds the run that the settings describe; everything that can be refused is refused here."""
    settings = filled(settings)
    data = load(settings)
    model = parse.model(settings.model or "2nn", data.train.features)
    loss_fn = loss_for(model, data.train.features)
    client_optimizer, size = optax.sgd(settings.client_lr or 0.1), parse.batch_size(settings.batch_size)
    algorithm = algorithms.fed_avg(
        loss_fn,
        client_optimizer=client_optimizer,
        server_optimizer=parse.server_optimizer(settings),
        batch_size=size,
        epochs=settings.epochs,
    )
    algorithm = compress.on_the_way_down(settings, algorithm)

    def compose(settings: Settings) -> fl.Rounds:
        return fl.rounds(
            algorithm,
            sampler=parse.sampler(settings, data.train.num_clients),
            aggregator=parse.aggregator(settings, data.train, compress.on_the_way_up(settings)),
            execution=fl.Execution(lanes=settings.lanes, devices=settings.devices),
        )

    settings = private_run.calibrated(settings, compose, data.train.num_clients)
    rounds = compose(settings)
    evaluate: dict[str, Any] = {"test": fl.evaluate(loss_fn, data.test)}
    params, config = jax.jit(model.init)(keys(settings)["model"]), {}
    if data.public is not None:
        params, record = warm_start(
            loss_fn,
            params,
            data.public,
            optimizer=client_optimizer,
            epochs=settings.epochs,
            batch_size=size,
            key=keys(settings)["warm_start"],
            evaluate=evaluate["test"],
        )
        config = {"warm_start": record}
    if data.own_test is not None:
        evaluate["clients"] = fl.evaluate_clients(loss_fn, data.own_test, execution=rounds.execution)
    num_test = len(next(iter(data.test.values())))
    config = {**config, **private_run.table(settings)}
    observers = private_run.observers(settings)
    return Job(settings, rounds, params, data.train, evaluate, num_test, config, observers)


def keys(settings: Settings) -> dict[str, jax.Array]:
    """The random keys of a run, all from one seed."""
    return {
        name: jax.random.fold_in(jax.random.key(settings.seed), i)
        for i, name in enumerate(("model", "run", "warm_start"))
    }


def load(settings: Settings) -> Data:
    """The data set, divided into clients, a test set, and public data."""
    options: dict[str, Any] = {}
    natural = settings.partition == "natural"
    if settings.dataset in _NATURAL and natural and settings.clients is not None:
        options["num_clients"] = settings.clients
    if settings.dataset in _NATURAL:
        options["seed"] = settings.seed
    train, test = fl.datasets.load(settings.dataset, data_dir=settings.data_dir, **options)
    pooled = dict(test.features) if isinstance(test, fl.Population) else test
    if natural:
        return _natural(train, test, pooled, settings)
    arrays = dict(train.features) if isinstance(train, fl.Population) else train
    public, rest = _split(arrays, settings.warm_start, settings.seed)
    chosen = parse.partition(settings.partition or "", num_clients=settings.clients or 1, seed=settings.seed)
    clients, own_test = fl.datasets.federate(rest, chosen), None
    if settings.per_client_eval:
        clients, own_test = fl.partition.train_test_split(clients, seed=settings.seed)
    return Data(clients, pooled, own_test, public)


def _natural(train: fl.Population, test: Any, pooled: Mapping[str, Any], settings: Settings) -> Data:
    public = None
    own_test = test if settings.per_client_eval and isinstance(test, fl.Population) else None
    if settings.warm_start:
        ids = np.random.default_rng(settings.seed).permutation(train.num_clients)
        count = _count(settings.warm_start, train.num_clients, "clients")
        public = train.select(np.sort(ids[:count])).features
        kept = np.sort(ids[count:])
        train, own_test = train.select(kept), own_test.select(kept) if own_test is not None else None
    return Data(train, pooled, own_test, public)


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
