"""Who took part, by the trained model and by a released sum: the membership part of `leak`."""

from functools import partial
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

CLIP_NORM = 1.0
"""Of a client's update in training."""
FIRST_CLIP_NORM = 0.1
"""Of one local epoch from a fresh model, whose updates are that long."""
DELTA = 1e-3
NOISE = (0.0, 1.0, 4.0)
"""Noise multipliers z: the noise on a sum has standard deviation z times the clip norm in every coordinate."""


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
      accuracy: their mean accuracy on the test set.
      epsilon: of each client in its training.
    """

    confidences: np.ndarray
    losses: np.ndarray
    member: np.ndarray
    accuracy: float
    epsilon: float


def main(given: seeds.Arguments) -> dict[str, list[Any]]:
    """Trains, attacks, prints the tables and draws the curves where a folder is given."""
    sizes = Sizes(4, 80, 4, 2, 3) if given.smoke else Sizes(33, 400, 20, 20, 200)
    train, test = fl.datasets.load("digits")
    rows: dict[str, list[Any]] = {}
    curves: dict[str, attacks.Roc] = {}
    for noise_multiplier in NOISE:
        setting = f"noise z = {noise_multiplier:g}" if noise_multiplier else "no noise"
        seen = trained(train, test, sizes, noise_multiplier)
        guesses = {"loss": seen.losses, "LiRA": attacks.lira_leave_one_out(seen.confidences, seen.member)}
        for attack, guess in guesses.items():
            curve = attacks.roc(guess.ravel(), seen.member.ravel())
            rows[f"{attack}, {setting}"] = [*_worth(curve), 100 * seen.accuracy, _epsilon(seen.epsilon)]
            curves[f"{attack}, {setting}"] = curve
    for noise_multiplier in NOISE:
        setting = f"noise z = {noise_multiplier:g}" if noise_multiplier else "no noise"
        curve = client_curve(train, sizes, noise_multiplier)
        epsilon = privacy.gaussian_epsilon(noise_multiplier=noise_multiplier, delta=DELTA)
        rows[f"a client in one sum, {setting}"] = [*_worth(curve), "", _epsilon(epsilon)]
    title = f"leak_members: digits, {sizes.num_models} models on half of {sizes.num_examples} examples, sums of 8 of 40"
    columns = ("AUC", "TPR at 0.1 % FPR", "test accuracy, %", f"ε of a client (δ = {DELTA:g})")
    seeds.show(title, columns, rows, given.out)
    if given.out is not None:
        path = Path(given.out) / "leak_members.png"
        attacks.plot_roc(curves, path, title="digits: membership of an example, from the trained model")
    return rows


def _epsilon(epsilon: float) -> Any:
    return epsilon if np.isfinite(epsilon) else "infinite"


def _worth(curve: attacks.Roc) -> tuple[float, float]:
    return attacks.auc(curve), attacks.tpr_at_fpr(curve, 1e-3)


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
        run, own = rounds_of(member), jax.random.split(key, 3)
        state = run.init(model.init(own[0]), people, key=own[1], noise_key=own[2])
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
    return Trained(np.asarray(confidences), np.asarray(losses), member, float(accuracy.mean()), epsilon)


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
