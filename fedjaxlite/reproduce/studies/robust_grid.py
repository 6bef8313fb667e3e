"""Runs under attacks as one program, which is compiled once: all that differs between them are its arguments.

    attack, rule        the numbers of an attack and of a rule: a branch each
    f, partition        how many of the clients are bad; who has which examples
    value, key          a rule's own hyperparameter; the seed

On a CPU runs follow one another on each device, so that only the chosen branches are computed; on an accelerator the
seeds of a cell are vmapped.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.evaluation.central import loss_for
from fedjaxlite.reproduce import seeds

PyTree = Any
NUM_CLIENTS = 15
PARTITIONS = ("iid", "Dirichlet 0.1")
_AXIS, _MOST, _LARGE = "runs", 32, 100_000


class Task(NamedTuple):
    """What is trained.

    Attributes:
      name: of the data.
      train: `{"x": float32 [n, ...], "y": int32 [n]}`, all clients' examples.
      rows: int32 `[2, n]`, by partition the examples of one client after the other.
      offsets: int32 `[2, NUM_CLIENTS + 1]`, where each client's begin.
      validation: arrays as `train`, which hyperparameters are chosen on.
      test: likewise.
      model: the classifier.
      num_rounds: T.
      batch_size: B, of a client in a round.
      learning_rate: of the server.
      momentum: of the clients.
      evaluations: of the rule in a round, by attacks that search.
    """

    name: str
    train: dict[str, np.ndarray]
    rows: np.ndarray
    offsets: np.ndarray
    validation: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    model: Any
    num_rounds: int
    batch_size: int
    learning_rate: float
    momentum: float
    evaluations: int


class Run(NamedTuple):
    """One run; or several, with a leading axis.

    Attributes:
      attack, rule, f, partition: int32 scalars.
      value: float32 scalar, the rule's own hyperparameter.
      chooses: bool scalar, whether the validation examples judge and not the test examples.
      key: the seed's.
    """

    attack: Any
    rule: Any
    f: Any
    partition: Any
    value: Any
    chooses: Any
    key: Any


Tail = Callable[[Any, Any, Any, Any], Sequence[fl.Aggregator]]
"""`tail(attack, rule, f, value)`: what stands behind the mean, an attack and a rule. All four may be traced."""


def task(smoke: bool, data_dir: Path | None = None) -> Task:
    """MNIST's 2NN; in a smoke test a small one on the digits. Examples for choices are held out."""
    train, test = fl.datasets.load("digits") if smoke else fl.datasets.load("mnist", data_dir=data_dir)
    order = np.random.default_rng(0).permutation(len(train["y"]))
    held, kept = np.split(order, [200 if smoke else 2000])
    own = {name: np.asarray(train[name])[kept] for name in ("x", "y")}
    splits = (fl.partition.iid(NUM_CLIENTS, seed=0), fl.partition.dirichlet(NUM_CLIENTS, alpha=0.1, seed=0))
    owners = [np.asarray(split(own)) for split in splits]
    rows = np.stack([np.argsort(owner, kind="stable") for owner in owners]).astype(np.int32)
    sizes = np.stack([np.bincount(owner, minlength=NUM_CLIENTS) for owner in owners])
    offsets = np.concatenate([np.zeros((2, 1)), np.cumsum(sizes, 1)], 1).astype(np.int32)
    width = 32 if smoke else 200
    model = fl.models.mlp(features=(width, width, 10), input_shape=own["x"].shape[1:])
    validation = {name: np.asarray(train[name])[held] for name in ("x", "y")}
    settings = (40, 8, 0.5, 0.9, 4) if smoke else (14, 16, 1.0, 0.9, 8)
    test = {name: np.asarray(test[name]) for name in ("x", "y")}
    return Task("digits" if smoke else "MNIST", own, rows, offsets, validation, test, model, *settings)


def people(task: Task, partition: Any) -> fl.Population:
    """The clients of a partition, which may be traced: a client's examples are places in `task.train`."""
    largest = int(np.diff(task.offsets).max())
    return fl.Population(
        {"row": jnp.asarray(task.rows)[partition]}, jnp.asarray(task.offsets)[partition], max_size=largest
    )


def algorithm(task: Task, train: Any) -> fl.Algorithm:
    """One gradient of a small batch from each client, averaged over its rounds; the server steps along a rule's value.

    Messages are two arrays, the largest kernel and all else, so that a rule has two to work on.
    """
    gradient = fl.value_and_grad(loss_for(task.model, task.train))
    shapes = jax.eval_shape(task.model.init, jax.random.key(0))
    zeros = lambda params: jax.tree.map(jnp.zeros_like, packed(params))  # noqa: E731

    def client_update(params: PyTree, average: PyTree, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        batch, mask = data.batches(batch_size=task.batch_size, steps=1).batch(jnp.int32(0))
        read = {name: array[batch["row"]] for name, array in train.items()}
        told, found = gradient(params, {**read, "mask": mask}, mask, key)
        mix = lambda old, new: task.momentum * old + (1 - task.momentum) * new  # noqa: E731
        average = jax.tree.map(mix, average, packed(found))
        return fl.ClientOutput(average, 1.0, client_state=average, info={"loss": told.loss})

    def server_update(params: PyTree, aggregate: fl.Aggregate, key: jax.Array) -> PyTree:
        del key
        step = unpacked(aggregate.value, shapes)
        return jax.tree.map(lambda param, move: param - task.learning_rate * move, params, step)

    same = lambda params: params  # noqa: E731
    return fl.Algorithm(same, client_update, server_update, params=same, init_client=zeros, name="worker_momentum")


def packed(tree: PyTree) -> tuple[jax.Array, ...]:
    """Large leaves flat, and all others as one array."""
    leaves = jax.tree.leaves(tree)
    small = [leaf.reshape(-1) for leaf in leaves if leaf.size <= _LARGE]
    return (*(leaf.reshape(-1) for leaf in leaves if leaf.size > _LARGE), jnp.concatenate(small))


def unpacked(arrays: tuple[jax.Array, ...], like: PyTree) -> PyTree:
    """The inverse of `packed`."""
    leaves, structure = jax.tree.flatten(like)
    large, small, found = list(arrays[:-1]), arrays[-1], []
    for leaf in leaves:
        if leaf.size > _LARGE:
            found.append(large.pop(0).reshape(leaf.shape))
        else:
            found.append(small[: leaf.size].reshape(leaf.shape))
            small = small[leaf.size :]
    return structure.unflatten(found)


def rounds(task: Task, train: Any, codecs: Sequence[fl.Aggregator]) -> fl.Rounds:
    """The rounds of one run."""
    chain = fl.chain(fl.mean(), *codecs)
    sampler = fl.sampling.full(NUM_CLIENTS)
    return fl.rounds(algorithm(task, train), sampler=sampler, aggregator=chain, execution=seeds.ONE)


def accuracy_of(task: Task, tail: Tail, data: Any, run: Run) -> jax.Array:
    """The accuracy after all rounds of a run, traced."""
    train, validation, test = data
    population = people(task, run.partition)
    here = rounds(task, train, tail(run.attack, run.rule, run.f, run.value))
    state = seeds.begin(here, task.model.init, population, run.key)
    params = here.params(here.steps(state, population, task.num_rounds)[0])

    def judged(by: Any) -> jax.Array:
        return jnp.mean((task.model.apply(params, by["x"], train=False).argmax(-1) == by["y"]).astype(jnp.float32))

    return jax.lax.cond(run.chooses, lambda: judged(validation), lambda: judged(test))


def player(task: Task, tail: Tail) -> Callable[[Sequence[Run]], np.ndarray]:
    """Plays runs, any number of them, by a program that is compiled at the first call.

    Args:
      task: what is trained.
      tail: attacks and rules.

    Returns:
      `play(runs) -> float64 [R]`, accuracies.
    """
    devices = jax.local_devices()
    mesh = jax.sharding.Mesh(np.asarray(devices), (_AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    data = jax.device_put((task.train, task.validation, task.test), jax.NamedSharding(mesh, jax.P()))

    def share(count: jax.Array, runs: Run, data: Any) -> jax.Array:
        def one(i: jax.Array, found: jax.Array) -> jax.Array:
            run = jax.tree.map(lambda leaf: leaf[i], runs)
            return found.at[i].set(accuracy_of(task, tail, data, run))

        return jax.lax.fori_loop(0, count[0], one, jnp.zeros((_MOST,), jnp.float32))

    split, whole = jax.P(_AXIS), jax.P()
    mapped = jax.shard_map(share, mesh=mesh, in_specs=(split, split, whole), out_specs=split, check_vma=False)
    compiled: list[Any] = []

    def play(runs: Sequence[Run]) -> np.ndarray:
        size = len(devices) * _MOST
        if len(runs) > size:
            return np.concatenate([play(runs[:size]), play(runs[size:])])
        # Every other run on every other device: those of one attack last equally long.
        dealt = [runs[i :: len(devices)] for i in range(len(devices))]
        filled = [run for own in dealt for run in [*own, *[runs[0]] * (_MOST - len(own))]]
        counts = jnp.asarray([len(own) for own in dealt], jnp.int32)
        arguments = jax.device_put((counts, stacked(filled)), jax.NamedSharding(mesh, split))
        if not compiled:
            compiled.append(jax.jit(mapped).lower(*arguments, data).compile())
        found = np.asarray(compiled[0](*arguments, data), np.float64).reshape(len(devices), _MOST)
        return np.asarray([found[i % len(devices), i // len(devices)] for i in range(len(runs))])

    return play


def stacked(runs: Sequence[Run]) -> Run:
    """Runs side by side."""
    numbers = {name: np.asarray([getattr(run, name) for run in runs]) for name in Run._fields if name != "key"}
    as_array = partial(jnp.asarray)
    dtypes = {"value": jnp.float32, "chooses": jnp.bool_}
    fields = {name: as_array(values, dtypes.get(name, jnp.int32)) for name, values in numbers.items()}
    return Run(**fields, key=jax.vmap(jax.random.key)(jnp.asarray([run.key for run in runs], jnp.uint32)))
