"""The cells of tables 1 and 2 of McMahan et al. (2017), what the paper has for them, and what they cost here."""

import math
from typing import NamedTuple

from fedjaxlite.reproduce.table import Expected

INF = None
"""B = ∞: all examples of a client in one batch."""


class Cell(NamedTuple):
    """One cell of a table.

    Attributes:
      model: "2nn", "cnn" or "lstm".
      iid: dealt at random; else two label shards a client, or a client's own role.
      fraction: C, of the clients, that take part; 0 is one client.
      batch_size: B, or None for ∞.
      epochs: E.
      paper: rounds to the target, or None where the paper has none.
    """

    model: str
    iid: bool
    fraction: float
    batch_size: int | None
    epochs: int
    paper: int | None


def _of_fractions(model: str, epochs: int, *columns: tuple[bool, int | None, tuple[int | None, ...]]) -> list[Cell]:
    fractions = (0.0, 0.1, 0.2, 0.5, 1.0)
    return [
        Cell(model, iid, fraction, batch, epochs, paper)
        for iid, batch, papers in columns
        for fraction, paper in zip(fractions, papers, strict=True)
    ]


def _of_work(model: str, *rows: tuple[int, int | None, int, int]) -> list[Cell]:
    return [
        Cell(model, iid, 0.1, batch, epochs, paper)
        for epochs, batch, *papers in rows
        for iid, paper in zip((True, False), papers, strict=True)
    ]


TABLE1 = (
    *_of_fractions(
        "2nn",
        1,
        (True, 10, (316, 87, 77, 75, 70)),
        (False, 10, (3275, 664, 619, 443, 380)),
        (True, INF, (1455, 1474, 1658, None, None)),
        (False, INF, (4278, 1796, 1528, None, None)),
    ),
    *_of_fractions(
        "cnn",
        5,
        (True, 10, (50, 18, 18, 18, 16)),
        (False, 10, (956, 206, 200, 261, 97)),
        (True, INF, (387, 339, 337, 164, 246)),
        (False, INF, (1181, 1100, 978, 1067, None)),
    ),
)
TABLE2 = (
    *_of_work(
        "cnn",
        (5, 10, 20, 229),
        (1, 10, 34, 350),
        (20, 10, 18, 173),
        (5, 50, 29, 334),
        (1, 50, 65, 600),
        (20, 50, 32, 426),
        (5, INF, 179, 1000),
        (20, INF, 234, 672),
        (1, INF, 626, 483),
    ),
    *_of_work(
        "2nn",
        (10, 10, 34, 497),
        (20, 10, 32, 738),
        (1, 10, 92, 831),
        (10, 50, 45, 881),
        (20, 50, 39, 835),
        (1, 50, 144, 1183),
        (10, INF, 156, 1100),
        (20, INF, 92, 957),
        (1, INF, 1468, 1817),
    ),
    *_of_work(
        "lstm",
        (5, 10, 192, 41),
        (1, 10, 460, 164),
        (5, 50, 401, 152),
        (1, 50, 1635, 549),
        (5, INF, 613, 597),
        (1, INF, 2488, 3906),
    ),
)
SMOKE = (TABLE1[1], TABLE1[6], TABLE2[0], TABLE2[-12])
"""One cell of each kind: 2NN IID and not, CNN, LSTM."""

RATES = {"2nn": 0.1, "cnn": 0.1, "lstm": 1.0}
"""The client learning rate of all cells of a model, where no grid is given."""

LANES = {"2nn": 50, "cnn": 20, "lstm": 64}
"""Clients side by side on an accelerator, for each of the seeds that are side by side there too."""


def name_of(cell: Cell) -> str:
    """The name of a cell's row."""
    kind = "IID" if cell.iid else "non-IID"
    return f"{cell.model} {kind} C={cell.fraction:g} E={cell.epochs} B={cell.batch_size or 'inf'}"


def most_rounds(cell: Cell) -> int:
    """After how many rounds a cell is given up: three times the paper's, at least 60."""
    return max(60, 3 * (cell.paper or 500))


class _Cost(NamedTuple):
    """Seconds: of a step, of each example in it, and of an evaluation.

    Attributes:
      cpu: on two cores, of one client's step, and of each example in it.
      gpu: on an H100, of a step of all lanes of five seeds, and of each example in all of them.
      evaluation: on the CPU, and of five seeds on the GPU.
    """

    cpu: tuple[float, float]
    gpu: tuple[float, float]
    evaluation: tuple[float, float]


_COSTS = {
    "2nn": _Cost((4e-5, 4e-6), (3e-4, 2e-8), (0.03, 0.002)),
    "cnn": _Cost((1e-3, 1e-3), (1.5e-3, 4e-6), (5.0, 0.1)),
    "lstm": _Cost((5e-2, 1e-2), (1e-2, 5e-6), (60.0, 1.0)),
}
_CLIENTS = {"2nn": (100, 600.0), "cnn": (100, 600.0), "lstm": (1229, 37.0)}


def expected(cell: Cell) -> Expected:
    """What five seeds take, by the rounds that the paper needs."""
    num_clients, examples = _CLIENTS[cell.model]
    cohort = max(1, round(cell.fraction * num_clients))
    batch = min(cell.batch_size or examples, examples)
    steps = cell.epochs * math.ceil(examples / batch)
    rounds, cost, lanes = cell.paper or 500, _COSTS[cell.model], min(cohort, LANES[cell.model])
    cpu = 5 * rounds * (cohort * steps * (cost.cpu[0] + cost.cpu[1] * batch) + cost.evaluation[0])
    waves = math.ceil(cohort / lanes) * steps
    gpu = rounds * (waves * (cost.gpu[0] + cost.gpu[1] * batch * lanes * 5) + cost.evaluation[1]) + 20
    return Expected(cpu + 15, gpu)
