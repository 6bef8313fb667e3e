"""What is compiled for accelerators: every method, every chain, and every model, in one round of a few clients."""

import typing
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import chains
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
from chains import CHAINS
from flax import linen, nnx
from methods import METHODS
from methods.covering import AGGREGATORS, aggregators
from methods.trial import with_empty_client

import fedjaxlite as fl
from fedjaxlite import models
from fedjaxlite.execution.layout import resolve
from fedjaxlite.rehearsal import programs
from fedjaxlite.rehearsal.absent import devices_of
from fedjaxlite.rehearsal.targets import target_named

TARGETS = ("h100", "v5e:2x2")
LANES = 3


class Made(NamedTuple):
    """What a run is composed of; `params` may be shapes."""

    algorithm: fl.Algorithm
    aggregator: fl.Aggregator
    sampler: fl.Sampler
    params: Any
    population: fl.Population


class Subject(NamedTuple):
    """One round to compile.

    Attributes:
      kind: "method", "chain" or "model".
      name: unique within its kind.
      family: subjects of one family share most of their program.
      make: makes it.
    """

    kind: str
    name: str
    family: str
    make: Callable[[], Made]


def subjects() -> tuple[Subject, ...]:
    """All of them, in a fixed order."""
    return (*_methods(), *_chains(), *_models())


def covering(all_of_them: tuple[Subject, ...]) -> set[tuple[str, str]]:
    """The part that is compiled often: (name, target) so that each kind's families meet all targets between them.

    Each family is compiled once, its first subject, for one target; families take turns at the targets.
    """
    firsts: dict[tuple[str, str], Subject] = {}
    for subject in all_of_them:
        firsts.setdefault((subject.kind, subject.family), subject)
    return {(identity(subject), TARGETS[place % len(TARGETS)]) for place, subject in enumerate(firsts.values())}


def identity(subject: Subject) -> str:
    """As tests are named after it."""
    return f"{subject.kind} {subject.name}"


def compiled(made: Made, target: str, lanes: int = LANES) -> jax.stages.Compiled:
    """One round, compiled for a target that is not there."""
    execution = fl.Execution(lanes=lanes, devices=devices_of(target_named(target)))
    run = fl.rounds(made.algorithm, sampler=made.sampler, aggregator=made.aggregator, execution=execution)
    layout = resolve(execution, made.sampler.capacity)
    state = programs.first_shapes(run, made.params, made.population)
    return programs.compiled_for(programs.lowered(run, state, made.population, layout), layout.platform)


def _methods() -> Iterator[Subject]:
    for method in METHODS:
        names = aggregators(method)
        chosen = AGGREGATORS[names[zlib.crc32(method.name.encode()) % len(names)]]

        def make(method: Any = method, chosen: Any = chosen) -> Made:
            people = with_empty_client(method.population())  # those that are told the number of clients count it
            sampler = fl.sampling.uniform(min(5, people.num_clients))
            return Made(method.make(), chosen(), sampler, method.params(), people)

        yield Subject("method", method.name, method.name.partition("/")[0], make)


def _chains() -> Iterator[Subject]:
    for name, chain in CHAINS.items():

        def make(chain: Any = chain) -> Made:
            people = helpers.regression((4, 9, 1, 6, 2, 5, 3, 7, 2, 8, 1, 4), num_features=17)
            algorithm = fl.algorithms.fed_avg(_three_outputs, client_optimizer=optax.sgd(0.02), batch_size=8)
            return Made(algorithm, chain(), chains.sampler(), {"w": jnp.zeros((17, 3)), "b": jnp.zeros(3)}, people)

        yield Subject("chain", name, _family(name), make)


def _family(chain: str) -> str:
    """That of a chain: a codec is one of its own, with its variants; rules and attacks of one room are alike."""
    made = getattr(fl.robust, chain.partition("/")[0], None) or getattr(fl.attacks, chain.partition("/")[0], None)
    alike = made is not None and chain in chains.RULES | chains.ATTACKS
    return made.__module__.rsplit(".", 1)[0] if alike else chain.partition("/")[0]


def _three_outputs(params: Any, batch: Any, key: Any) -> jax.Array:
    """Squared error of a linear model whose weights are a matrix, since some codecs are for matrices alone, `[B]`."""
    del key
    return jnp.sum((batch["x"] @ params["w"] + params["b"][None] - batch["y"][:, None]) ** 2, axis=1)


class Task(NamedTuple):
    """A model and what it is trained on."""

    model: models.Model
    loss: Any
    x: np.ndarray
    y: np.ndarray


def of_model(task: Task, **options: Any) -> Made:
    """Federated averaging of a model, with options of `fl.algorithms.fed_avg`."""
    owner = np.repeat(np.arange(5), (4, 9, 1, 6, 2))
    people = fl.Population.from_arrays({"x": task.x, "y": task.y}, client_ids=owner)
    algorithm = fl.algorithms.fed_avg(task.loss, client_optimizer=optax.sgd(0.1), batch_size=4, **options)
    params = jax.eval_shape(task.model.init, jax.random.key(0))
    return Made(algorithm, fl.weighted_mean(), fl.sampling.uniform(4), params, people)


def _images(model: models.Model, shape: tuple[int, ...] = (28, 28, 1)) -> Task:
    return Task(model, fl.losses.cross_entropy(model), np.zeros((22, *shape), np.float32), np.zeros(22, np.int32))


def _texts(model: models.Model) -> Task:
    ids = np.zeros((22, 20), np.int32)
    return Task(model, fl.losses.sequence_cross_entropy(model), ids, ids)


class Recurrent(nnx.Module):
    """A recurrent model as users write it."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(28, 64, rngs=rngs))
        self.logits = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.logits(self.rnn(x)[:, -1])


MODELS: dict[str, Callable[[], Task]] = {
    "logistic": lambda: _images(models.logistic(input_shape=(28, 28, 1))),
    "mlp": lambda: _images(models.mlp(input_shape=(28, 28, 1))),
    "cnn": lambda: _images(models.cnn()),
    "dropout_cnn": lambda: _images(models.dropout_cnn()),
    "cifar_cnn": lambda: _images(models.cifar_cnn(), (32, 32, 3)),
    "cifar_cnn/batch norm": lambda: _images(models.cifar_cnn(norm="batch"), (32, 32, 3)),
    "cifar_cnn/group norm": lambda: _images(models.cifar_cnn(norm="group"), (32, 32, 3)),
    "char_lstm": lambda: _texts(models.char_lstm()),
    "char_lstm/peephole": lambda: _texts(models.char_lstm(peephole=True, hoisted_gradient=False)),
    "word_lstm": lambda: _texts(models.word_lstm()),
    "from_functions": lambda: _images(
        models.from_functions(
            lambda key: {"w": jnp.zeros((784, 10))}, lambda params, x: x.reshape((-1, 784)) @ params["w"]
        )
    ),
    "from_linen": lambda: _images(models.from_linen(linen.Dense(10), np.zeros((1, 784), np.float32)), (784,)),
    "from_nnx": lambda: _images(models.from_nnx(lambda rngs: Recurrent(rngs=rngs)), (28, 28)),
}
"""By the public functions of `fedjaxlite.models` that make them."""


def missing_models() -> list[str]:
    """The public functions that make a model, of which none is compiled."""
    made = {name.partition("/")[0] for name in MODELS}
    makers = (
        name for name in models.__all__ if typing.get_type_hints(getattr(models, name)).get("return") is models.Model
    )
    return sorted(set(makers) - made)


def _models() -> Iterator[Subject]:
    for name, make in MODELS.items():
        yield Subject("model", name, name.partition("/")[0], lambda make=make: of_model(make()))


BY_NAME = {identity(subject): subject for subject in subjects()}
