"""Who took part, by the trained model and by a released sum: membership.

Yeom et al. (2018), https://arxiv.org/abs/1709.01604, guess by the loss; Carlini et al. (2022),
https://arxiv.org/abs/2112.03570, by a likelihood ratio from shadow models (LiRA). Here each of S models is under attack
with the others for shadows. A client in one released sum is told by the cosine of its update with it.
"""

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms, privacy
from fedjaxlite.privacy import attacks
from fedjaxlite.reproduce import seeds
from fedjaxlite.reproduce.seeds import Arguments
from fedjaxlite.reproduce.table import Cells, Expected, Row, Table

CLIP_NORM = 1.0
"""Of a client's update in training."""
FIRST_CLIP_NORM = 0.1
"""Of one local epoch from a fresh model, whose updates are that long."""
DELTA = 1e-3
NOISE = (0.0, 1.0, 4.0)
"""Noise multipliers z: the noise on a sum has standard deviation z times the clip norm in every coordinate."""

_FOUND, _ACCURACY, _EPSILON = "TPR at 0.1 % FPR", "test accuracy, %", f"ε of a client (δ = {DELTA:g})"
_COLUMNS = ("AUC", _FOUND, _ACCURACY, _EPSILON)
_NOTE = (
    "Accuracy is a mean over the models, the rest is of all models and examples at once. Secure aggregation changes "
    "none of it. The papers attack other models and data: there are no figures to set beside these."
)


class Sizes(NamedTuple):
    """How much is trained.

    Attributes:
      num_models: S, each on a random half of the examples, each under attack with the others for shadows.
      num_examples: of which a random half are members.
      num_clients: N, all in every round.
      num_rounds: of training.
      num_trials: cohorts of the client's part.
    """

    num_models: int
    num_examples: int
    num_clients: int
    num_rounds: int
    num_trials: int


class Trained(NamedTuple):
    """S models, seen by an attacker.

    Attributes:
      confidences: float32 `[S, n]`.
      losses: float32 `[S, n]`, minus the loss.
      member: bool `[S, n]`, which examples each was trained on.
      accuracy: float `[S]`, on the test set.
      epsilon: of each client in its training.
    """

    confidences: np.ndarray
    losses: np.ndarray
    member: np.ndarray
    accuracy: np.ndarray
    epsilon: float


def leak_members(given: Arguments) -> Table:
    """Membership of examples in the trained model, and of clients in one sum."""
    sizes = Sizes(4, 40, 4, 2, 3) if given.smoke else Sizes(33, 400, 20, 20, 200)
    data = cache(lambda: fl.datasets.load("digits"))
    models = cache(lambda noise: trained(*data(), sizes, noise))

    def example(attack: str, noise: float) -> Row:
        def run(folder: Path | None) -> Cells:
            del folder
            seen = models(noise)
            guess = seen.losses if attack == "loss" else attacks.lira_leave_one_out(seen.confidences, seen.member)
            curve = attacks.roc(guess.ravel(), seen.member.ravel())
            epsilon = seen.epsilon if np.isfinite(seen.epsilon) else "infinite"
            accuracy = (100 * seen.accuracy).tolist()
            return {**_worth(curve), _ACCURACY: accuracy, _EPSILON: epsilon, "curve": _corners(curve)}

        return Row(run, Expected(10.0, 20.0))

    def client(noise: float) -> Row:
        def run(folder: Path | None) -> Cells:
            del folder
            curve = client_curve(data()[0], sizes, noise)
            epsilon = privacy.gaussian_epsilon(noise_multiplier=noise, delta=DELTA)
            return {
                **_worth(curve),
                _EPSILON: epsilon if np.isfinite(epsilon) else "infinite",
                "curve": _corners(curve),
            }

        return Row(run, Expected(2.0, 10.0))

    noises = NOISE[:1] if given.smoke else NOISE
    name = lambda noise: f"noise z = {noise:g}" if noise else "no noise"  # noqa: E731
    rows = {f"{attack}, {name(noise)}": example(attack, noise) for noise in noises for attack in ("loss", "LiRA")}
    rows |= {f"a client in one sum, {name(noise)}": client(noise) for noise in noises}
    title = f"leak-members: digits, {sizes.num_models} models on half of {sizes.num_examples} examples, sums of 8 of 40"
    source = "Yeom et al. (2018), https://arxiv.org/abs/1709.01604; Carlini et al. (2022), arXiv 2112.03570"
    return Table("leak-members", title, source, _COLUMNS, rows, _NOTE, _draw)


def _corners(curve: attacks.Roc, most: int = 120) -> list[list[float]]:
    """A curve with fewer points, for the figure: evenly along its logarithmic axis."""
    wanted = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, most)])
    kept = np.unique(np.searchsorted(curve.fpr, wanted, side="right") - 1)
    return [curve.fpr[kept].round(6).tolist(), curve.tpr[kept].round(6).tolist()]


def _draw(done: Mapping[str, Cells]) -> Any:
    found = {name: np.asarray(cells["curve"]) for name, cells in done.items()}
    curves = {name: attacks.Roc(fpr, tpr, np.full(len(fpr), np.nan)) for name, (fpr, tpr) in found.items()}
    return fl.plots.roc(curves, title="digits: who took part, from the trained model and from one sum")


def _worth(curve: attacks.Roc) -> dict[str, float]:
    return {"AUC": attacks.auc(curve), _FOUND: attacks.tpr_at_fpr(curve, 1e-3)}


def trained(train: Any, test: Any, sizes: Sizes, noise_multiplier: float) -> Trained:
    """S models by federated averaging, one program.

    Secure aggregation would not change a bit of them: it gives the server the same sum.
    """
    num = sizes.num_examples
    x, y = train["x"][:num], train["y"][:num]
    # every example in half of the models
    half = np.arange(sizes.num_models)[:, None] < sizes.num_models // 2
    member = np.random.default_rng(0).permuted(np.broadcast_to(half, (sizes.num_models, num)), axis=0)
    people = fl.Population.from_arrays(
        {"x": x, "y": y, "row": np.arange(num, dtype=np.int32)}, client_ids=np.arange(num) % sizes.num_clients
    )
    model = fl.models.mlp(features=(64, 10))
    cross_entropy = fl.losses.cross_entropy(model)

    def rounds_of(member: Any) -> fl.Rounds:
        def loss_fn(params: Any, batch: Any, key: Any) -> Any:
            losses, aux = cross_entropy(params, batch, key)
            return losses, aux._replace(example_weight=member[batch["row"]])

        algorithm = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(0.2), batch_size=10, epochs=5)
        over = fl.mean(over=sizes.num_clients)
        noised = (privacy.gaussian(clip_norm=CLIP_NORM, noise_multiplier=noise_multiplier),) if noise_multiplier else ()
        sampler, aggregator = fl.sampling.full(sizes.num_clients), fl.chain(over, *noised)
        return fl.rounds(algorithm, sampler=sampler, aggregator=aggregator, execution=seeds.ONE)

    def one(member: jax.Array, key: Any) -> Any:
        run = rounds_of(member)
        state = seeds.begin(run, model.init, people, key)
        return run.params(run.steps(state, people, sizes.num_rounds)[0])

    keys = jax.random.split(jax.random.key(0), sizes.num_models)
    models = jax.jit(jax.vmap(one))(jnp.asarray(member, jnp.float32), keys)
    logits = jax.jit(jax.vmap(model.apply, in_axes=(0, None)))(models, jnp.asarray(x))
    confidences = attacks.confidence(logits, jnp.tile(jnp.asarray(y), (sizes.num_models, 1)))
    losses = jax.vmap(lambda params: attacks.loss_scores(cross_entropy, params, {"x": x, "y": y}))(models)
    accuracy = jax.jit(jax.vmap(seeds.accuracy_of(model, test)))(models)
    epsilon = float("inf")
    if noise_multiplier:
        epsilon = privacy.epsilon(rounds_of(np.ones(num)), people, num_rounds=sizes.num_rounds, delta=DELTA)
    return Trained(np.asarray(confidences), np.asarray(losses), member, np.asarray(accuracy, np.float64), epsilon)


def client_curve(train: Any, sizes: Sizes, noise_multiplier: float) -> attacks.Roc:
    """Which 8 of 40 clients are in one sum of clipped updates, by the cosine with each one's update."""
    model = fl.models.mlp(features=(64, 10))
    x, y = train["x"][:400].reshape(40, 10, 8, 8, 1), train["y"][:400].reshape(40, 10)
    loss_fn = fl.losses.cross_entropy(model)
    update_fn = attacks.local_update(loss_fn, learning_rate=0.1, epochs=1, batch_size=10, clip_norm=FIRST_CLIP_NORM)
    params = model.init(jax.random.key(0))
    updates = jax.jit(jax.vmap(update_fn, in_axes=(None, 0, 0)))(params, x, y)
    score = jax.jit(partial(attacks.client_scores, num_members=8))
    rng = np.random.default_rng(1)

    def released(inside: np.ndarray) -> Any:
        std = noise_multiplier * FIRST_CLIP_NORM
        noised = lambda leaf: leaf[inside].sum(0) + std * rng.standard_normal(leaf.shape[1:], np.float32)  # noqa: E731
        return jax.tree.map(noised, updates)

    member = np.stack([rng.permutation(40) < 8 for _ in range(sizes.num_trials)])
    scores = [np.asarray(score(released(inside), updates)) for inside in member]
    return attacks.roc(np.concatenate(scores), member.ravel())
