"""An audit of DP-FedAvg: the epsilon that is claimed against what an attacker measures, as it should be and with bugs.

Canaries (clients that send a random direction, or nothing, by a coin flip) are told apart by the server's sums. The
claim is computed from the program; the measurement is a lower bound that holds with 95 % confidence. A correct program
measures below its claim. Each bug is one that real libraries have had, leaves the claim as it is, and is found.

Steinke, Nasr, Jagielski (2023), https://arxiv.org/abs/2305.08846 (one run, many canaries); Jagielski, Ullman, Oprea
(2020), https://arxiv.org/abs/2006.07709 (many runs, one canary each).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms, privacy
from fedjaxlite.reproduce import seeds

_CLIP, _NOISE, _ROUNDS, _DELTA = 1.0, 4.0, 4, 1e-5
_SCALE, _EXAMPLES = 20.0, 20
"""What a canary sends, in clip norms, and how many examples it says it has."""


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


def main(given: seeds.Arguments = seeds.Arguments()) -> dict[str, list[Any]]:  # noqa: B008  (a NamedTuple, immutable)
    """Audits every chain by one run and by many, and prints the table.

    Returns:
      by chain: the claimed epsilon, the bounds by one run and by many runs, and what follows.
    """
    num_canaries, num_runs = (40, 40) if given.smoke else (1000, 4000)
    rows: dict[str, list[Any]] = {}
    for name in chains(1.0):
        one = _one_run(name, num_canaries)
        many = _many_runs(name, num_runs)
        claimed = one[0]
        found = max(one[1], many)
        verdict = "above its claim: broken" if found > claimed else "below its claim"
        rows[name] = [claimed, one[1], many, verdict]
    title = (
        f"audit: epsilon at delta {_DELTA:g} of {_ROUNDS} rounds with noise {_NOISE:g}; one run with {num_canaries} "
        f"canaries, {num_runs} runs with one"
    )
    seeds.show(title, ("claimed", "measured, one run", "measured, many runs", "so it is"), rows, given.out)
    return rows


def _one_run(name: str, num_canaries: int) -> tuple[float, float]:
    """The claim, and the bound from one run in which every client is a canary."""
    rng = np.random.default_rng(0)
    total = num_canaries * _EXAMPLES
    features = {"x": rng.random((total, 8), np.float32), "y": rng.integers(0, 10, total).astype(np.int32)}
    people = fl.Population.from_arrays(features, client_ids=np.repeat(np.arange(num_canaries), _EXAMPLES))
    model = fl.models.mlp(features=(400, 10), input_shape=(8,))
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


if __name__ == "__main__":
    main(seeds.arguments(__doc__))
