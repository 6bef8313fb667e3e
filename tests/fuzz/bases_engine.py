"""Valid calls of the engine's public functions, each of which mutations start from."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from calls import Base
from flax import linen as nn
from flax import nnx

import fedjaxlite as fl
from fedjaxlite import algorithms, losses, models, partition, sampling

SIZES = (3, 1, 4, 2, 5, 3)
ROWS = sum(SIZES)
ONE = fl.Execution(lanes=1, devices=1)
KEY = jax.random.key(0)


def loss(params: Any, batch: Any, key: Any) -> jax.Array:
    """Squared error of a linear model, `[B]`."""
    return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


def features() -> dict[str, np.ndarray]:
    return {
        "x": np.linspace(-1, 1, ROWS * 3, dtype=np.float32).reshape(ROWS, 3),
        "y": np.arange(ROWS, dtype=np.float32) / ROWS,
        "label": np.arange(ROWS) % 3,
        "image": np.zeros((ROWS, 4, 4, 1), np.float32),
        "writer": np.array([f"w{i % 4}" for i in range(ROWS)]),
    }


def numbers() -> dict[str, np.ndarray]:
    return {name: array for name, array in features().items() if name in ("x", "y", "label")}


PEOPLE = fl.Population.from_arrays(numbers(), client_ids=np.repeat(np.arange(len(SIZES)), SIZES))
NAMED = PEOPLE.renamed(list("abcdef"))
NUM_CLIENTS = len(SIZES)
PARAMS = {"w": jnp.zeros(3), "b": jnp.float32(0)}
SGD = optax.sgd(0.1)
ALGORITHM = algorithms.fed_avg(loss, client_optimizer=SGD, batch_size=2, epochs=1)
LINEAR = models.from_functions(lambda key: jnp.zeros((3, 3)), lambda params, x: x @ params, name="linear")
ONE_LOGIT = models.from_functions(lambda key: jnp.zeros((3, 1)), lambda params, x: x @ params, name="one_logit")
VIEW = fl.client_view(PEOPLE, 0, key=KEY)
BATCH = {"x": np.ones((2, 3), np.float32), "y": np.zeros(2, np.float32)}
COHORT = sampling.full(NUM_CLIENTS).sample(KEY, 0, PEOPLE)


def init_rounds(algorithm: Any = ALGORITHM, sampler: Any = None, aggregator: Any = None, params: Any = None) -> Any:
    """Composes rounds, and makes their first state: all that can be refused is refused there."""
    run = fl.rounds(
        algorithm,
        sampler=sampling.full(NUM_CLIENTS) if sampler is None else sampler,
        aggregator=fl.mean(over=NUM_CLIENTS) if aggregator is None else aggregator,
        execution=ONE,
    )
    return run.init(PARAMS if params is None else params, PEOPLE, key=KEY, noise_key=jax.random.key(1))


def use_sampler(sampler: Any) -> None:
    """Holds a sampler against the population, and draws."""
    sampler.check(NUM_CLIENTS)
    jax.eval_shape(lambda: sampler.sample(KEY, jnp.int32(0), PEOPLE))


def use_partition(made: Any) -> None:
    """Applies a partition, and gives the data to its clients."""
    fl.datasets.federate({**numbers(), "image": features()["image"]}, made)


def use_chain(codec: Any) -> None:
    """Puts a codec behind a mean, into rounds."""
    init_rounds(aggregator=codec if codec.role in ("mean", "chain") else fl.chain(fl.mean(over=NUM_CLIENTS), codec))


def use_model(model: Any) -> None:
    """Traces a model on a batch of its own examples."""
    if model.input_shape is not None:
        dtype = jnp.int32 if "lstm" in model.name else jnp.float32
        shapes = jax.eval_shape(model.init, KEY)
        jax.eval_shape(lambda p, x: model.apply(p, x), shapes, jax.ShapeDtypeStruct((2, *model.input_shape), dtype))


def use_init(model: Any) -> None:
    """Traces the making of a model's parameters."""
    jax.eval_shape(model.init, KEY)


def use_loss(fn: Any) -> None:
    """Traces a loss on a batch."""
    labels = np.zeros((2, 3), np.int32) if fn.name == "squared_error" else np.array([0, 1])
    labels = labels.astype(np.float32) if fn.name in ("squared_error", "huber", "quantile") else labels
    if fn.name != "sequence_cross_entropy":
        model = fn.model or LINEAR
        jax.eval_shape(lambda: fn(model.init(KEY), {"x": BATCH["x"], "y": labels}, None))


def use_local(train: Any) -> None:
    """Traces a client's local training."""
    jax.eval_shape(lambda: train(PARAMS, VIEW))


def use_gradient(gradient: Any) -> None:
    """Traces the gradient of a batch."""
    jax.eval_shape(lambda: gradient(PARAMS, BATCH, jnp.ones(2, bool), None))


def step_with(execution: Any) -> None:
    """Composes rounds of an execution."""
    fl.rounds(ALGORITHM, sampler=sampling.full(NUM_CLIENTS), aggregator=fl.mean(), execution=execution)


def is_probability(value: Any) -> bool:
    return 0 <= float(value) <= 1


RUN = fl.rounds(ALGORITHM, sampler=sampling.uniform(2), aggregator=fl.mean(over=2), execution=ONE)
PEOPLE_WORDS: Mapping[str, tuple[str, ...]] = {"client_ids": ("ids",), "features": ("feature",)}
DATA = {
    "Population": Base(
        fl.Population,
        {"features": numbers(), "offsets": np.asarray(PEOPLE.offsets), "max_size": 5},
        use=lambda people: (people.num_examples, repr(people), people.client(0)),
        words={"features": ("feature",), "offsets": ("feature",)},
    ),
    "Population.from_arrays": Base(
        fl.Population.from_arrays,
        {"features": numbers(), "client_ids": np.repeat(np.arange(len(SIZES)), SIZES)},
        words={**PEOPLE_WORDS, "num_classes": ("y",), "order": ("client_ids", "id")},
    ),
    "Population.from_clients": Base(
        fl.Population.from_clients,
        {"clients": [{"x": [1.0, 2.0]}, {"x": [3.0]}]},
        words={"clients": ("client", "feature"), "num_classes": ("y",)},
    ),
    "Population.select": Base(PEOPLE.select, {"ids": [2, 0]}, words={"ids": ("client",)}),
    "Population.client": Base(PEOPLE.client, {"index": 2}, words={"index": ("client",)}),
    "Population.index_of": Base(NAMED.index_of, {"names": ["b", "f"]}, words={"names": ("client",)}),
    "Population.renamed": Base(PEOPLE.renamed, {"names": list("abcdef")}),
    "client_view": Base(fl.client_view, {"population": PEOPLE, "client": 0, "key": KEY}),
    "prepare_cohort": Base(
        fl.prepare_cohort,
        {
            "population": PEOPLE,
            "cohort": COHORT,
            "num_examples": 32,
            "num_devices": 1,
            "clients": np.zeros((NUM_CLIENTS, 2), np.float32),
        },
    ),
    "cohort_clients": Base(
        fl.cohort_clients,
        {
            "prepared": fl.prepare_cohort(PEOPLE, COHORT, num_devices=2),
            "clients": np.zeros((2 * NUM_CLIENTS, 2), np.float32),
        },
    ),
    "heterogeneity": Base(fl.heterogeneity, {"population": PEOPLE, "label": "label"}),
    "repeat": Base(
        fl.repeat,
        {"data": VIEW, "steps": 2, "body": lambda index, carry: carry, "carry": jnp.int32(0)},
        words={"body": ("a local step returned",)},
    ),
    "ClientData.batches": Base(VIEW.batches, {"batch_size": 2, "epochs": 1}, use=lambda b: b.batch(jnp.int32(0))),
}

LOCAL = {
    "batch_loss": Base(
        fl.batch_loss,
        {"loss_fn": loss, "params": PARAMS, "batch": BATCH, "mask": jnp.ones(2, bool), "key": None},
        words={"loss_fn": ("the loss function",), "params": ("parameter",), "batch": ("feature",)},
    ),
    "value_and_grad": Base(
        fl.value_and_grad, {"loss_fn": loss}, use=use_gradient, words={"loss_fn": ("the loss function",)}
    ),
    "local_sgd": Base(
        fl.local_sgd,
        {"loss_fn": loss, "client_optimizer": SGD, "batch_size": 2, "epochs": 1},
        use=use_local,
        words={"loss_fn": ("the loss function",)},
        costly=True,
    ),
    "full_gradient": Base(
        fl.full_gradient,
        {"gradient": fl.value_and_grad(loss), "params": PARAMS, "data": VIEW},
        words={"params": ("parameter",)},
        costly=True,
    ),
    "lower": Base(fl.lower, {"fn": loss}),
    "check_optimizer": Base(fl.check_optimizer, {"client_optimizer": SGD}),
    "apply_delta": Base(
        fl.apply_delta,
        {"server_optimizer": SGD, "params": PARAMS, "delta": PARAMS, "optimizer_state": SGD.init(PARAMS)},
        words={"delta": ("mean update",), "params": ("parameters",), "optimizer_state": ("server_optimizer",)},
    ),
    "partition_params": Base(
        fl.partition_params,
        {
            "make": lambda loss: algorithms.fed_avg(loss, client_optimizer=SGD, batch_size=2),
            "loss_fn": loss,
            "frozen": lambda path, leaf: path[0] == "b",
        },
        use=init_rounds,
        words={"loss_fn": ("the loss function",)},
        costly=True,
    ),
}

WIRE = {
    "chain": Base(fl.chain, {"*": (fl.mean(), fl.clip_by_value(1.0))}, use=use_chain, words={"*": ("chain",)}),
    "clip_by_global_norm": Base(fl.clip_by_global_norm, {"clip_norm": 1.0}, use=use_chain),
    "clip_by_value": Base(fl.clip_by_value, {"max_abs": 1.0}, use=use_chain),
    "global_norm": Base(fl.global_norm, {"tree": PARAMS}),
    "mean": Base(fl.mean, {"over": 3.0}, use=use_chain),
    "weighted_mean": Base(fl.weighted_mean, {"weight_cap": 10}, use=use_chain),
    "quantize": Base(
        fl.quantize,
        {"bits": 8},
        use=lambda codec: init_rounds(aggregator=fl.chain(fl.mean(over=6), fl.clip_by_value(1.0), codec)),
        words={"bits": ("quantize",)},
    ),
    "stack": Base(
        fl.stack,
        {"fn": lambda values, weights, present: jax.tree.map(lambda leaf: leaf.mean(0), values)},
        use=lambda codec: init_rounds(aggregator=fl.chain(fl.mean(), codec)),
        words={"fn": ("stack",)},
    ),
    "wire_of": Base(
        fl.wire_of,
        {"template": PARAMS, "capacity": 3},
        use=lambda wire: fl.chain(fl.mean(), fl.clip_by_value(1.0)).init(wire),
        words={"weight": ("weights",), "template": ("leaf", "leaves", "update")},
    ),
    "noise_keys": Base(fl.noise_keys, {"num_runs": 2}, words={"num_runs": ("noise_keys",)}),
    "rounds": Base(
        fl.rounds, {"algorithm": ALGORITHM, "sampler": sampling.uniform(2), "aggregator": fl.mean(), "execution": ONE}
    ),
    "Rounds.init": Base(
        RUN.init,
        {"params": PARAMS, "population": PEOPLE, "key": KEY},
        words={"params": ("parameter",)},
        costly=True,
    ),
    "Execution": Base(fl.Execution, {"lanes": 1, "devices": 1}, use=step_with),
}

SAMPLING = {
    "sampling.uniform": Base(sampling.uniform, {"cohort_size": 2}, use=use_sampler),
    "sampling.full": Base(
        sampling.full, {"num_clients": NUM_CLIENTS}, use=use_sampler, words={"num_clients": ("full",)}
    ),
    "sampling.cyclic": Base(sampling.cyclic, {"cohort_size": 2, "min_separation": 2}, use=use_sampler),
    "sampling.poisson": Base(sampling.poisson, {"rate": 0.5, "capacity": 6}, use=use_sampler),
    "sampling.poisson_capacity": Base(
        sampling.poisson_capacity, {"num_clients": 100, "rate": 0.1}, sound=lambda n: 1 <= n <= 2**31
    ),
    "sampling.overflow_probability": Base(
        sampling.overflow_probability, {"num_clients": 100, "rate": 0.1, "capacity": 20}, sound=is_probability
    ),
    "sampling.weighted": Base(sampling.weighted, {"cohort_size": 2}, use=use_sampler),
    "sampling.replay": Base(sampling.replay, {"ids": [[0, 1], [2, -1]]}, use=use_sampler),
    "sampling.recorded": Base(
        sampling.recorded, {"available": [[True, False], [False, True]]}, use=lambda t: t.available(0, t.num_clients)
    ),
    "sampling.available": Base(
        sampling.available,
        {"cohort_size": 2, "trace": sampling.diurnal()},
        use=use_sampler,
        words={"trace": ("available",)},
    ),
    "sampling.diurnal": Base(sampling.diurnal, {}, use=lambda trace: jax.eval_shape(lambda: trace.available(0, 5))),
    "sampling.Window": Base(
        sampling.Window, {"start": 1.0, "hours": 2.0}, use=lambda window: sampling.diurnal(idle=window)
    ),
    "sampling.cohort": Base(sampling.cohort, {"ids": np.array([2, 1]), "selected": np.array([True, False])}),
    "sampling.lognormal_latency": Base(
        sampling.lognormal_latency, {}, use=lambda f: jax.eval_shape(lambda: f(KEY, 0, COHORT, PEOPLE))
    ),
    "sampling.with_dropout": Base(
        sampling.with_dropout, {"sampler": sampling.uniform(2), "rate": 0.1}, use=use_sampler
    ),
    "sampling.with_stragglers": Base(
        sampling.with_stragglers, {"sampler": sampling.uniform(2), "fraction": 0.5, "min_work": 0.1}, use=use_sampler
    ),
    "sampling.with_deadline": Base(sampling.with_deadline, {"sampler": sampling.uniform(2)}, use=use_sampler),
}

PARTITION = {
    "partition.iid": Base(partition.iid, {"num_clients": 3}, use=use_partition),
    "partition.quantity": Base(partition.quantity, {"num_clients": 3}, use=use_partition),
    "partition.by_key": Base(partition.by_key, {"key": "label"}, use=use_partition, words={"key": ("by_key",)}),
    "partition.dirichlet": Base(
        partition.dirichlet, {"num_clients": 3, "alpha": 0.5, "label": "label"}, use=use_partition
    ),
    "partition.dirichlet_fixed_size": Base(
        partition.dirichlet_fixed_size, {"num_clients": 3, "alpha": 0.5, "label": "label"}, use=use_partition
    ),
    "partition.k_classes": Base(partition.k_classes, {"num_clients": 3, "k": 2, "label": "label"}, use=use_partition),
    "partition.label_shards": Base(partition.label_shards, {"num_clients": 3, "label": "label"}, use=use_partition),
    "partition.feature_noise": Base(partition.feature_noise, {"base": partition.iid(3), "std": 0.5}, use=use_partition),
    "partition.feature_rotation": Base(
        partition.feature_rotation, {"base": partition.iid(3), "angles": (0, 90), "feature": "image"}, use=use_partition
    ),
    "partition.holdout_clients": Base(partition.holdout_clients, {"population": PEOPLE, "fraction": 0.5}),
    "partition.train_test_split": Base(partition.train_test_split, {"population": PEOPLE}),
    "datasets.federate": Base(
        fl.datasets.federate,
        {"arrays": numbers(), "partition": partition.iid(3)},
        words={"arrays": ("features", "feature"), "num_classes": ("y",)},
    ),
}

MODELS = {
    "models.num_params": Base(models.num_params, {"params": PARAMS}),
    "models.num_bytes": Base(models.num_bytes, {"params": PARAMS}),
    "models.summary": Base(models.summary, {"model": LINEAR}),
    "models.from_functions": Base(
        models.from_functions,
        {"init": lambda key: jnp.zeros((3, 2)), "apply": lambda params, x: x @ params, "input_shape": (3,)},
        use=use_init,
        words={"stateful": ("`init`",)},
    ),
    "models.from_linen": Base(
        models.from_linen, {"module": nn.Dense(2), "sample_input": jnp.ones((1, 3))}, use=use_init
    ),
    "models.from_nnx": Base(
        models.from_nnx, {"ctor": lambda rngs: nnx.Linear(3, 2, rngs=rngs), "input_shape": (3,)}, use=use_init
    ),
    "models.logistic": Base(models.logistic, {"num_classes": 3, "input_shape": (4,)}, use=use_model),
    "models.mlp": Base(models.mlp, {"features": (4, 2), "input_shape": (4,)}, use=use_model),
    "models.cnn": Base(
        models.cnn, {"num_classes": 3, "input_shape": (8, 8, 1), "filters": (2, 2), "hidden": 4}, use=use_model
    ),
    "models.dropout_cnn": Base(
        models.dropout_cnn, {"num_classes": 3, "input_shape": (8, 8, 1), "filters": (2, 2), "hidden": 4}, use=use_model
    ),
    "models.cifar_cnn": Base(
        models.cifar_cnn,
        {"num_classes": 3, "input_shape": (8, 8, 1), "filters": (2, 2), "hidden": (4, 4)},
        use=use_model,
    ),
    "models.char_lstm": Base(models.char_lstm, {"vocab_size": 5, "embed": 2, "hidden": 3, "layers": 1}, use=use_model),
    "models.word_lstm": Base(models.word_lstm, {"vocab_size": 5, "embed": 2, "hidden": 3, "layers": 1}, use=use_model),
    "losses.cross_entropy": Base(losses.cross_entropy, {"model": LINEAR}, use=use_loss),
    "losses.binary_cross_entropy": Base(losses.binary_cross_entropy, {"model": ONE_LOGIT}, use=use_loss),
    "losses.squared_error": Base(losses.squared_error, {"model": LINEAR}, use=use_loss),
    "losses.sequence_cross_entropy": Base(losses.sequence_cross_entropy, {"model": LINEAR}, use=use_loss),
    "losses.declare": Base(losses.declare, {"fn": loss}),
    "evaluate": Base(
        fl.evaluate,
        {"model_or_loss": loss, "data": BATCH},
        use=lambda f: f(PARAMS),
        costly=True,
        words={"model_or_loss": ("the loss function", "`loss`", "model"), "data": ("feature", "population")},
    ),
    "evaluate_clients": Base(
        fl.evaluate_clients,
        {"model_or_loss": loss, "population": PEOPLE},
        use=lambda f: f(PARAMS),
        costly=True,
        words={"model_or_loss": ("the loss function", "`loss`", "model")},
    ),
    "evaluate_personalized": Base(
        fl.evaluate_personalized,
        {"model_or_loss": loss, "train": PEOPLE, "test": PEOPLE, "client_optimizer": SGD},
        use=lambda f: f(PARAMS),
        costly=True,
        words={
            "model_or_loss": ("the loss function", "`loss`", "model"),
            "train": ("population",),
            "test": ("population",),
        },
    ),
    "federated_sum": Base(
        fl.federated_sum,
        {"client_fn": lambda shared, data: fl.ClientOutput(shared), "aggregator": fl.mean()},
        use=lambda f: jax.eval_shape(lambda: f(jnp.float32(1), PEOPLE, COHORT, key=KEY)),
        words={"client_fn": ("the client's function",)},
        costly=True,
    ),
    "warm_start": Base(
        fl.warm_start,
        {"model_or_loss": loss, "params": PARAMS, "data": BATCH, "optimizer": SGD, "key": KEY, "epochs": 1},
        costly=True,
        words={
            "model_or_loss": ("the loss function", "`loss`", "model"),
            "params": ("parameter",),
            "data": ("feature", "population"),
            "optimizer": ("parameter",),
        },
    ),
}

ENGINE: dict[str, Base] = {**DATA, **LOCAL, **WIRE, **SAMPLING, **PARTITION, **MODELS}
