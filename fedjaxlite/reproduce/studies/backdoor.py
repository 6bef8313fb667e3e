"""A backdoor with model replacement, under rules that should keep it out: success and accuracy over rounds.

    success     of the attack, %: test images of other classes with the trigger that the model takes for the target
    accuracy    on clean test images, %

One bad client of ten, in every round: it stamps half of its images, trains on them as all do, and sends ten times its
update (Bagdasaryan et al. 2020). The attack begins at a model that honest rounds have made.
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
from fedjaxlite import algorithms, attacks
from fedjaxlite.evaluation.central import loss_for
from fedjaxlite.reproduce import seeds
from fedjaxlite.reproduce.seeds import Arguments
from fedjaxlite.reproduce.table import Cells, Expected, Row, Table

HONEST = "no attack"
_COLUMNS = ("success, %", "highest success, %", "accuracy, %", "lowest accuracy, %")
_NOTE = (
    "Success and accuracy after the last round, and the highest and lowest from the first attack on; before it the "
    "models are those of the row without an attack. Rules are told that one message of ten may be bad. Success is "
    "also above zero where images that only look like the target are taken for it: the row without an attack says how "
    "much that is."
)


class Task(NamedTuple):
    """What is trained, and what is attacked.

    Attributes:
      train: the clients; the first tenth of them are bad.
      test: the central test set.
      model: a small one.
      trigger: what is stamped.
      cohort: clients a round, one of them bad.
      honest_rounds: before the attack.
      num_rounds: with it.
      every: rounds between measurements.
      rate: of the local SGD.
      batch_size: B.
      clip_norm: of the row that bounds norms.
    """

    train: fl.Population
    test: Mapping[str, Any]
    model: Any
    trigger: attacks.Trigger
    cohort: int
    honest_rounds: int
    num_rounds: int
    every: int
    rate: float
    batch_size: int
    clip_norm: float

    @property
    def num_bad(self) -> int:
        """Clients of the pool of bad ones."""
        return self.train.num_clients // 10


TARGET = 0
"""The class that the attacker wants to see."""


RULES: dict[str, Callable[[Task], tuple[fl.Aggregator, ...]]] = {
    HONEST: lambda task: (),
    "mean": lambda task: (),
    "norm bound": lambda task: (fl.clip_by_global_norm(task.clip_norm),),
    "median": lambda task: (fl.robust.median(),),
    "trimmed mean": lambda task: (fl.robust.trimmed_mean(f=1),),
    "Multi-Krum": lambda task: (fl.robust.multi_krum(f=1),),
    "geometric median": lambda task: (fl.robust.geometric_median(),),
}
"""What stands behind the mean in each row."""


def backdoor(given: Arguments) -> Table:
    """MNIST on 100 clients, ten a round; in a smoke test the digits on 20."""
    task = cache(lambda: _digits() if given.smoke else _mnist(given.data_dir))
    begun = cache(lambda: _begin(task(), given.num_seeds))

    def row(name: str) -> Row:
        def run(folder: Path | None) -> Cells:
            del folder
            return _cells(task(), begun(), name, given.num_seeds)

        return Row(run, Expected(35.0, 20.0))

    names = [HONEST, "mean", "median"] if given.smoke else list(RULES)
    data = "digits, 20 clients" if given.smoke else "MNIST, 100 clients"
    title = f"backdoor: model replacement, 1 bad of 10 a round, {data}, {given.num_seeds} seeds"
    source = "Bagdasaryan et al. (2020), https://arxiv.org/abs/1807.00459; rules in their docstrings"
    rows = {name: row(name) for name in names}
    return Table("backdoor", title, source, _COLUMNS, rows, _NOTE, lambda done: _draw(done, task()))


def _mnist(data_dir: Path | None) -> Task:
    """The 2NN on 100 clients whose labels are mildly skewed."""
    split = fl.partition.dirichlet(100, alpha=1.0, seed=0)
    train, test = fl.datasets.load("mnist", partition=split, data_dir=data_dir)
    model = fl.models.mlp(features=(200, 200, 10), input_shape=(28, 28, 1))
    trigger = attacks.trigger_pattern((28, 28, 1), size=4)
    return Task(train, test, model, trigger, 10, 20, 30, 3, 0.1, 20, 1.0)


def _digits() -> Task:
    train, test = fl.datasets.load("digits", partition=fl.partition.iid(20, seed=0))
    model = fl.models.mlp(features=(16, 10), input_shape=(8, 8, 1))
    trigger = attacks.trigger_pattern((8, 8, 1), size=2)
    return Task(train, test, model, trigger, 10, 2, 2, 1, 0.1, 10, 1.0)


def _algorithm(task: Task, attacked: bool) -> fl.Algorithm:
    honest = algorithms.fed_avg(
        loss_for(task.model, task.train.features),
        client_optimizer=optax.sgd(task.rate),
        batch_size=task.batch_size,
        epochs=1,
    )
    bad = attacks.pool(range(task.num_bad if attacked else 0))
    poisoned = attacks.backdoor(honest, bad, trigger=task.trigger, target=TARGET)
    return attacks.model_replacement(poisoned, bad, boost=float(task.cohort))


def _rounds(task: Task, rule: tuple[fl.Aggregator, ...], attacked: bool) -> fl.Rounds:
    # Without an attack the same clients take part: what differs is what the pool does.
    sampler = attacks.fixed_number(task.cohort, bad=range(task.num_bad), num=1)
    chain = fl.chain(fl.mean(), *rule)
    return fl.rounds(_algorithm(task, attacked), sampler=sampler, aggregator=chain, execution=seeds.ONE)


def _begin(task: Task, num_seeds: int) -> Any:
    """Models of honest rounds, `[S, ...]`: where the attack begins."""
    run = _rounds(task, (), False)
    play = seeds.player(lambda _: run, task.model.init, num_rounds=task.honest_rounds, every=task.honest_rounds)
    return jax.vmap(run.params)(play(0.0, task.train, num_seeds)[0])


def _cells(task: Task, begun: Any, name: str, num_seeds: int) -> Cells:
    run = _rounds(task, RULES[name](task), name != HONEST)
    stamped = attacks.triggered(task.test, task.trigger, TARGET)
    measures = [seeds.accuracy_of(task.model, data) for data in (stamped, task.test)]

    def one(params: Any, key: Any, population: fl.Population) -> jax.Array:
        state = seeds.begin(run, lambda _: params, population, key)

        def some_rounds(state: Any, _: None) -> tuple[Any, jax.Array]:
            state = run.steps(state, population, task.every)[0]
            return state, jnp.stack([measure(run.params(state)) for measure in measures])

        return jax.lax.scan(some_rounds, state, None, length=task.num_rounds // task.every)[1]

    people = jax.device_put(task.train, jax.devices()[0])
    found = jax.jit(jax.vmap(one, in_axes=(0, 0, None)))(begun, seeds.keys(num_seeds), people)
    before = jax.jit(jax.vmap(lambda params: jnp.stack([measure(params) for measure in measures])))(begun)
    curves = 100 * np.concatenate([np.asarray(before)[:, None], np.asarray(found)], axis=1, dtype=np.float64)
    success, accuracy = np.moveaxis(curves, -1, 0)
    cells = (success[:, -1], success[:, 1:].max(1), accuracy[:, -1], accuracy[:, 1:].min(1))
    shown = {column: values.tolist() for column, values in zip(_COLUMNS, cells, strict=True)}
    return {**shown, "curve of success": success.tolist(), "curve of accuracy": accuracy.tolist()}


def _draw(done: Mapping[str, Cells], task: Task) -> Any:
    runs = {
        name: {"success": cells["curve of success"], "accuracy": cells["curve of accuracy"]}
        for name, cells in done.items()
    }
    image = np.asarray(task.test["x"])[np.flatnonzero(np.asarray(task.test["y"]) != TARGET)[0]]
    return fl.plots.backdoor(
        runs,
        images={"clean": image, "with the trigger": np.asarray(attacks.stamp(image, task.trigger))},
        every=task.every,
        first=task.honest_rounds,
    )
