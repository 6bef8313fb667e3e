"""What went into any update, found by search: data whose update looks like the one that was seen.

`dlg` and `invert_gradients` build an attack: `attack(params, target, key, labels) -> Inversion`, one compiled scan, to
be vmapped over victims. The attacker knows the model, its weights and how a client computes its update (`update_fn`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.privacy.attacks.scores import cosine

PyTree = Any
Attack = Callable[..., "Inversion"]
_REMEDY = "The target is what the client sent, decoded to floats; `update_fn` must model all that happened to it."


class Inversion(NamedTuple):
    """What a search found.

    Attributes:
      x: float32 of the attack's `shape`, `[B, ...]`: of all points that any restart visited, the one with the least
        objective, which need not be near the original.
      y: the labels that were given, or float32 `[B, C]`, the probabilities found beside x.
      objective: float32 scalar, its objective.
      trace: float32 `[restarts, steps]`, the objective along the way.
    """

    x: jax.Array
    y: jax.Array
    objective: jax.Array
    trace: jax.Array


def dlg(
    update_fn: Callable[[PyTree, Any, Any], PyTree],
    *,
    shape: tuple[int, ...],
    num_classes: int | None = None,
    steps: int = 300,
    restarts: int = 1,
    memory_size: int = 20,
) -> Attack:
    """Deep leakage from gradients: L-BFGS on the squared distance between updates, labels searched for as well.

    Args:
      update_fn: `(params, x, y) -> pytree`, see `gradient_update` and `local_update`. The model behind it must be
        smooth (sigmoid or tanh): behind a ReLU the second derivatives that L-BFGS follows are zero.
      shape: of the data to find, `(B, ...)`.
      num_classes: C, for labels that are not known: `update_fn` then gets probabilities `[B, C]` as y (see
        `soft_cross_entropy`).
      steps: L-BFGS iterations, each with a line search.
      restarts: searches from different noise, one after the other; the best counts.
      memory_size: of L-BFGS.

    Returns:
      `attack(params, target, key, labels=None) -> Inversion`. The objective is the squared distance over the target's
      squared norm, so 1 is no better than an update of zero. A search starts from standard normal data.

    Raises:
      TypeError, ValueError: for arguments out of range; when called, without labels and without `num_classes`, or for
        a target that is not like what `update_fn` gives.

    Source: Zhu, Liu, Han (2019), https://arxiv.org/abs/1906.08935, algorithm 1.

    Example:
      >>> update_fn = lambda params, x, y: jnp.tanh(x @ params)
      >>> params, x = jnp.array([[2.0, 1.0], [0.0, 1.0]]), jnp.array([[0.3, -0.2]])
      >>> attack = dlg(update_fn, shape=(1, 2), steps=20)
      >>> found = attack(params, update_fn(params, x, None), jax.random.key(0), jnp.zeros(1, jnp.int32))
      >>> bool(jnp.allclose(found.x, x, atol=1e-3))
      True
    """
    steps, restarts = _checked(update_fn, shape, steps, restarts)
    memory_size = fl.checks.positive_int(memory_size=memory_size)
    if num_classes is not None:
        num_classes = fl.checks.positive_int(num_classes=num_classes)
    optimizer: Any = optax.lbfgs(memory_size=memory_size)

    @jax.jit
    def attack(params: PyTree, target: PyTree, key: Any, labels: Any = None) -> Inversion:
        if labels is None and num_classes is None:
            raise ValueError(
                "`labels` is None and so is `num_classes`; expected one of them: labels [B] where they are known (see "
                "`idlg_label`), or the number of classes to search over."
            )
        target = _same(update_fn, params, target, shape, labels, num_classes)
        # Both in units of the target's largest entry: squares of tiny or huge updates leave float32.
        target, unit = _scaled(target)

        def objective(guess: _Guess) -> jax.Array:
            y = jax.nn.softmax(guess.logits) if labels is None else labels
            update = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) / unit, update_fn(params, guess.x, y))
            apart = _squares(jax.tree.map(jnp.subtract, update, target))
            return apart / jnp.maximum(_squares(target), 1e-30)

        reuse: Any = optax.value_and_grad_from_state(objective)  # what the line search has computed already

        def step(guess: _Guess, state: Any) -> tuple[_Guess, Any, jax.Array]:
            value, grad = reuse(guess, state=state)
            change, state = optimizer.update(grad, state, guess, value=value, grad=grad, value_fn=objective)
            return jax.tree.map(jnp.add, guess, change), state, value

        def search(key: Any) -> tuple[_Guess, jax.Array, jax.Array]:
            start, other = jax.random.split(key)
            logits = None if labels is not None else jax.random.normal(other, (shape[0], num_classes or 1))
            guess = _Guess(jax.random.normal(start, shape), logits)
            return _descend(step, objective, guess, optimizer.init(guess), steps)

        # Not side by side: each would wait for the longest line search of all.
        guess, value, trace = _best(jax.lax.map(search, jax.random.split(key, restarts)))
        y = jax.nn.softmax(guess.logits) if labels is None else jnp.asarray(labels)
        return Inversion(guess.x, y, value, trace)

    return attack


def invert_gradients(
    update_fn: Callable[[PyTree, Any, Any], PyTree],
    *,
    shape: tuple[int, ...],
    steps: int = 1000,
    learning_rate: Any = 0.1,
    total_variation: Any = 0.01,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    restarts: int = 1,
) -> Attack:
    """Inverting gradients: Adam on signs, for the cosine between updates plus the picture's total variation.

    A cosine is blind to the length of an update, and so to clipping and to learning rates.

    Args:
      update_fn: `(params, x, y) -> pytree`, see `gradient_update` and `local_update`; x must have a gradient almost
        everywhere.
      shape: of the data to find, `(B, height, width, channels)`, or any `(B, ...)` without total variation.
      steps: of Adam. The paper takes 4,800 and 24,000.
      learning_rate: of Adam, falling tenfold at 3/8, 5/8 and 7/8 of the steps.
      total_variation: the weight of the mean absolute difference between neighboring pixels; 0 for none.
      bounds: values that pixels can have; each step ends inside. None for no bounds.
      restarts: searches from different noise, side by side; the best counts.

    Returns:
      `attack(params, target, key, labels) -> Inversion`; labels are needed, see `idlg_label`. A search starts from
      uniform noise within the bounds, or from standard normal noise without.

    Raises:
      TypeError, ValueError: for arguments out of range; when called, without labels, or for a target that is not like
        what `update_fn` gives.

    Source: Geiping, Bauermeister, Dröge, Moeller (2020), https://arxiv.org/abs/2003.14053, equation 4.

    Example:
      >>> update_fn = lambda params, x, y: jnp.tanh(x @ params)
      >>> params, x = jnp.array([[2.0, 1.0, -1.0], [0.0, 1.0, 3.0]]), jnp.array([[0.3, 0.8]])
      >>> attack = invert_gradients(update_fn, shape=(1, 2), steps=200, total_variation=0.0)
      >>> found = attack(params, update_fn(params, x, None), jax.random.key(0), jnp.zeros(1, jnp.int32))
      >>> bool(jnp.allclose(found.x, x, atol=1e-2))
      True
    """
    steps, restarts = _checked(update_fn, shape, steps, restarts)
    learning_rate = fl.checks.positive(learning_rate=learning_rate)
    total_variation = fl.checks.nonnegative(total_variation=total_variation)
    smooth = fl.checks.is_traced(total_variation) or float(total_variation) > 0
    if smooth and len(shape) != 4:
        raise ValueError(
            f"`shape` is {shape} and `total_variation` {total_variation}; expected (B, height, width, channels) for a "
            "total variation. Give total_variation=0 for data that are no pictures."
        )
    bounds = None if bounds is None else _checked_bounds(bounds)

    @jax.jit
    def attack(params: PyTree, target: PyTree, key: Any, labels: Any = None) -> Inversion:
        if labels is None:
            raise ValueError("`labels` is None; expected the labels [B]: this attack searches for data only.")
        target = _same(update_fn, params, target, shape, labels, None)

        def objective(x: jax.Array) -> jax.Array:
            apart = 1.0 - cosine(update_fn(params, x, labels), target)
            return apart + total_variation * _total_variation(x) if smooth else apart

        def step(x: jax.Array, state: _Adam) -> tuple[jax.Array, _Adam, jax.Array]:
            value, grad = jax.value_and_grad(objective)(x)
            change, state = _adam(jnp.sign(grad), state)
            eighths = jnp.array([3, 5, 7], jnp.float32) * (steps / 8)
            passed = jnp.sum(state.taken > eighths).astype(jnp.float32)
            x = x - learning_rate * jnp.power(jnp.float32(0.1), passed) * change
            return x if bounds is None else jnp.clip(x, *bounds), state, value

        def search(key: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
            zeros, (least, largest) = jnp.zeros(shape), bounds or (0.0, 0.0)
            inside = jax.random.uniform(key, shape, minval=least, maxval=largest)
            start = inside if bounds else jax.random.normal(key, shape)
            return _descend(step, objective, start, _Adam(zeros, zeros, jnp.float32(0)), steps)

        x, value, trace = _best(jax.vmap(search)(jax.random.split(key, restarts)))
        return Inversion(x, jnp.asarray(labels), value, trace)

    return attack


class _Adam(NamedTuple):
    mean: jax.Array
    square: jax.Array
    taken: jax.Array


def _adam(grad: jax.Array, state: _Adam) -> tuple[jax.Array, _Adam]:
    """Kingma and Ba (2015), algorithm 1; its steps are those of Optax's, which need implicit dtype promotion."""
    taken = state.taken + 1
    mean = 0.9 * state.mean + 0.1 * grad
    square = 0.999 * state.square + 0.001 * grad * grad
    unbiased = jnp.sqrt(square / (1 - jnp.power(0.999, taken)))
    return mean / (1 - jnp.power(0.9, taken)) / (unbiased + 1e-8), _Adam(mean, square, taken)


class _Guess(NamedTuple):
    x: jax.Array
    logits: Any  # None where labels are known


def _descend(
    step: Callable[[Any, Any], tuple[Any, Any, jax.Array]],
    objective: Callable[[Any], jax.Array],
    start: Any,
    state: Any,
    steps: int,
) -> tuple[Any, jax.Array, jax.Array]:
    """The best point visited, its objective and the trace; a point that is not finite never counts."""

    def keep(best: tuple[Any, jax.Array], point: Any, value: jax.Array) -> tuple[Any, jax.Array]:
        better = value < best[1]
        return jax.tree.map(lambda new, old: jnp.where(better, new, old), point, best[0]), jnp.where(
            better, value, best[1]
        )

    def body(carry: Any, _: None) -> tuple[Any, jax.Array]:
        point, state, best = carry
        following, state, value = step(point, state)
        return (following, state, keep(best, point, value)), value

    (last, _, best), trace = jax.lax.scan(body, (start, state, (start, jnp.float32(jnp.inf))), None, length=steps)
    return (*keep(best, last, objective(last)), trace)


def _best(found: tuple[Any, jax.Array, jax.Array]) -> tuple[Any, jax.Array, jax.Array]:
    points, values, traces = found
    best = jnp.argmin(values)
    return jax.tree.map(lambda leaf: leaf[best], points), values[best], traces


def _squares(tree: PyTree) -> jax.Array:
    return jax.tree.reduce(lambda total, leaf: total + jnp.sum(leaf * leaf), tree, jnp.float32(0.0))


def _total_variation(x: jax.Array) -> jax.Array:
    return jnp.mean(jnp.abs(jnp.diff(x, axis=1))) + jnp.mean(jnp.abs(jnp.diff(x, axis=2)))


def _scaled(tree: PyTree) -> tuple[PyTree, jax.Array]:
    tree = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)
    largest = jax.tree.reduce(lambda m, leaf: jnp.maximum(m, jnp.max(jnp.abs(leaf))), tree, jnp.float32(0.0))
    unit = jnp.where(largest > 0, largest, 1.0)
    return jax.tree.map(lambda leaf: leaf / unit, tree), unit


def _same(
    update_fn: Callable[..., PyTree], params: PyTree, target: PyTree, shape: tuple[int, ...], labels: Any, classes: Any
) -> PyTree:
    y = jax.ShapeDtypeStruct((shape[0], classes), jnp.float32) if labels is None else labels
    expected = jax.eval_shape(update_fn, params, jax.ShapeDtypeStruct(shape, jnp.float32), y)
    target = jax.tree.map(jnp.asarray, target)
    fl.checks.same_structure(target, expected, what="`target`", than="what `update_fn` gives", remedy=_REMEDY)
    return target


def _checked(update_fn: Any, shape: Any, steps: Any, restarts: Any) -> tuple[int, int]:
    fl.checks.is_function_of("params", "x", "y", update_fn=update_fn)
    steps, restarts = fl.checks.positive_int(steps=steps, restarts=restarts)
    if not isinstance(shape, tuple) or not shape:
        raise TypeError(f"`shape` is {shape!r}; expected a tuple (B, ...), the shape of the batch to find.")
    for index, size in enumerate(shape):
        fl.checks.positive_int(**{f"shape[{index}]": size})
    return steps, restarts


def _checked_bounds(bounds: Any) -> tuple[float, float]:
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError(f"`bounds` is {fl.checks.shown(bounds)}; expected (least, largest), or None for no bounds.")
    least, largest = (fl.checks.number(bounds=fl.checks.concrete(bounds=bound)) for bound in bounds)
    if not least < largest:
        raise ValueError(f"`bounds` is {bounds}; expected (least, largest), or None for no bounds.")
    return least, largest
