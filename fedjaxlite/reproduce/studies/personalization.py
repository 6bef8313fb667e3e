"""What personal models gain: label-skewed and rotated digits, every client tested on data of its own.

Claims: with unlike clients a personal model beats the one shared model on the clients' own test data (Li et al. 2021,
https://arxiv.org/abs/2012.04221; Collins et al. 2021, https://arxiv.org/abs/2102.07078), and beats training alone.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.reproduce import figures, seeds
from fedjaxlite.reproduce.seeds import Arguments
from fedjaxlite.reproduce.table import Cells, Expected, Row, Table

_COLUMNS = ("mean over clients, %", "worst tenth, %")
_SKEWS: dict[str, Callable[[int], Any]] = {
    "two classes a client": lambda n: fl.partition.k_classes(n, k=2, seed=0),
    "rotated by 0, 90, 180, 270": lambda n: fl.partition.feature_rotation(fl.partition.iid(n, seed=0)),
}
_SMOKE = ("alone", "Ditto", "FedPer")
_NOTE = (
    "Test accuracy of each client's own model on its own data. The papers have other data sets and no table of all of "
    "these methods: what is looked at is the order."
)


def methods(loss_fn: Any, head: Callable[..., bool], rate: float) -> dict[str, Callable[[], fl.Algorithm]]:
    """What makes the algorithms that are compared, each with five local epochs of batches of 10."""
    sgd = optax.sgd(rate)
    shared: dict[str, Any] = {"client_optimizer": sgd, "batch_size": 10, "epochs": 5}
    fed_avg = lambda: algorithms.fed_avg(loss_fn, **shared)  # noqa: E731
    tuning: dict[str, Any] = {"client_optimizer": sgd, "batch_size": 10, "epochs": 5}
    return {
        "alone": lambda: _alone(loss_fn, shared),
        "FedAvg": fed_avg,
        "FedAvg, fine-tuned": lambda: algorithms.fine_tuned(fed_avg(), loss_fn, **tuning),
        "Ditto": lambda: algorithms.ditto(loss_fn, lam=0.1, **shared),
        "APFL": lambda: algorithms.apfl(loss_fn, alpha=0.5, **shared),
        "FedPer": lambda: algorithms.fed_per(loss_fn, personal=head, **shared),
        "FedRep": lambda: algorithms.fed_rep(loss_fn, head=head, **shared),
    }


def _alone(loss_fn: Any, shared: dict[str, Any]) -> fl.Algorithm:
    """Every client goes on from its own model, and sends nothing of use: what federation has to beat."""
    train = fl.local_sgd(loss_fn, **shared)

    def client_update(start: Any, own: Any, data: fl.ClientData, key: Any) -> fl.ClientOutput:
        del start, key
        result = train(own, data)
        return fl.ClientOutput(jnp.float32(0), client_state=result.params, info=result.metrics)

    return fl.Algorithm(
        lambda params: params,
        client_update,
        lambda state, aggregate, key: state,
        params=lambda state: state,
        init_client=lambda params: params,
        client_params=lambda shared, own: own,
        name="alone",
    )


def personalization(given: Arguments) -> Table:
    """Shared, personal and lonely models, by how clients differ."""
    num_clients, num_rounds = (6, 2) if given.smoke else (20, 40)
    model = fl.models.mlp(features=(32, 10), input_shape=(8, 8, 1))
    made = methods(fl.losses.cross_entropy(model), algorithms.last_layer(model), 0.05)
    data = cache(lambda skew: _data(skew, num_clients))

    def row(skew: str, method: str) -> Row:
        def run(folder: Path | None) -> Cells:
            del folder
            train, test = data(skew)
            run = fl.rounds(
                made[method](),
                sampler=fl.sampling.uniform(max(2, num_clients // 2)),
                aggregator=fl.weighted_mean(),
                execution=seeds.ONE,
            )
            play = seeds.player(lambda hyper: run, model.init, num_rounds=num_rounds, every=num_rounds)
            states, _ = play((), train, given.num_seeds)
            report = fl.evaluate_clients(model, test, rounds=run, execution=seeds.ONE)
            found = [report(seeds.of_seed(states, s)).summary() for s in range(given.num_seeds)]
            values = ([100 * f[f"accuracy{of}"] for f in found] for of in ("_mean", "_worst10"))
            return dict(zip(_COLUMNS, values, strict=True))

        return Row(run, Expected(15.0, 20.0))

    skews = list(_SKEWS)[:1] if given.smoke else list(_SKEWS)
    chosen = _SMOKE if given.smoke else tuple(made)
    rows = {f"{skew}: {method}": row(skew, method) for skew in skews for method in chosen}
    title = f"personalization: digits, {num_clients} clients, {num_rounds} rounds, {given.num_seeds} seeds"
    source = "Li et al. (2021), https://arxiv.org/abs/2012.04221; Collins et al. (2021), arXiv 2102.07078"
    return Table("personalization", title, source, _COLUMNS, rows, _NOTE, _draw)


def _data(skew: str, num_clients: int) -> tuple[fl.Population, fl.Population]:
    everything, _ = fl.datasets.load("digits", partition=_SKEWS[skew](num_clients))
    return fl.partition.train_test_split(everything, test_fraction=0.3, seed=0)


def _draw(done: Mapping[str, Cells]) -> Any:
    """Means and worst tenths with intervals over seeds, a panel for each skew."""
    return figures.points(figures.by_setting(done), _COLUMNS, xlabel="test accuracy [%]")
