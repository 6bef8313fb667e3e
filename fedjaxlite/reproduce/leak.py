"""What an update gives away, and what closes it: attacks against what a server sees, on digits and MNIST.

Secure aggregation hides single updates (a masked message says nothing of its image); it does not hide their sum, and
nothing of what the trained model knows. Noise does, and costs accuracy.

Attacks: the closed form of a linear layer (Phong et al., 2018), DLG (Zhu et al., 2019, https://arxiv.org/abs/1906.08935),
inverting gradients (Geiping et al., 2020, https://arxiv.org/abs/2003.14053), iDLG (Zhao et al., 2020,
https://arxiv.org/abs/2001.02610); membership by loss (Yeom et al., 2018, https://arxiv.org/abs/1709.01604) and LiRA
(Carlini et al., 2022, https://arxiv.org/abs/2112.03570). The attacker is strong: it knows the model, how clients train
and in which order, and, but for the label attacks, the labels.

With `--out` the tables are written as JSON and the pictures beside them. MNIST is taken from the folder of prepared
data (environment variable FEDJAXLITE_DATA), and left out where there is none.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.privacy import attacks
from fedjaxlite.reproduce import leak_members, leak_views, seeds
from fedjaxlite.reproduce.leak_views import EPOCHS, MASKED, NOISED, PLAIN, SUM, Setting

VIEWS = (PLAIN, EPOCHS, *NOISED.values(), MASKED, SUM)
SHOWN = 4
"""Pictures of each attack in the figure."""


class Sizes(NamedTuple):
    """How much is computed.

    Attributes:
      num_cohorts: of 8 images each, for the closed form, which costs nothing.
      num_searched: how many of these are searched for.
      dlg_steps, cosine_steps: of the searches.
    """

    num_cohorts: int
    num_searched: int
    dlg_steps: int
    cosine_steps: int


class Outcome(NamedTuple):
    """What an attack made of a view.

    Attributes:
      x: `[n, ...]`, reconstructions in the order of the images.
      psnr: `[n]`, in dB.
      correlation: `[n]`.
      chance: `[n]`, the correlation with pictures that were not there, under the same scoring.
    """

    x: np.ndarray
    psnr: np.ndarray
    correlation: np.ndarray
    chance: np.ndarray


def main(given: seeds.Arguments = seeds.Arguments()) -> dict[str, list[Any]]:  # noqa: B008  (a NamedTuple, immutable)
    """Runs all attacks, prints the tables, and draws the figures where a folder is given.

    Returns:
      by data set, attack and view: PSNR in dB, correlation, and the correlation above chance, over images.
    """
    tests = {"digits": fl.datasets.load("digits")[1]}
    try:
        tests["mnist"] = fl.datasets.load("mnist")[1]
    except FileNotFoundError:
        print("MNIST is not there and left out; set FEDJAXLITE_DATA to the folder that holds `tfds`.")
    rows: dict[str, list[Any]] = {}
    labels: dict[str, list[Any]] = {}
    for name, test in tests.items():
        sizes = _sizes(name, given)
        outcomes, right = reconstruct(test, sizes)
        for attack, by_view in outcomes.items():
            for view in VIEWS:
                rows[f"{name}, {attack}: {view}"] = _row(by_view[view])
        labels |= {f"{name}: {view}": [seeds.interval(100 * right[view])] for view in VIEWS}
        if given.out is not None:
            draw(outcomes, test["x"], Path(given.out), name)
    title = "leak: images from updates; means over images, 95 % intervals; a PSNR of 99 is exact"
    seeds.show(title, ("PSNR, dB", "correlation", "above chance"), rows, given.out)
    seeds.show("leak_labels: iDLG, and counts in batches", ("right labels, %",), labels, given.out)
    leak_members.main(given)
    return rows


def _sizes(name: str, given: seeds.Arguments) -> Sizes:
    if given.smoke:
        return Sizes(2, 1, 3, 3)
    return Sizes(4 * given.num_seeds, 2, 150, 600) if name == "digits" else Sizes(4 * given.num_seeds, 1, 200, 1200)


def reconstruct(test: Any, sizes: Sizes) -> tuple[dict[str, dict[str, Outcome]], dict[str, np.ndarray]]:
    """Outcomes by attack and view, and the share of labels found by view, `[G]`."""
    x, y, shape = test["x"], test["y"], test["x"].shape[1:]
    num_cohorts = min(sizes.num_cohorts, len(x) // (2 * leak_views.COHORT))
    strangers = x[num_cohorts * leak_views.COHORT :]
    dense, smooth = fl.models.mlp(features=(64, 10), input_shape=shape), leak_views.smooth_cnn(shape)
    searches = {
        "DLG": partial(attacks.dlg, steps=sizes.dlg_steps),
        "inverting gradients": partial(attacks.invert_gradients, steps=sizes.cosine_steps, total_variation=1e-3),
    }
    outcomes: dict[str, dict[str, Outcome]] = {name: {} for name in ("linear layer", *searches)}
    right: dict[str, np.ndarray] = {}
    for setting in leak_views.settings(dense, x, y, num_cohorts, jax.random.key(0)):
        for view, target in setting.targets.items():
            outcomes["linear layer"][view] = judge(closed_form(target["dense_0"]), setting.x, strangers)
            right[view] = _labels(setting, view, target["dense_1"])
    for setting in leak_views.settings(smooth, x, y, sizes.num_searched, jax.random.key(1)):
        for name, search in searches.items():
            found = _searched(search(setting.update_fn, shape=setting.x.shape[1:]), setting)
            outcomes[name] |= {view: judge(candidates, setting.x, strangers) for view, candidates in found.items()}
    return outcomes, right


def closed_form(layer: Any) -> np.ndarray:
    """Candidates `[G, R, d]`: the one input first, and the inputs of each unit."""
    first = jax.vmap(attacks.invert_linear)(layer["kernel"], layer["bias"])
    return np.concatenate(
        [first[:, None], jax.vmap(attacks.linear_candidates)(layer["kernel"], layer["bias"]).inputs], 1
    )


def _searched(attack: Callable[..., attacks.Inversion], setting: Setting) -> dict[str, np.ndarray]:
    """Candidates `[G, n, ...]` by view; all views in one program."""
    together = lambda trees: jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)  # noqa: E731
    count, views = len(setting.x), list(setting.targets)
    # every view starts from the same noise
    keys = jnp.tile(jax.random.split(jax.random.key(2), count), len(views))
    labels = jnp.concatenate([setting.y] * len(views))
    params = together([setting.params[view] for view in views])
    # one after the other: side by side, every search would wait for the longest line search
    run = jax.jit(lambda *victims: jax.lax.map(lambda victim: attack(*victim), victims))
    found = run(params, together([setting.targets[view] for view in views]), keys, labels)
    return {view: np.asarray(found.x[i * count : (i + 1) * count]) for i, view in enumerate(views)}


def judge(candidates: np.ndarray, originals: Any, strangers: np.ndarray) -> Outcome:
    """Scores candidates for the images behind an update: the first for one image, else the best matching.

    Args:
      candidates: `[G, R, ...]`, cut to [0, 1] here.
      originals: `[G, n, height, width, channels]`.
      strangers: `[m, height, width, channels]`, m >= G n, pictures that nobody held: what chance gives.
    """
    originals = np.asarray(originals)
    others = strangers[: originals.shape[0] * originals.shape[1]].reshape(originals.shape)
    found = np.clip(candidates.reshape(*candidates.shape[:2], *originals.shape[2:]), 0.0, 1.0)
    if originals.shape[1] == 1:
        found = found[:, :1]
    own = [attacks.match(row, images) for row, images in zip(found, originals, strict=True)]
    chance = [attacks.match(row, images).correlation for row, images in zip(found, others, strict=True)]
    x = np.concatenate([row[pairs.rows] for row, pairs in zip(found, own, strict=True)])
    join = lambda name: np.concatenate([getattr(pairs, name) for pairs in own])  # noqa: E731
    return Outcome(x, join("psnr"), join("correlation"), np.concatenate(chance))


def _labels(setting: Setting, view: str, layer: Any) -> np.ndarray:
    """The share of a client's labels that are found, `[G]`."""
    num = setting.y.shape[1]
    if num == 1:
        return np.asarray(jax.vmap(attacks.idlg_label)(layer["kernel"]) == setting.y[:, 0], np.float64)
    local = leak_views.LOCAL
    scale = local["learning_rate"] * local["epochs"] * num / local["batch_size"] if view == EPOCHS else 1.0
    counts = np.asarray(jax.vmap(partial(attacks.label_counts, batch_size=num))(layer["bias"] / scale))
    truth = np.stack([np.bincount(row, minlength=counts.shape[1]) for row in np.asarray(setting.y)])
    return np.minimum(counts, truth).sum(1) / num


def _row(outcome: Outcome) -> list[Any]:
    above = outcome.correlation - outcome.chance
    return [seeds.interval(values) for values in (np.minimum(outcome.psnr, 99.0), outcome.correlation, above)]


def draw(outcomes: dict[str, dict[str, Outcome]], originals: np.ndarray, out: Path, name: str) -> None:
    """Writes `leak_NAME.png`: the attacks side by side, a row for each view."""
    rows = {"original": np.concatenate([originals[:SHOWN]] * len(outcomes))}
    captions = {}
    for view in VIEWS:
        rows[view] = np.concatenate([by_view[view].x[:SHOWN] for by_view in outcomes.values()])
        captions[view] = [f"{value:.1f}" for by_view in outcomes.values() for value in by_view[view].psnr[:SHOWN]]
    out.mkdir(parents=True, exist_ok=True)
    title = f"{name}: reconstructions from what the server sees, with their PSNR in dB"
    attacks.plot_reconstructions(
        rows, out / f"leak_{name}.png", captions=captions, headings=list(outcomes), group=SHOWN, title=title
    )


if __name__ == "__main__":
    main(seeds.arguments(__doc__))
