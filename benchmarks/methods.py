"""What each algorithm costs beside federated averaging: time, memory and bytes of one round on the same clients.

`python -m fedjaxlite.benchmarks.methods --out DIR` prints and writes the table of docs/algorithms.md.

Twenty clients of 100 images train a 2NN (784-200-200-10, 199,210 parameters) for one epoch in batches of 10. Times are
taken in turns with federated averaging's, on one device and one lane. Memory is what XLA sets aside for temporaries and
results, client states included; what clients keep and what crosses the wire are read off the shapes.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.benchmarks import machine
from fedjaxlite.benchmarks.problem import images, packed, weights
from fedjaxlite.benchmarks.timing import ratios, seconds

_RATE = 0.05


class Cost(NamedTuple):
    """One row, in units of federated averaging's, but for `keeps`.

    Attributes:
      time: seconds of a round over federated averaging's, the median of the turns.
      low, high: the smallest and the largest.
      memory: bytes of temporaries and results.
      up, down: bytes of one client in one round.
      keeps: bytes that a client keeps between its rounds, in models.
    """

    time: float
    low: float
    high: float
    memory: float
    up: float
    down: float
    keeps: float


class _Program(NamedTuple):
    run: fl.Rounds
    state: fl.RoundState
    memory: int
    traffic: fl.Traffic
    keeps: int


def methods(loss_fn: Any, num_clients: int, head: Callable[..., bool]) -> dict[str, fl.Algorithm]:
    """The algorithms of the table on one loss, with what federated averaging has wherever they have it too."""
    sgd = optax.sgd(_RATE)
    local: dict[str, Any] = {"batch_size": 10, "epochs": 1}
    both: dict[str, Any] = {"client_optimizer": sgd, **local}
    fed_avg = algorithms.fed_avg(loss_fn, **both)
    groups = tuple(client % 2 for client in range(num_clients))
    return {
        "fed_avg": fed_avg,
        "fed_sgd": algorithms.fed_sgd(loss_fn, server_optimizer=sgd),
        "fed_avg_m": algorithms.fed_avg_m(loss_fn, **both),
        "fed_adam": algorithms.fed_adam(loss_fn, server_lr=0.01, tau=0.01, **both),
        "fed_prox": algorithms.fed_prox(loss_fn, mu=0.1, **both),
        "fed_prox_adaptive": algorithms.fed_prox_adaptive(loss_fn, mu=0.1, **both),
        "scaffold": algorithms.scaffold(loss_fn, num_clients=num_clients, client_lr=_RATE, **local),
        "scaffold, option I": algorithms.scaffold(loss_fn, num_clients=num_clients, client_lr=_RATE, option=1, **local),
        "fed_nova": algorithms.fed_nova(loss_fn, client_lr=_RATE, max_steps=10, **local),
        "fed_dyn": algorithms.fed_dyn(loss_fn, alpha=0.1, num_clients=num_clients, **both),
        "mime": algorithms.mime(loss_fn, base_optimizer=optax.sgd(_RATE, momentum=0.9), **local),
        "mime_lite": algorithms.mime_lite(loss_fn, base_optimizer=optax.sgd(_RATE, momentum=0.9), **local),
        "fed_exp": algorithms.fed_exp(loss_fn, **both),
        "fed_pa": algorithms.fed_pa(
            loss_fn,
            server_optimizer=sgd,
            rho=0.1,
            num_samples=3,
            steps_per_sample=3,
            client_optimizer=sgd,
            batch_size=10,
        ),
        "fed_lin": algorithms.fed_lin(loss_fn, client_lr=_RATE, **local),
        "di_lo_co": algorithms.di_lo_co(loss_fn, inner_optimizer=optax.adamw(0.001), **local),
        "one_shot": algorithms.one_shot(loss_fn, **both),
        "fine_tuned": algorithms.fine_tuned(fed_avg, loss_fn, **both),
        "ditto": algorithms.ditto(loss_fn, lam=0.1, **both),
        "apfl": algorithms.apfl(loss_fn, alpha=0.5, **both),
        "p_fed_me": algorithms.p_fed_me(loss_fn, lam=15.0, eta=0.01, inner_steps=5, personal_optimizer=sgd, **local),
        "per_fed_avg, first order": algorithms.per_fed_avg(loss_fn, alpha=0.01, variant="fo", **both),
        "per_fed_avg, Hessian-free": algorithms.per_fed_avg(loss_fn, alpha=0.01, variant="hf", **both),
        "reptile": algorithms.reptile(loss_fn, epsilon=0.5, **both),
        "fed_per": algorithms.fed_per(loss_fn, personal=head, **both),
        "fed_rep": algorithms.fed_rep(loss_fn, head=head, **both),
        "fed_babu": algorithms.fed_babu(loss_fn, head=head, **both),
        "lg_fed_avg": algorithms.lg_fed_avg(loss_fn, local=lambda path, leaf: not head(path, leaf), **both),
        "fed_ala": algorithms.fed_ala(loss_fn, top=head, **both),
        "fed_recon": algorithms.fed_recon(loss_fn, local=head, recon_epochs=1, **both),
        "ifca, k = 2": algorithms.ifca(loss_fn, num_clusters=2, **both),
        "hyp_cluster, k = 2": algorithms.hyp_cluster(loss_fn, num_clusters=2, **both),
        "q_fed_avg": algorithms.q_fed_avg(loss_fn, q=1.0, client_lr=_RATE, **local),
        "q_fed_sgd": algorithms.q_fed_sgd(loss_fn, q=1.0, server_lr=_RATE),
        "afl": algorithms.afl(loss_fn, lambda_lr=0.01, groups=groups, **both),
        "term": algorithms.term(loss_fn, t=1.0, **both),
    }


def main(out: Path | None = None, turns: int = 5, quick: bool = False) -> dict[str, Cost]:
    """Measures every method, prints a table in Markdown, and writes methods.json where asked to.

    Args:
      out: a folder, made where it is missing.
      turns: how often a method's round is timed beside federated averaging's.
      quick: sizes for tests, whose times mean nothing.

    Returns:
      a Cost by method.
    """
    num_clients, hidden = (2, 4) if quick else (20, 200)
    population = packed(images(num_clients * 100, (784,)), np.full(num_clients, 100))
    model = fl.models.mlp(features=(hidden, hidden, 10), input_shape=(784,))
    params = weights(model)
    table = methods(fl.losses.cross_entropy(model), num_clients, algorithms.last_layer(model))
    if quick:
        table = {name: table[name] for name in ("fed_avg", "scaffold", "fed_per")}
    base = _program(table["fed_avg"], params, population)
    costs = {}
    print("| method | time | memory | up | down | keeps, in models |\n| --- | --- | --- | --- | --- | --- |")
    for name, algorithm in table.items():
        stacked = name.startswith(("ifca", "hyp"))
        start = algorithms.ifca_init(jax.random.key(0), model.init, 2) if stacked else params
        costs[name] = _cost(_program(algorithm, start, population), base, population, params, turns)
        c = costs[name]
        time = f"{c.time:.2f} ({c.low:.2f}–{c.high:.2f})"
        print(f"| {name} | {time} | {c.memory:.2f} | {c.up:.2f} | {c.down:.2f} | {c.keeps:.2f} |", flush=True)
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        found = {"machine": machine.describe(), "turns": turns, "methods": {n: c._asdict() for n, c in costs.items()}}
        (Path(out) / "methods.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return costs


def _program(algorithm: fl.Algorithm, params: Any, population: fl.Population) -> _Program:
    """A method's round, compiled and run once, on one device and one lane: what it computes, not how it is spread."""
    sampler = fl.sampling.full(population.num_clients)
    execution = fl.Execution(lanes=1, devices=1)
    run = fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=execution)
    state = run.init(params, population, key=jax.random.key(0))
    analysis: Any = run.lower(state, population).compile().memory_analysis()
    jax.block_until_ready(run.step(state, population))
    clients = jax.tree.leaves(jax.eval_shape(lambda: state.clients))
    keeps = sum(leaf.size * leaf.dtype.itemsize for leaf in clients) // population.num_clients
    memory = int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes)
    return _Program(run, state, memory, run.traffic(params, population), keeps)


def _cost(program: _Program, base: _Program, population: fl.Population, params: Any, turns: int) -> Cost:
    ours, theirs = [], []
    for _ in range(turns):
        theirs.append(seconds(lambda: base.run.step(base.state, population)))
        ours.append(seconds(lambda: program.run.step(program.state, population)))
    time = ratios(ours, theirs)
    model = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return Cost(
        *time,
        memory=program.memory / base.memory,
        up=program.traffic.up / base.traffic.up,
        down=program.traffic.down / base.traffic.down,
        keeps=program.keeps / model,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m fedjaxlite.benchmarks.methods", description=__doc__)
    parser.add_argument("--out", type=Path, default=None, help="folder for methods.json")
    parser.add_argument("--turns", type=int, default=5, help="how often each round is timed")
    given = parser.parse_args()
    main(given.out, given.turns)
