"""An audit of DP-FedAvg: the epsilon that is claimed against what an attacker measures, as it should be and with bugs.

Canaries (clients that send a random direction, or nothing, by a coin flip) are told apart by the server's sums. The
claim is computed from the program; the measurement is a lower bound that holds with 95 % confidence. A correct program
measures below its claim. Each bug is one that real libraries have had, leaves the claim as it is, and is found.

Steinke, Nasr, Jagielski (2023), https://arxiv.org/abs/2305.08846 (one run, many canaries); Jagielski, Ullman, Oprea
(2020), https://arxiv.org/abs/2006.07709 (many runs, one canary each).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms, privacy
from fedjaxlite.reproduce import figures, seeds
from fedjaxlite.reproduce.seeds import Arguments
from fedjaxlite.reproduce.table import Cells, Expected, Row, Table

_CLIP, _NOISE, _ROUNDS, _DELTA = 1.0, 4.0, 4, 1e-5
_SCALE, _EXAMPLES = 20.0, 20
"""What a canary sends, in clip norms, and how many examples it says it has."""

_COLUMNS = ("claimed", "measured, one run", "measured, many runs", "so it is")
_NOTE = (
    "Bounds hold with 95 % confidence and cannot exceed what the number of canaries allows, about 5. The bugs are "
    "after those of real libraries; the papers audit other programs, and have no figures to set beside these. "
    "All random numbers are fixed: seeds change nothing."
)


def chains(over: float) -> dict[str, fl.Aggregator]:
    """The chain as it should be, and with bugs that leave what it says of itself as it was."""
    mean, weighted = fl.mean(over=over), fl.weighted_mean()
    right = privacy.gaussian(clip_norm=_CLIP, noise_multiplier=_NOISE)
    silent = privacy.gaussian(clip_norm=_CLIP, noise_multiplier=0.0)
    small = privacy.gaussian(clip_norm=_CLIP, noise_multiplier=_NOISE / over)
    loose = privacy.gaussian(clip_norm=_CLIP * _SCALE, noise_multiplier=_NOISE)
    return {
        "correct": fl.chain(mean, right),
        "noise forgotten": fl.chain(mean, right._replace(decode=silent.decode)),
        "updates not clipped": fl.chain(mean, right._replace(encode=loose.encode)),
        "noise of the mean put on the sum": fl.chain(mean, right._replace(decode=small.decode)),
        "clients weighted by examples": fl.chain(mean._replace(encode=weighted.encode), right),
    }


def audit(given: Arguments) -> Table:
    """Audits a correct chain, and each bug."""
    num_canaries, hidden, num_runs = (40, 8, 40) if given.smoke else (1000, 400, 4000)

    def row(name: str) -> Row:
        def run(folder: Path | None) -> Cells:
            del folder
            claimed, one = _one_run(name, num_canaries, hidden)
            many = _many_runs(name, num_runs)
            verdict = "above its claim: broken" if max(one, many) > claimed else "below its claim"
            return dict(zip(_COLUMNS, (claimed, one, many, verdict), strict=True))

        return Row(run, Expected(30.0, 30.0))

    names = list(chains(1.0))[: 2 if given.smoke else None]
    title = (
        f"audit: epsilon at delta {_DELTA:g} of {_ROUNDS} rounds with noise {_NOISE:g}; one run with {num_canaries} "
        f"canaries, {num_runs} runs with one"
    )
    source = "Steinke et al. (2023), https://arxiv.org/abs/2305.08846; Jagielski et al. (2020), arXiv 2006.07709"
    return Table("audit", title, source, _COLUMNS, {name: row(name) for name in names}, _NOTE, _draw)


def _draw(done: Mapping[str, Cells]) -> Any:
    return figures.points({"epsilon claimed, and measured from below": done}, _COLUMNS[:3], xlabel="epsilon")


def _one_run(name: str, num_canaries: int, hidden: int) -> tuple[float, float]:
    """The claim, and the bound from one run in which every client is a canary."""
    rng = np.random.default_rng(0)
    total = num_canaries * _EXAMPLES
    features = {"x": rng.random((total, 8), np.float32), "y": rng.integers(0, 10, total).astype(np.int32)}
    people = fl.Population.from_arrays(features, client_ids=np.repeat(np.arange(num_canaries), _EXAMPLES))
    model = fl.models.mlp(features=(hidden, 10), input_shape=(8,))
    run = _audited(name, fl.losses.cross_entropy(model), num_canaries, num_canaries, 0, jax.random.key(1))
    params = model.init(jax.random.key(0))
    state = run.init(params, people, key=jax.random.key(2), noise_key=jax.random.key(3))
    state, _ = run.steps(state, people, _ROUNDS)
    # A client sends server minus client, so that an included canary pulls its direction's product up.
    found = state.server_state
    claimed = privacy.epsilon(run, people, num_rounds=_ROUNDS, delta=_DELTA)
    return claimed, privacy.audit.epsilon_one_run(found.scores, found.included, delta=_DELTA)


def _many_runs(name: str, num_runs: int) -> float:
    """The bound from many vmapped runs of a small problem with three ordinary clients and one canary."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4 * _EXAMPLES, 3)).astype(np.float32)
    features = {"x": x, "y": x.sum(1)}
    people = fl.Population.from_arrays(features, client_ids=np.repeat(np.arange(4), _EXAMPLES))
    loss = lambda params, batch, key: (batch["x"] @ params - batch["y"]) ** 2  # noqa: E731

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        canary, run_key, noise = jax.random.split(key, 3)
        run = _audited(name, loss, 4, 1, 3, canary)
        state = run.init(jnp.zeros(3), people, key=run_key, noise_key=noise)
        found = run.steps(state, people, _ROUNDS)[0].server_state
        return found.scores[0], found.included[0]

    scores, included = map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(5), num_runs)))
    return privacy.audit.epsilon_many_runs(scores[included], scores[~included], delta=_DELTA)


def _audited(
    name: str, loss: Callable[..., Any], num_clients: int, count: int, first: int, key: jax.Array
) -> fl.Rounds:
    """Everyone in every round of DP-FedAvg with one of the chains, on one device."""
    algorithm = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.01), batch_size=_EXAMPLES, epochs=1)
    algorithm = privacy.audit.with_canaries(
        algorithm, num_canaries=count, first_client=first, scale=_SCALE * _CLIP, key=key
    )
    return fl.rounds(
        algorithm,
        sampler=fl.sampling.full(num_clients),
        aggregator=chains(float(num_clients))[name],
        execution=seeds.ONE,
    )
