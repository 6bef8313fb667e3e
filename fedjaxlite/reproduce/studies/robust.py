"""Rules against attacks: every attack, rule, number of bad clients and seed, of clients alike and of unlike ones.

ByzFL's protocol: each client sends the moving average of its gradients (Karimireddy et al., 2021), a rule makes one of
them, and the server steps along it. Bad clients are the last ones. What a rule has to be told is chosen against its
worst attack, on examples that are held out; its worst attack is what a cell of the figure shows.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.plots import style
from fedjaxlite.reproduce.seeds import Arguments
from fedjaxlite.reproduce.studies import robust_grid as grid
from fedjaxlite.reproduce.studies.robust_grid import PARTITIONS, Run
from fedjaxlite.reproduce.table import Cells, Expected, Row, Table

BAD = (1, 3, 5)
ATTACKS = ("none", "sign flip", "ALIE", "IPM", "mimic", "min-max", "best ALIE", "best IPM")
WORST, CHOSEN = "worst", "chosen"


class Option(NamedTuple):
    """A rule of the grid.

    Attributes:
      make: `make(f, value) -> codec or codecs`.
      values: what its own hyperparameter is chosen from; (0,) where it has none.
    """

    make: Callable[[Any, Any], Any]
    values: tuple[float, ...] = (0.0,)


RULES: dict[str, Option] = {
    "mean": Option(lambda f, value: fl.robust.mean()),
    "median": Option(lambda f, value: fl.robust.median()),
    "trimmed mean": Option(lambda f, value: fl.robust.trimmed_mean(f=f)),
    "multi-Krum": Option(lambda f, value: fl.robust.multi_krum(f=f, neighbors="byzfl")),
    "geometric median": Option(lambda f, value: fl.robust.geometric_median(tolerance=1e-2, max_steps=10)),
    "centered clipping": Option(lambda f, value: fl.robust.centered_clipping(value), (0.3, 0.5, 1.0)),
    "NNM, trimmed mean": Option(lambda f, value: [fl.robust.nnm(f=f), fl.robust.trimmed_mean(f=f)]),
}
_NOTE = (
    "Accuracies on the test set. Without an attack all clients are honest, and rules still expect f bad ones. IPM "
    "sends a tenth of the honest mean, backwards; ALIE the mean and 1.5 deviations; the best ones search for their "
    "factor in each round. `worst` is the attack with the least mean over seeds."
)


def tail(evaluations: int) -> grid.Tail:
    """An attack and a rule by their numbers."""

    def codecs(attack: Any, rule: Any, f: Any, value: Any) -> Sequence[fl.Aggregator]:
        last = fl.robust.one_of([option.make(f, value) for option in RULES.values()], rule)
        bad = fl.attacks.pool(jnp.arange(grid.NUM_CLIENTS) >= grid.NUM_CLIENTS - f)
        made = {
            "none": fl.attacks.ipm([]),
            "sign flip": fl.attacks.ipm(bad),
            "ALIE": fl.attacks.alie(bad, z=1.5),
            "IPM": fl.attacks.ipm(bad, scale=0.1),
            "mimic": fl.attacks.mimic(bad),
            "min-max": fl.attacks.min_max(bad),
            "best ALIE": fl.attacks.optimal_alie(bad, last, evaluations=evaluations),
            "best IPM": fl.attacks.optimal_ipm(bad, last, evaluations=evaluations),
        }
        return fl.attacks.one_of([made[name] for name in ATTACKS], attack), last

    return codecs


def robust(given: Arguments) -> Table:
    """MNIST, fifteen clients; in a smoke test the digits."""
    task = cache(lambda: grid.task(given.smoke, given.data_dir))
    play = cache(lambda: grid.player(task(), tail(task().evaluations)))

    def row(partition: int, f: int, rule: str) -> Row:
        def run(folder: Path | None) -> Cells:
            del folder
            return cells_of(play(), partition, f, rule, given.num_seeds)

        return Row(run, Expected(11.5, 11.5))

    rows = {
        f"{name}, f={f}: {rule}": row(partition, f, rule)
        for partition, name in enumerate(PARTITIONS)
        for f in BAD
        for rule in RULES
    }
    sizes = "digits" if given.smoke else "MNIST's 2NN"
    title = f"robust: accuracy [%] under attack, {sizes}, f of {grid.NUM_CLIENTS} clients, {given.num_seeds} seeds"
    source = "ByzFL's protocol: Gonzalez et al. (2025), https://arxiv.org/abs/2505.24802"
    return Table("robust", title, source, [*ATTACKS, WORST], rows, _NOTE, draw)


def cells_of(
    play: Callable[[Sequence[Run]], np.ndarray], partition: int, f: int, rule: str, num_seeds: int
) -> dict[str, Any]:
    """The accuracies of a rule against all attacks, in %, of the value that does best against its worst one."""
    number, values = list(RULES).index(rule), RULES[rule].values

    def runs(value: float, count: int, chooses: bool) -> list[Run]:
        of_seed = [range(len(ATTACKS)), range(count)]
        return [Run(a, number, f, partition, value, chooses, key) for a in of_seed[0] for key in of_seed[1]]

    value = values[0]
    if len(values) > 1:
        found = play([run for value in values for run in runs(value, 1, True)])
        value = values[int(found.reshape(len(values), len(ATTACKS)).min(1).argmax())]
    found = 100 * play(runs(value, num_seeds, False)).reshape(len(ATTACKS), num_seeds)
    cells: dict[str, Any] = {name: own.tolist() for name, own in zip(ATTACKS, found, strict=True)}
    worst = int(found.mean(1).argmin())
    return {**cells, WORST: found[worst].tolist(), "worst attack": ATTACKS[worst], CHOSEN: value}


def draw(done: Mapping[str, Cells]) -> Any:
    """The worst attack of each rule by the number of bad clients, a panel for each partition."""
    figure = style.new_figure((11.0, 4.2))
    for axes, partition in zip(figure.subplots(1, len(PARTITIONS)), PARTITIONS, strict=True):
        of = lambda rule, f, partition=partition: done.get(f"{partition}, f={f}: {rule}", {}).get(WORST, [np.nan])  # noqa: E731
        values = [[float(np.mean(of(rule, f))) for f in BAD] for rule in RULES]
        told: dict[str, Any] = {"label": "accuracy [%]", "xlabel": "bad clients of 15", "ylabel": "rule"}
        fl.plots.heat_map(values, list(RULES), list(map(str, BAD)), limits=(0, 100), title=partition, axes=axes, **told)
    return figure
