"""What an update gives away, and what closes it: attacks against what a server sees, on digits and MNIST.

Secure aggregation hides single updates (a masked message says nothing of its image); it does not hide their sum, and
nothing of what the trained model knows. Noise does, and costs accuracy.

Attacks: the closed form of a linear layer (Phong et al., 2018), DLG (Zhu et al., 2019, https://arxiv.org/abs/1906.08935),
inverting gradients (Geiping et al., 2020, https://arxiv.org/abs/2003.14053), iDLG (Zhao et al., 2020,
https://arxiv.org/abs/2001.02610); membership by loss (Yeom et al., 2018, https://arxiv.org/abs/1709.01604) and LiRA
(Carlini et al., 2022, https://arxiv.org/abs/2112.03570). The attacker is strong: it knows the model, how clients train
and in which order, and, but for the label attacks, the labels.
"""

import base64
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import fedjaxlite as fl
from fedjaxlite.privacy import attacks
from fedjaxlite.reproduce.seeds import Arguments
from fedjaxlite.reproduce.studies import leak_views
from fedjaxlite.reproduce.studies.leak_views import EPOCHS, MASKED, PLAIN, SUM, VIEWS
from fedjaxlite.reproduce.table import Cells, Expected, Row, Table

LINEAR, DLG, COSINE = "linear layer", "DLG", "inverting gradients"
METHODS = (LINEAR, DLG, COSINE)
SHOWN = 4
"""Pictures of each attack in the figure."""

_SMOKE = {"digits": (MASKED,), "mnist": (PLAIN,)}
_SOURCE = "Zhu et al. (2019), arXiv 1906.08935; Geiping et al. (2020), arXiv 2003.14053; Zhao et al. (2020), 2001.02610"
_NOTE = (
    "PSNR in dB, 99 for an exact image; correlation with the image, less that with images that nobody held; labels by "
    "iDLG, in batches by counts. The closed form is of more images than the searches. The papers attack other models "
    "on other data and show pictures: there are no figures to set beside these."
)


class Sizes(NamedTuple):
    """How much is computed.

    Attributes:
      num_cohorts: of 8 images each, for the closed form, which costs nothing.
      num_searched: how many of these are searched for.
      hidden: units of the network with the linear layer.
      dlg_steps, cosine_steps: of the searches.
    """

    num_cohorts: int
    num_searched: int
    hidden: int
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


def leak_digits(given: Arguments) -> Table:
    """The handwritten digits, 8 x 8."""
    return _table("digits", given, Sizes(4 * given.num_seeds, 2, 64, 150, 600), Expected(40.0, 60.0))


def leak_mnist(given: Arguments) -> Table:
    """MNIST, 28 x 28; it has to be prepared (`fl.datasets.load` says where)."""
    return _table("mnist", given, Sizes(4 * given.num_seeds, 1, 64, 200, 1200), Expected(60.0, 120.0))


def _table(name: str, given: Arguments, sizes: Sizes, expected: Expected) -> Table:
    sizes = Sizes(1, 1, 8, 2, 2) if given.smoke else sizes
    test = cache(lambda: _test(name, given))
    attack = cache(lambda method, kind: _attack(method, kind, test()["x"].shape[1:], sizes))

    def row(view: str) -> Row:
        def run(folder: Path | None) -> Cells:
            del folder
            return reconstruct(view, test(), sizes, attack)

        return Row(run, expected)

    rows = {view: row(view) for view in (_SMOKE[name] if given.smoke else VIEWS)}
    of = "the digits" if given.smoke or name == "digits" else "MNIST"
    title = f"leak-{name}: images of {of} from what the server sees, means over images with 95 % intervals"
    columns = [f"{method}, {what}" for what in ("dB", "above chance") for method in METHODS]

    def draw(done: Mapping[str, Cells]) -> Any:
        return _draw(done, f"{of}: reconstructions from what the server sees, with their PSNR in dB")

    return Table(f"leak-{name}", title, _SOURCE, [*columns, "right labels, %"], rows, _NOTE, draw)


def _test(name: str, given: Arguments) -> Mapping[str, np.ndarray]:
    if given.smoke or name == "digits":
        return fl.datasets.load("digits")[1]
    return fl.datasets.load("mnist", data_dir=given.data_dir)[1]


def reconstruct(view: str, test: Mapping[str, np.ndarray], sizes: Sizes, attack: Callable[[str, str], Any]) -> Cells:
    """What each attack makes of a view: cells by method, a number an image.

    Args:
      view: one of VIEWS.
      test: images and labels, `{"x", "y"}`.
      sizes: how much is computed.
      attack: `attack(method, view)`, the compiled search.

    Returns:
      the cells; "pictures" and "originals" hold the first images as text.
    """
    x, y, shape = test["x"], test["y"], test["x"].shape[1:]
    num_cohorts = min(sizes.num_cohorts, len(x) // (2 * leak_views.COHORT))
    strangers = x[num_cohorts * leak_views.COHORT :]
    dense, smooth = fl.models.mlp(features=(sizes.hidden, 10), input_shape=shape), leak_views.smooth_cnn(shape)
    found = leak_views.seen(view, dense, x, y, num_cohorts, jax.random.key(0))
    outcomes = {LINEAR: judge(closed_form(found.target["dense_0"]), found.x, strangers)}
    labels = 100 * _labels(found, view, found.target["dense_1"])
    found = leak_views.seen(view, smooth, x, y, sizes.num_searched, jax.random.key(1))
    keys = jax.random.split(jax.random.key(2), len(found.x))  # every view starts from the same noise
    for method in METHODS[1:]:
        images = np.asarray(attack(method, _kind(view))(found.params, found.target, keys, found.y).x)
        outcomes[method] = judge(images, found.x, strangers)
    cells: dict[str, Any] = {"right labels, %": labels.round(3).tolist(), "originals": _text(x[:SHOWN])}
    for method, outcome in outcomes.items():
        cells[f"{method}, dB"] = np.minimum(outcome.psnr, 99.0).astype(float).round(3).tolist()
        cells[f"{method}, correlation"] = outcome.correlation.astype(float).round(5).tolist()
        cells[f"{method}, above chance"] = (outcome.correlation - outcome.chance).astype(float).round(5).tolist()
    cells["pictures"] = {method: _text(outcome.x[:SHOWN]) for method, outcome in outcomes.items()}
    cells["height"], cells["width"] = shape[:2]
    return cells


def _kind(view: str) -> str:
    """The view with the same update, for which a search is compiled once."""
    return view if view in (EPOCHS, SUM) else PLAIN


def _attack(method: str, kind: str, shape: tuple[int, ...], sizes: Sizes) -> Any:
    """A compiled search, `(params, targets, keys, labels) -> Inversion` with a leading axis `[G]`."""
    update_fn = leak_views.update_of(kind, leak_views.smooth_cnn((shape[0], shape[1], shape[2])))
    images = {EPOCHS: (leak_views.ON_CLIENT,), SUM: (leak_views.COHORT,)}.get(kind, (1,))
    if method == DLG:
        search = attacks.dlg(update_fn, shape=(*images, *shape), steps=sizes.dlg_steps)
    else:
        search = attacks.invert_gradients(
            update_fn, shape=(*images, *shape), steps=sizes.cosine_steps, total_variation=1e-3
        )
    # one after the other: side by side, every search would wait for the longest line search
    return jax.jit(lambda *victims: jax.lax.map(lambda victim: search(*victim), victims))


def _text(images: np.ndarray) -> str:
    """Images in [0, 1] as text, a byte a pixel."""
    return base64.b64encode(np.round(255 * np.asarray(images)).astype(np.uint8).tobytes()).decode()


def _images(text: str, height: int, width: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, height, width) / 255.0


def closed_form(layer: Any) -> np.ndarray:
    """Candidates `[G, R, d]`: the one input first, and the inputs of each unit."""
    first = jax.vmap(attacks.invert_linear)(layer["kernel"], layer["bias"])
    return np.concatenate(
        [first[:, None], jax.vmap(attacks.linear_candidates)(layer["kernel"], layer["bias"]).inputs], 1
    )


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


def _labels(found: leak_views.Seen, view: str, layer: Any) -> np.ndarray:
    """The share of a client's labels that are found, `[G]`."""
    num = found.y.shape[1]
    if num == 1:
        return np.asarray(jax.vmap(attacks.idlg_label)(layer["kernel"]) == found.y[:, 0], np.float64)
    local = leak_views.LOCAL
    scale = local["learning_rate"] * local["epochs"] * num / local["batch_size"] if view == EPOCHS else 1.0
    counts = np.asarray(jax.vmap(partial(attacks.label_counts, batch_size=num))(layer["bias"] / scale))
    truth = np.stack([np.bincount(row, minlength=counts.shape[1]) for row in np.asarray(found.y)])
    return np.minimum(counts, truth).sum(1) / num


def _draw(done: Mapping[str, Cells], title: str) -> Any:
    """The attacks side by side, a row for each view."""
    rows, captions = {}, {}
    for view, cells in done.items():
        size = cells["height"], cells["width"]
        rows.setdefault("original", np.concatenate([_images(cells["originals"], *size)] * len(METHODS)))
        rows[view] = np.concatenate([_images(cells["pictures"][method], *size) for method in METHODS])
        captions[view] = [f"{value:.1f}" for method in METHODS for value in cells[f"{method}, dB"][:SHOWN]]
    return fl.plots.reconstructions(rows, captions=captions, headings=METHODS, group=SHOWN, title=title)
