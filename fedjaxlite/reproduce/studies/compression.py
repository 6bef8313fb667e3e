"""Accuracy against bytes: every codec of `fl.compression` on images and on text, beside a run without any.

    accuracy                 after all rounds
    plain, as many bytes     of the run without compression when its clients have sent as many bytes

A codec is worth its bits where the first is above the second. What needs a clip (THC, QUIC-FL, the integers of
`quantize`) gets one, at a norm that cuts few updates.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite import compression as wire
from fedjaxlite.evaluation.central import loss_for
from fedjaxlite.plots import style
from fedjaxlite.reproduce import seeds
from fedjaxlite.reproduce.papers import kairouz2021
from fedjaxlite.reproduce.seeds import Arguments, interval
from fedjaxlite.reproduce.table import Cells, Expected, Row, Table

Codecs = Callable[["Scales"], tuple[fl.Aggregator, ...]]
PLAIN = "no compression"
_EVERY = 2
_NOTE = (
    "Bytes are those of all clients' packed messages on their way up; the model came down whole. Bits an entry, and "
    "their ideal (the entropy of the codes, `fl.measure_entropy`), are those of one message. All codecs have the rates "
    "that were chosen for the run without compression, but for the majority of signs, whose update has no length."
)


class Scales(NamedTuple):
    """What codecs have to be told of a task.

    Attributes:
      norm: an L2 norm that few updates pass.
      entry: a bound that few entries pass.
      noise: the width of the noise before a sign.
      step: the server's rate for the majority of signs.
      entries: numbers in the model.
    """

    norm: float
    entry: float
    noise: float
    step: float
    entries: int = 0


_IMAGES = Scales(norm=1.5, entry=0.2, noise=0.02, step=1e-3)
_TEXT = Scales(norm=4.0, entry=0.5, noise=0.1, step=1e-2)


class Task(NamedTuple):
    """What is trained, for both panels.

    Attributes:
      made: the data, the model, the cohort and the rates.
      scales: for codecs.
    """

    made: kairouz2021.Task
    scales: Scales


def rows_of() -> dict[str, Codecs]:
    """Every codec, with the arguments that its paper or its users give it."""
    ef = wire.error_feedback
    clipped = lambda scales, *codecs: (fl.clip_by_global_norm(scales.norm), *codecs)  # noqa: E731
    return {
        PLAIN: lambda s: (),
        "bfloat16": lambda s: (wire.narrow("bfloat16"),),
        "float8 e4m3": lambda s: (wire.narrow("float8_e4m3fn"),),
        "natural": lambda s: (wire.natural(),),
        "quantize, 8 bits": lambda s: (fl.clip_by_value(s.entry), fl.quantize(bits=8)),
        "NF4": lambda s: (wire.nf4(),),
        "EDEN, 4 bits": lambda s: (wire.eden(bits=4),),
        "QSGD, 7 levels": lambda s: (wire.qsgd(levels=7),),
        "k levels, 16": lambda s: (wire.k_level(levels=16),),
        "rotated k levels, 16": lambda s: (wire.rotated_k_level(levels=16),),
        "THC, 4 bits": lambda s: clipped(s, wire.thc(bits=4)),
        "QUIC-FL, 4 bits": lambda s: clipped(s, wire.quic_fl(bits=4)),
        "EDEN, 2 bits": lambda s: (wire.eden(bits=2),),
        "QUIC-FL, 2 bits": lambda s: clipped(s, wire.quic_fl(bits=2)),
        "TernGrad": lambda s: (wire.tern_grad(),),
        "DRIVE (EDEN, 1 bit)": lambda s: (wire.drive(),),
        "sign, feedback": lambda s: (ef(wire.sign()),),
        "sign, majority": lambda s: (wire.sign_vote(),),
        "sign, noisy": lambda s: (wire.noisy_sign(s.noise),),
        "rand-k, 10 %": lambda s: (wire.rand_k(fraction=0.1),),
        "rand-k, 10 %, feedback": lambda s: (ef(wire.rand_k(fraction=0.1, unbiased=False)),),
        "top-k, 1 %": lambda s: (wire.top_k(fraction=0.01),),
        "top-k, 1 %, feedback": lambda s: (ef(wire.top_k(fraction=0.01)),),
        "top-k, 1 %, 4 bits, EF21": lambda s: (ef(wire.top_k(fraction=0.01), wire.qsgd(levels=7), kind="ef21"),),
        "count sketch, 10 %": lambda s: (wire.count_sketch(columns=max(1, s.entries // 10)),),
        "PowerSGD, rank 2, feedback": lambda s: (ef(wire.power_sgd(rank=2)),),
    }


def compression(given: Arguments) -> Table:
    """MNIST and Shakespeare, one column each."""
    images = cache(lambda: _task(_images(given), _IMAGES))
    text = cache(lambda: _task(_text(given), _TEXT))
    made = {"images": images, "text": text}
    names = {"images": "digits" if given.smoke else "MNIST", "text": "one line" if given.smoke else "Shakespeare"}
    plain = {kind: cache(lambda kind=kind: _curve(made[kind](), (), given.num_seeds)) for kind in made}
    columns = [_column(names[kind], what) for kind in made for what in ("bits", "ideal", "accuracy", "plain")]

    def row(codecs: Codecs) -> Row:
        def run(folder: Path | None) -> Cells:
            del folder
            cells: dict[str, Any] = {}
            for kind, name in names.items():
                cells |= _cells(made[kind](), codecs, name, plain[kind](), given.num_seeds)
            return cells

        return Row(run, Expected(75.0, 30.0))

    chosen = rows_of()
    chosen = {name: chosen[name] for name in [PLAIN, "EDEN, 2 bits"]} if given.smoke else chosen
    rows = {name: row(codecs) for name, codecs in chosen.items()}
    title = f"compression: accuracy [%] and bits an entry, {', '.join(names.values())}, {given.num_seeds} seeds"
    source = "EDEN: Vargaftik et al. (2022), https://arxiv.org/abs/2108.08842; the others in the codecs' docstrings"
    return Table("compression", title, source, columns, rows, _NOTE, lambda done: _draw(done, list(names.values())))


def _task(made: kairouz2021.Task, scales: Scales) -> Task:
    shapes = jax.eval_shape(made.model.init, jax.random.key(0))
    return Task(made, scales._replace(entries=fl.models.num_params(shapes)))


def _rounds_of(given: Arguments) -> int:
    return 2 if given.smoke else 60


def _images(given: Arguments) -> kairouz2021.Task:
    """MNIST on 1,000 clients, a few of them a round."""
    made = kairouz2021.images(given.smoke, given.data_dir)
    return made._replace(cohort=20, num_rounds=_rounds_of(given))


def _text(given: Arguments) -> kairouz2021.Task:
    """The next character of Shakespeare's roles from the four before it: a model that goes on learning."""
    made = kairouz2021.text(given.smoke, given.data_dir)
    size, window, width = fl.datasets.shakespeare.VOCAB_SIZE, 4, 8

    def init(key: jax.Array) -> Any:
        first, second, third = jax.random.split(key, 3)
        return {
            "embedding": 0.3 * jax.random.normal(first, (size, width)),
            "hidden": jax.random.normal(second, (window * width, 64)) / np.sqrt(window * width),
            "bias": jnp.zeros((64,)),
            "out": jax.random.normal(third, (64, size)) / 8,
            "out_bias": jnp.zeros((size,)),
        }

    def apply(params: Any, x: jax.Array) -> jax.Array:
        embedded = jnp.pad(params["embedding"][x], ((0, 0), (window - 1, 0), (0, 0)))
        seen = jnp.concatenate([embedded[:, i : i + x.shape[1]] for i in range(window)], axis=-1)
        return jnp.tanh(seen @ params["hidden"] + params["bias"]) @ params["out"] + params["out_bias"]

    model = fl.models.from_functions(init, apply, name="four characters")
    return made._replace(model=model, cohort=10, num_rounds=_rounds_of(given), client_lr=3.0)


def _column(name: str, what: str) -> str:
    words = {"bits": "bits an entry", "ideal": "ideal bits", "accuracy": "accuracy", "plain": "plain, as many bytes"}
    return f"{name}: {words[what]}"


class Curve(NamedTuple):
    """A run of several seeds.

    Attributes:
      accuracy: floats `[seeds, 1 + rounds / every]`, in %; the first before any round.
      up: bytes that one client sent in a round.
      ideal: bytes of an ideal code of one message.
      entries: numbers in the update.
    """

    accuracy: np.ndarray
    up: float
    ideal: float
    entries: int


def _cells(task: Task, codecs: Codecs, name: str, plain: Curve, num_seeds: int) -> Cells:
    found = _curve(task, codecs(task.scales), num_seeds) if codecs(task.scales) else plain
    # The run without compression has sent as many bytes after this many of its rounds.
    afforded = found.up / plain.up * task.made.num_rounds
    columns = np.arange(plain.accuracy.shape[1]) * _EVERY
    equal = [float(np.interp(afforded, columns, curve)) for curve in plain.accuracy]
    return {
        _column(name, "bits"): 8 * found.up / found.entries,
        _column(name, "ideal"): 8 * found.ideal / found.entries,
        _column(name, "accuracy"): found.accuracy[:, -1].tolist(),
        _column(name, "plain"): equal,
        f"{name}: curve": found.accuracy.tolist(),
        f"{name}: bytes up of one client in one round": found.up,
    }


def _rounds(task: Task, codecs: tuple[fl.Aggregator, ...]) -> fl.Rounds:
    made = task.made
    votes = any(codec.name == "sign_vote" for codec in codecs)
    algorithm = algorithms.fed_avg(
        loss_for(made.model, made.train.features),
        client_optimizer=optax.sgd(made.client_lr),
        server_optimizer=optax.sgd(task.scales.step) if votes else optax.sgd(1.0),
        batch_size=made.batch_size,
        epochs=1,
    )
    chain = fl.chain(fl.mean(), *codecs)
    return fl.rounds(algorithm, sampler=fl.sampling.uniform(made.cohort), aggregator=chain, execution=seeds.ONE)


def _curve(task: Task, codecs: tuple[fl.Aggregator, ...], num_seeds: int) -> Curve:
    made, run = task.made, _rounds(task, codecs)
    evaluate = fl.evaluate(made.model, made.test)
    every = min(_EVERY, made.num_rounds)
    play = seeds.player(
        lambda _: run,
        made.model.init,
        num_rounds=made.num_rounds,
        every=every,
        measure=lambda params, info: (evaluate(params)["accuracy"], info.clients["bytes_up"].max()),
    )
    states, (accuracy, up) = play(0.0, made.train, num_seeds)
    begin = jax.vmap(lambda key: seeds.begin(run, made.model.init, made.train, key).params)
    first = jax.vmap(lambda params: evaluate(params)["accuracy"])(begin(seeds.keys(num_seeds)))
    accuracy = np.concatenate([np.asarray(first)[:, None], np.asarray(accuracy)], axis=1)
    measured = _rounds(task, (*codecs, fl.measure_entropy()))
    params = run.params(seeds.of_seed(states, 0))
    state = measured.init(params, made.train, key=jax.random.key(0))
    _, info = measured.step(state, made.train)
    entropy = np.asarray(info.clients["entropy_up"])[np.asarray(info.clients["in_sum"])]
    return Curve(100 * np.asarray(accuracy, np.float64), float(np.max(up)), float(entropy.mean()), task.scales.entries)


def _draw(done: Mapping[str, Cells], names: list[str]) -> Any:
    """Accuracy against the bytes of one client over all rounds, a panel for each data set."""
    figure = style.new_figure((6.4 * len(names), 4.6))
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for index, (row, cells) in enumerate(done.items()):
            accuracy = np.asarray(cells[f"{name}: curve"])
            up = cells[f"{name}: bytes up of one client in one round"] * _EVERY * (accuracy.shape[1] - 1)
            found = interval(accuracy[:, -1])
            look = style.look(index)
            common: dict[str, Any] = {"color": look.color, "marker": look.marker, "markersize": 5, "linestyle": "none"}
            half = np.nan_to_num(found.half)
            axes.errorbar([up], [found.mean], yerr=[half], capsize=2, elinewidth=1, label=row, **common)
        plain = done.get(PLAIN)
        if plain is not None:
            curve = np.asarray(plain[f"{name}: curve"]).mean(0)
            each = plain[f"{name}: bytes up of one client in one round"] * _EVERY
            axes.plot(each * np.arange(1, len(curve)), curve[1:], color="0.4", linewidth=1, label="_")
        axes.set_xscale("log")
        axes.set_xlabel("bytes up, one client in every round")
        axes.set_ylabel("test accuracy [%]")
        axes.set_title(name, fontsize=10)
        axes.grid(visible=True, color=style.GRID)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=7)
    return figure
