"""What a method costs, by counting: bytes of a round, what a client keeps, and gradients of the examples it has."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.cli.methods import start
from fedjaxlite.cli.methods.arguments import Facts, algorithm_of, arguments_of
from fedjaxlite.cli.methods.known import Method
from fedjaxlite.cli.settings import Settings

CLIENTS, EXAMPLES, BATCH = 2, 10, 5


class Traffic(NamedTuple):
    """What one client moves and keeps, in models.

    Attributes:
      up: sent in a round.
      down: received in a round.
      kept: between its rounds.
    """

    up: float
    down: float
    kept: float


class Passes(NamedTuple):
    """How often a client goes through its examples in a round of E epochs.

    Attributes:
      gradients: gradients of all examples for each epoch, and beside the epochs.
      evaluations: likewise, of the loss alone.
    """

    gradients: tuple[float, float]
    evaluations: tuple[float, float]

    def told(self) -> str:
        """In words, such as "2E + 1 gradients, 2 evaluations"."""
        parts = [(_affine(*self.gradients), "gradient"), (_affine(*self.evaluations), "evaluation")]
        return ", ".join(f"{count} {what}{'' if count == '1' else 's'}" for count, what in parts if count != "0")


def _affine(slope: float, rest: float) -> str:
    both = [f"{'' if slope == 1 else f'{slope:g}'}E"] if slope else []
    return " + ".join([*both, f"{rest:g}"] if rest or not both else both)


def traffic_of(method: Method, words: list[str], features: tuple[int, ...] = (200, 200, 10)) -> Traffic:
    """The bytes of a client in models, for a multilayer perceptron on the digits.

    Args:
      method: which one.
      words: its hyperparameters, as --set takes them.
      features: the perceptron's widths.
    """
    people, model = _people(), _perceptron(features)
    algorithm, params = _algorithm(method, Settings(set=words), people, model, fl.losses.cross_entropy(model))
    sampler, aggregator = fl.sampling.full(CLIENTS), fl.chain(fl.weighted_mean())
    execution = fl.Execution(lanes=1, devices=1)
    rounds = fl.rounds(algorithm, sampler=sampler, aggregator=aggregator, execution=execution)
    one = _bytes(params if method.stands_for == "centers" else jax.eval_shape(model.init, _key()))
    sent = rounds.traffic(params, people)
    kept = _bytes(jax.eval_shape(algorithm.init_client, params))
    return Traffic(sent.up / one, sent.down / one, kept / one)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def passes_of(method: Method, words: list[str]) -> Passes:
    """How often a client goes through its examples, counted in rounds of two and of three epochs that are run.

    Args:
      method: which one.
      words: its hyperparameters, as --set takes them; neither epochs nor steps.
    """
    (two, three) = (_counted(method, words, epochs) for epochs in (2, 3))
    lines = [(b - a, a - 2 * (b - a)) for a, b in zip(two, three, strict=True)]
    return Passes(lines[0], lines[1])


def _counted(method: Method, words: list[str], epochs: int) -> tuple[float, float]:
    """The gradients and evaluations of a client's examples in one round."""
    counts = {"gradients": 0.0, "evaluations": 0.0}

    def add(what: str, zero: Any, mask: Any) -> None:
        del zero  # batched where the loss is, so that each of several models is told of
        counts[what] += float(np.sum(mask))

    @jax.custom_jvp
    def mark(zero: jax.Array, mask: jax.Array) -> jax.Array:
        jax.debug.callback(partial(add, "evaluations"), zero, mask)
        return zero

    @mark.defjvp
    def marked(primals: Any, tangents: Any) -> Any:
        zero, mask = primals
        jax.debug.callback(partial(add, "gradients"), zero, mask)
        return zero, tangents[0]

    people, model = _people(), _perceptron((4, 10))
    plain = fl.losses.cross_entropy(model)

    def loss(params: Any, batch: Any, key: Any) -> Any:
        per_example, aux = plain(params, batch, key)
        # Of all leaves, since some methods train a few of them at a time.
        some = sum((leaf.ravel()[0] for leaf in jax.tree.leaves(fl.trainable(params))), jnp.float32(0))
        zero = mark(0.0 * some, batch["mask"].astype(jnp.float32))
        return per_example + zero, aux

    parameter = method.parameters.get("batch_size")
    # Where nothing is said, batches; but for the methods whose own default is the full batch.
    batches = str(BATCH) if method.inner or (parameter is not None and parameter.default is not None) else None
    at = epochs if method.inner or "epochs" in method.parameters else None
    settings = Settings(set=words, batch_size=batches, epochs=at)
    algorithm, params = _algorithm(method, settings, people, model, loss)

    @jax.jit
    def work(params: Any) -> Any:
        # A client alone: the engine's programs hold parts of it that are never computed, and would be counted.
        shared = (algorithm.broadcast or algorithm.params)(algorithm.init(params))
        data = fl.client_view(people, 0, key=_key())
        return algorithm.client_update(shared, algorithm.init_client(params), data, _key()).update

    jax.block_until_ready(work(params))
    jax.effects_barrier()
    return counts["gradients"] / EXAMPLES, counts["evaluations"] / EXAMPLES


def _algorithm(method: Method, settings: Settings, people: fl.Population, model: Any, loss: Any) -> tuple[Any, Any]:
    """An algorithm and what it starts from."""
    facts = Facts(people, model, 0.1, 1)
    algorithm = algorithm_of(method, settings, loss, facts, {})
    arguments = arguments_of(method, settings, facts)
    return algorithm, start.first_params(method, arguments, model.init, people, _key())


def _perceptron(features: tuple[int, ...]) -> Any:
    """`fl.models.mlp` with the same leaves, whose start costs nothing: zeros, and offsets by the key."""
    widths = list(zip((64, *features[:-1]), features, strict=True))

    def init(key: Any) -> Any:
        zeros = lambda *shape: jnp.zeros(shape, jnp.float32)  # noqa: E731
        offset = jax.random.normal(key)  # the models of clusters have to start unlike
        return {f"dense_{i}": {"kernel": zeros(m, n), "bias": jnp.full(n, offset)} for i, (m, n) in enumerate(widths)}

    def apply(params: Any, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for i in range(len(widths)):
            layer = params[f"dense_{i}"]
            x = (jax.nn.relu(x) if i else x) @ layer["kernel"] + layer["bias"][None]
        return x

    return fl.models.from_functions(init, apply, input_shape=(8, 8, 1), name="mlp")


def _people() -> fl.Population:
    n = CLIENTS * EXAMPLES
    x = np.linspace(0, 1, n * 64, dtype=np.float32).reshape(n, 8, 8, 1)
    ids = np.repeat(np.arange(CLIENTS), EXAMPLES)
    return fl.Population.from_arrays({"x": x, "y": (np.arange(n) % 10).astype(np.int32)}, client_ids=ids)


def _key() -> jax.Array:
    return jax.random.key(0)
