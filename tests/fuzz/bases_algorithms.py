"""Valid calls of the algorithms and of statistics without a model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bases_engine import ALGORITHM, COHORT, KEY, PEOPLE, SGD, init_rounds, loss
from calls import Base

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.algorithms import analytics

LENGTH: dict[str, Any] = {"batch_size": 2, "epochs": 1}
LOCAL: dict[str, Any] = {"client_optimizer": SGD, **LENGTH}
WORDS = {"loss_fn": ("the loss function",), "shuffle": ("batch_size",), "epochs": ("steps",), "steps": ("epochs",)}


def own(path: Any, leaf: Any) -> bool:
    """Which leaf is the head, or stays at a client."""
    return path[0] == "b"


def method(function: Any, **arguments: Any) -> Base:
    """A method of the loss, which rounds are then made of."""
    return Base(function, {"loss_fn": loss, **arguments}, use=init_rounds, words=WORDS, costly=True)


METHODS = {
    "afl": method(algorithms.afl, lambda_lr=0.1, groups=[0, 0, 1, 1, 2, 2], **LOCAL),
    "apfl": method(algorithms.apfl, alpha=0.5, **LOCAL),
    "di_lo_co": method(algorithms.di_lo_co, inner_optimizer=SGD, **LENGTH),
    "ditto": method(algorithms.ditto, lam=0.1, **LOCAL),
    "fed_adagrad": method(algorithms.fed_adagrad, server_lr=0.1, **LOCAL),
    "fed_adam": method(algorithms.fed_adam, server_lr=0.1, **LOCAL),
    "fed_yogi": method(algorithms.fed_yogi, server_lr=0.1, **LOCAL),
    "fed_avg_m": method(algorithms.fed_avg_m, **LOCAL),
    "fed_ala": method(algorithms.fed_ala, top=own, **LOCAL),
    "fed_avg": method(algorithms.fed_avg, **LOCAL),
    "fed_babu": method(algorithms.fed_babu, head=own, **LOCAL),
    "fed_bn": method(algorithms.fed_bn, norm=own, **LOCAL),
    "fed_dyn": method(algorithms.fed_dyn, alpha=0.1, num_clients=6, **LOCAL),
    "fed_exp": method(algorithms.fed_exp, **LOCAL),
    "fed_kseed": method(algorithms.fed_kseed, client_lr=0.1, num_seeds=8, **LENGTH),
    "fed_lin": method(algorithms.fed_lin, client_lr=0.1, **LENGTH),
    "fed_nova": method(algorithms.fed_nova, client_lr=0.1, **LENGTH),
    "fed_pa": method(algorithms.fed_pa, rho=0.1, num_samples=2, steps_per_sample=2, **LOCAL),
    "fed_per": method(algorithms.fed_per, personal=own, **LOCAL),
    "fed_prox": method(algorithms.fed_prox, mu=0.1, **LOCAL),
    "fed_prox_adaptive": method(algorithms.fed_prox_adaptive, **LOCAL),
    "fed_recon": method(algorithms.fed_recon, local=own, **LOCAL),
    "fed_rep": method(algorithms.fed_rep, head=own, **LOCAL),
    "fed_sgd": method(algorithms.fed_sgd, server_optimizer=SGD),
    "fine_tuned": method(algorithms.fine_tuned, algorithm=ALGORITHM, **LOCAL),
    "hyp_cluster": method(algorithms.hyp_cluster, num_clusters=2, **LOCAL),
    "ifca": method(algorithms.ifca, num_clusters=2, **LOCAL),
    "lg_fed_avg": method(algorithms.lg_fed_avg, local=own, **LOCAL),
    "mime": method(algorithms.mime, base_optimizer=SGD, **LENGTH),
    "mime_lite": method(algorithms.mime_lite, base_optimizer=SGD, **LENGTH),
    "one_shot": method(algorithms.one_shot, **LOCAL),
    "p_fed_me": method(algorithms.p_fed_me, lam=1.0, eta=0.1, inner_steps=2, personal_optimizer=SGD, **LENGTH),
    "per_fed_avg": method(algorithms.per_fed_avg, alpha=0.1, **LOCAL),
    "q_fed_avg": method(algorithms.q_fed_avg, q=1.0, client_lr=0.1, **LENGTH),
    "q_fed_sgd": method(algorithms.q_fed_sgd, q=1.0, server_lr=0.1),
    "reconstruct": method(algorithms.reconstruct, local=own, recon_optimizer=SGD, batch_size=2)._replace(use=None),
    "reptile": method(algorithms.reptile, epsilon=0.5, **LOCAL),
    "scaffold": method(algorithms.scaffold, num_clients=6, client_lr=0.1, **LENGTH),
    "streaming_di_lo_co": method(
        algorithms.streaming_di_lo_co, inner_optimizer=SGD, fragments=2, overlap=1, mixing=0.5, batch_size=2, steps=2
    ),
    "term": method(algorithms.term, t=1.0, **LOCAL),
}
for name in ("ifca", "hyp_cluster"):  # their servers keep one model a cluster
    METHODS[name] = METHODS[name]._replace(
        use=lambda made: init_rounds(made, params={"w": jnp.zeros((2, 3)), "b": jnp.zeros(2)})
    )


def make(client_lr: Any) -> fl.Algorithm:
    """The algorithm of a round, for `scheduled`."""
    del client_lr
    return ALGORITHM


def use_statistic(run: Any) -> None:
    """Traces a statistic of all clients."""
    jax.eval_shape(lambda: run(PEOPLE, COHORT, KEY))


STATISTIC: dict[str, Any] = {"words": {"aggregator": ("mean",)}, "costly": True}
PIECES = {
    "adaptive_server_optimizer": Base(
        algorithms.adaptive_server_optimizer, {"rule": "adam", "server_lr": 0.1, "beta1": 0.9, "beta2": 0.9}
    ),
    "by_name": Base(algorithms.by_name, {"*": ("head",)}, words={"*": ("names", "name")}),
    "fed_avg_of": Base(algorithms.fed_avg_of, {"local": fl.local_sgd(loss, **LOCAL)}, use=init_rounds, costly=True),
    "ifca_init": Base(
        algorithms.ifca_init, {"key": KEY, "init": lambda key: jax.random.normal(key, (3,)), "num_clusters": 2}
    ),
    "k_means": Base(algorithms.k_means, {"feature": "x"}, use=lambda a: init_rounds(a, params=jnp.zeros((2, 3)))),
    "k_means_init": Base(
        algorithms.k_means_init, {"key": KEY, "points": np.ones((5, 3), np.float32), "num_clusters": 2}
    ),
    "kseed_model": Base(algorithms.kseed_model, {"params": {"w": jnp.zeros(3)}, "sums": jnp.ones(4), "seed": 0}),
    "last_layer": Base(algorithms.last_layer, {"model": fl.models.mlp(features=(4, 2), input_shape=(4,))}),
    "norm_layers": Base(algorithms.norm_layers, {"path": ("norm", "scale"), "leaf": None}),
    "project_to_simplex": Base(algorithms.project_to_simplex, {"values": jnp.array([0.2, 1.4])}),
    "scheduled": Base(
        algorithms.scheduled, {"make": make, "client_lr": lambda t: 0.1 / (1 + t)}, use=init_rounds, costly=True
    ),
    "lora.init": Base(
        algorithms.lora.init,
        {"params": {"kernel": jnp.ones((8, 3)), "bias": jnp.zeros(3)}, "rank": 2, "key": KEY},
        words={"params": ("leaf",)},
    ),
    "lora.lora_loss": Base(algorithms.lora.lora_loss, {"loss_fn": loss, "alpha": 1.0}),
    "lora.federated": Base(
        algorithms.lora.federated,
        {"make": lambda loss: algorithms.fed_avg(loss, **LOCAL), "loss_fn": loss, "alpha": 1.0},
        costly=True,
    ),
    "analytics.federated_mean": Base(analytics.federated_mean, {"feature": "x"}, use=use_statistic, **STATISTIC),
    "analytics.federated_variance": Base(
        analytics.federated_variance, {"feature": "x"}, use=use_statistic, **STATISTIC
    ),
    "analytics.federated_histogram": Base(
        analytics.federated_histogram, {"edges": [0.0, 0.5, 1.0], "feature": "y"}, use=use_statistic, **STATISTIC
    ),
    "analytics.federated_quantiles": Base(
        analytics.federated_quantiles,
        {"quantiles": [0.5], "feature": "y", "low": 0.0, "high": 1.0, "num_rounds": 3},
        use=use_statistic,
        **STATISTIC,
    ),
    "analytics.heavy_hitters": Base(
        analytics.heavy_hitters, {"feature": "label", "threshold": 0.3, "alphabet": 10, "length": 1}, **STATISTIC
    ),
}

ALGORITHMS: dict[str, Base] = {f"algorithms.{name}": base for name, base in {**METHODS, **PIECES}.items()}
