"""Averaging two models that were trained on different data: with a common initialization, and without.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas (2017), https://arxiv.org/abs/1602.05629, figure 1: two 2NN models, each
trained by 240 steps of SGD (rate .1, B = 50, E = 20) on its own 600 examples of MNIST; the loss of θ w + (1 - θ) w' on
the whole training set, for 50 values of θ in [-0.2, 1.2]. The claims: from different initializations the mean is much
worse than either model, from a common one it is better than both. The paper shows one pair; here are several.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite.plots import style
from fedjaxlite.reproduce.seeds import Arguments
from fedjaxlite.reproduce.table import Cells, Expected, Row, Table

_COLUMNS = ("better parent", "mean of both", "mean / better parent", "best mixture", "its θ")


def figure1(given: Arguments) -> Table:
    """Figure 1: the loss of mixtures of two models."""
    thetas = np.linspace(-0.2, 1.2, 8 if given.smoke else 50)

    def row(common: bool) -> Row:
        def run(folder: Path | None) -> Cells:
            del folder
            losses = mixtures(given, common, thetas)
            return {**_summary(losses), "losses": losses[:, :-3].tolist(), "thetas": thetas.tolist()}

        return Row(run, Expected(150.0, 30.0))

    return Table(
        "mcmahan2017-figure1",
        f"mcmahan2017-figure1: training loss of mixtures of two models, {given.num_seeds} pairs",
        "McMahan et al. (2017), https://arxiv.org/abs/1602.05629, figure 1",
        _COLUMNS,
        {"different initializations": row(False), "common initialization": row(True)},
        "The paper has curves and no figures: with different initializations the mean is far above both parents, with "
        "a common one below the better.",
        _draw,
    )


def mixtures(given: Arguments, common: bool, thetas: np.ndarray) -> np.ndarray:
    """The loss on all training data of mixtures, at `thetas` and then at 0, 1 and 1/2: float `[S, T + 3]`."""
    if given.smoke:
        (train, _), size = fl.datasets.load("digits"), 60
        model = fl.models.mlp(features=(8, 10), input_shape=(8, 8, 1))
    else:
        (train, _), size = fl.datasets.load("mnist", data_dir=given.data_dir), 600
        model = fl.models.mlp(features=(200, 200, 10), input_shape=(28, 28, 1))
    evaluate = fl.evaluate(model, train, batch_size=min(6000, len(train["y"])))
    ends = jnp.asarray([*thetas, 0.0, 1.0, 0.5], jnp.float32)

    @jax.jit
    def losses(pair: Any) -> jax.Array:
        mix = lambda theta: jax.tree.map(lambda w: theta * w[0] + (1 - theta) * w[1], pair)  # noqa: E731
        return jax.lax.map(lambda theta: evaluate(mix(theta))["loss"], ends)

    return np.asarray([losses(_trained(model, train, size, common, seed)) for seed in range(given.num_seeds)])


def _trained(model: fl.models.Model, train: Mapping[str, Any], size: int, common: bool, seed: int) -> Any:
    """Two models, stacked, each trained on its own examples."""
    chosen = np.random.default_rng(seed).permutation(len(train["y"]))[: 2 * size]
    pair = fl.Population.from_arrays(
        {name: array[chosen] for name, array in train.items()}, client_ids=np.arange(2 * size) // size
    )
    local = fl.local_sgd(
        fl.losses.cross_entropy(model), client_optimizer=optax.sgd(0.1), batch_size=min(50, size), epochs=20
    )
    starts, key = jax.random.split(jax.random.key(seed))
    first = jax.vmap(model.init)(jax.random.split(starts) if not common else jnp.stack([starts, starts]))

    def client(shared: Any, data: fl.ClientData) -> fl.ClientOutput:
        own = jax.tree.map(lambda leaf: leaf[data.id], shared)
        # Each model in its own half of a stack of two: their sum is the pair.
        place = lambda leaf: jnp.zeros((2, *leaf.shape), leaf.dtype).at[data.id].set(leaf)  # noqa: E731
        return fl.ClientOutput(jax.tree.map(place, local(own, data).params))

    both = fl.sampling.full(2).sample(key, 0, pair)
    total, _ = fl.federated_sum(client, aggregator=fl.mean(over=1), execution=fl.Execution(devices=1))(
        first, pair, both, key=key
    )
    return total.value


def _summary(losses: np.ndarray) -> dict[str, list[float]]:
    parents, mean = losses[:, -3:-1].min(1), losses[:, -1]
    thetas_at = losses[:, :-3].argmin(1)
    grid = np.linspace(-0.2, 1.2, losses.shape[1] - 3)
    values = (parents, mean, mean / parents, losses[:, :-3].min(1), grid[thetas_at])
    return {name: [float(v) for v in column] for name, column in zip(_COLUMNS, values, strict=True)}


def _draw(done: Mapping[str, Cells]) -> Any:
    """The two panels of the figure: all pairs, and the better parent of the first."""
    figure = style.new_figure((9, 3.8))
    for axes, (name, cells) in zip(figure.subplots(1, len(done), squeeze=False)[0], done.items(), strict=True):
        for number, losses in enumerate(cells["losses"]):
            axes.plot(cells["thetas"], losses, color="0.6" if number else "black", linewidth=1.8 - (number > 0))
        axes.axhline(cells["better parent"][0], color="black", linestyle="--", linewidth=0.9, label="its better parent")
        for theta in (0, 1):
            axes.axvline(theta, color="0.85", linewidth=0.8, zorder=0)
        axes.set_title(f"{name} (pair 0 in black)", fontsize=10)
        axes.set_xlabel("mixing weight θ: θ w + (1 − θ) w′")
        axes.set_ylabel("loss on the training set")
        axes.legend(frameon=False)
    return figure
