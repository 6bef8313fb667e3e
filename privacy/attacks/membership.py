"""Who took part: membership of an example in a model's training data, and of a client in a released sum.

All of these give scores that are larger for members; `roc` says what they are worth. An attack on the released model
sees no update, so secure aggregation does not change it by a bit: only noise does.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.privacy.attacks.scores import cosine, numbers

PyTree = Any


def loss_scores(loss_fn: Callable[..., Any], params: PyTree, examples: Mapping[str, Any]) -> jax.Array:
    """The loss-threshold attack: members have smaller losses.

    Args:
      loss_fn: `(params, batch, key) -> [n]` or `([n], LossAux)`, evaluated with key None.
      params: the model under attack.
      examples: dict of `[n, ...]`, those whose membership is asked.

    Returns:
      float32 `[n]`, minus the loss of each.

    Source: Yeom, Giacomelli, Fredrikson, Jha (2018), https://arxiv.org/abs/1709.01604, section 3.2.

    Example:
      >>> square = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> print(loss_scores(square, 1.0, {"x": jnp.array([1.0, 3.0])}))
      [-0. -4.]
    """
    fl.checks.is_function_of("params", "batch", "key", loss_fn=loss_fn)
    fl.checks.numeric_leaves("params", params)
    if not isinstance(examples, Mapping) or not examples:
        raise TypeError(f"`examples` is {fl.checks.shown(examples)}; expected a dict of arrays [n, ...].")
    named = {f"examples[{name!r}]": value for name, value in examples.items()}
    batch = {
        name: fl.checks.real_array(narrow=True, **{key: value})
        for name, (key, value) in zip(examples, named.items(), strict=True)
    }
    shapes = {name: list(array.shape) for name, array in batch.items()}
    if any(shape[:1] != next(iter(shapes.values()))[:1] or not shape for shape in shapes.values()):
        raise ValueError(f"`examples` has arrays of shapes {shapes}; expected [n, ...] in all of them.")
    count = next(iter(batch.values())).shape[0]
    batch = {**jax.tree.map(jnp.asarray, batch), "mask": jnp.ones(count, bool)}
    jax.eval_shape(lambda: fl.batch_loss(loss_fn, params, batch, batch["mask"], None))  # refuses what fits no loss
    losses = loss_fn(params, batch, None)
    return -(losses[0] if isinstance(losses, tuple) else losses)


def confidence(logits: Any, labels: Any) -> jax.Array:
    """The logit of the probability that a classifier gives the true class, `log(p / (1 - p))`.

    Nearly Gaussian over models, where p itself is not. Computed from logits: p rounds to 1 long before this stops
    telling members apart.

    Args:
      logits: floats `[..., C]`, C >= 2.
      labels: ints `[...]`.

    Returns:
      float32 `[...]`: the label's logit minus the log-sum-exp of the others.

    Raises:
      ValueError: for shapes that do not fit.

    Source: Carlini et al. (2022), https://arxiv.org/abs/2112.03570, section IV-C.

    Example:
      >>> print(confidence(jnp.array([[200.0, 0.0], [0.0, 0.0]]), jnp.array([0, 1])))
      [200.   0.]
    """
    logits, labels = (jnp.asarray(value) for value in fl.checks.real_array(narrow=True, logits=logits, labels=labels))
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"`labels` has dtype {labels.dtype}; expected ints [...], the classes.")
    if logits.ndim != labels.ndim + 1 or logits.shape[:-1] != labels.shape or logits.shape[-1] < 2:
        raise ValueError(
            f"`logits` has shape {list(logits.shape)} and `labels` {list(labels.shape)}; expected [..., C] with two "
            "classes or more, and [...]."
        )
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    values = logits.astype(jnp.float32)
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, values), axis=-1)
    return jnp.sum(jnp.where(own, values, 0.0), axis=-1) - others


def lira(
    scores: Any,
    shadow_scores: Any,
    shadow_member: Any,
    *,
    mode: Literal["online", "offline"] = "online",
    variance: Literal["example", "pooled"] = "pooled",
) -> np.ndarray:
    """The likelihood-ratio attack: is this score like those of models that saw the example, or of those that did not?

    Args:
      scores: floats `[n]`, of the model under attack on each example, see `confidence`.
      shadow_scores: floats `[S, n]`, of S shadow models that the attacker trained.
      shadow_member: bool `[S, n]`, which examples each was trained on.
      mode: "online" compares both Gaussians; "offline" looks only at models without the example, and asks how unusual
        the score is among them.
      variance: "example", a variance for each example, which wants 64 models or more; "pooled", one for all
        examples (and for each side).

    Returns:
      float64 `[n]`: online the log likelihood ratio, in nats; offline `log P[Z <= score]` of the Gaussian without.

    Raises:
      ValueError: for shapes that differ, values that are not finite, or an example with too few models on a side that
        is needed: one, or two for a variance of its own.

    Guarantees:
      For scores that are Gaussian with the same variance in and out, and means a distance d apart in units of their
      standard deviation, the curve of the online attack is that of the best test: its AUC is `Phi(d / sqrt(2))`.

    Source: Carlini, Chien, Nasr, Song, Terzis, Tramèr (2022), https://arxiv.org/abs/2112.03570, algorithm 1 and
      section IV-C and VI-C.

    Example:
      >>> shadow = np.array([[0.0], [0.1], [2.0], [2.1]])
      >>> member = np.array([[False], [False], [True], [True]])
      >>> bool(lira([2.0], shadow, member)[0] > 0 > lira([0.0], shadow, member)[0])
      True
    """
    mode = fl.checks.one_of(("online", "offline"), mode=mode)
    variance = fl.checks.one_of(("example", "pooled"), variance=variance)
    values, shadow = numbers("scores", scores, "[n]"), numbers("shadow_scores", shadow_scores, "[S, n]")
    member = fl.checks.as_array("shadow_member", shadow_member, "bool [S, n]")
    _check_shadow(values, shadow, member)
    mean_out, std_out = _gaussian(shadow, ~member, variance, "without")
    if mode == "offline":
        from scipy.stats import norm

        return norm.logcdf(values, mean_out, std_out)
    mean_in, std_in = _gaussian(shadow, member, variance, "with")
    log_density = lambda mean, std: -0.5 * ((values - mean) / std) ** 2 - np.log(std)  # noqa: E731
    return log_density(mean_in, std_in) - log_density(mean_out, std_out)


def lira_leave_one_out(
    scores: Any,
    member: Any,
    *,
    mode: Literal["online", "offline"] = "online",
    variance: Literal["example", "pooled"] = "pooled",
) -> np.ndarray:
    """`lira` against each of S models in turn, the others its shadows: S n guesses from S trainings.

    Args:
      scores: floats `[S, n]`.
      member: bool `[S, n]`.
      mode: see `lira`.
      variance: see `lira`.

    Returns:
      float64 `[S, n]`, scores of each model as the one under attack.

    Raises:
      ValueError: as `lira`.

    Source: Carlini et al. (2022), https://arxiv.org/abs/2112.03570, section V-A.

    Example:
      >>> member = np.array([[True], [False], [True], [False], [True], [False]])
      >>> scores = member + np.array([[0.0], [0.1], [0.1], [0.0], [0.2], [0.2]])
      >>> (lira_leave_one_out(scores, member) > 0).ravel().tolist()
      [True, False, True, False, True, False]
    """
    values, truth = numbers("scores", scores, "[S, n]"), fl.checks.as_array("member", member, "bool [S, n]")
    if values.ndim != 2 or values.shape != truth.shape or not len(values):
        raise ValueError(
            f"`scores` has shape {list(values.shape)} and `member` {list(truth.shape)}; expected [S, n] both."
        )
    rows = np.arange(len(values))
    return np.stack([lira(values[s], values[rows != s], truth[rows != s], mode=mode, variance=variance) for s in rows])


def client_scores(released: PyTree, candidates: PyTree, *, num_members: Any = None) -> jax.Array:
    """Which clients are in a released sum: the cosine of each candidate's update with it.

    Args:
      released: pytree of floats, what the server sees or publishes: a sum of updates, with noise or without.
      candidates: pytree of the same structure with a leading axis `[N, ...]`: the updates that the attacker expects of
        each client, or canaries that were put in.
      num_members: how many clients are in the sum, where it is known: then what all candidates share, their mean, is
        taken out of both, since it tells nobody from anybody. None for canaries, which share nothing; the released
        value may then be a mean as well.

    Returns:
      float32 `[N]`.

    Raises:
      ValueError: for structures or shapes that differ, or `num_members` below 0.

    Guarantees:
      For a candidate that is not in the sum and points in a random direction of d dimensions, its score has mean 0 and
      variance 1 / d. This is not the strongest attack: without noise, one who knows all updates can solve for the sum.

    Source: Andrew, Kairouz, Oh, Oprea, McMahan, Suriyakumar (2023), https://arxiv.org/abs/2302.03098, section 3.

    Example:
      >>> updates = jnp.eye(4)
      >>> print(client_scores(updates[0] + updates[1], updates).round(3))
      [0.707 0.707 0.    0.   ]
    """
    fl.checks.numeric_leaves("released", released)
    fl.checks.numeric_leaves("candidates", candidates)
    if not jax.tree.leaves(candidates):
        raise ValueError(f"`candidates` is {candidates!r}; expected at least one array of updates, [N, ...].")
    fl.checks.same_structure(
        jax.eval_shape(lambda: jax.tree.map(_row, candidates)),
        jax.eval_shape(lambda: jax.tree.map(jnp.asarray, released)),
        what="a row of `candidates`",
        than="`released`",
        remedy="Give [N, ...] for each leaf of what is released.",
        any_dtype=True,
    )
    if num_members is not None:
        num_members = fl.checks.nonnegative(num_members=num_members)
        shared = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), candidates)
        candidates = jax.tree.map(lambda leaf, mean: leaf - mean[None], candidates, shared)
        released = jax.tree.map(lambda leaf, mean: leaf - num_members * mean, released, shared)
    return jax.vmap(cosine, in_axes=(None, 0))(released, candidates)


def _row(leaf: Any) -> jax.Array:
    if not jnp.shape(leaf)[:1] > (0,):
        raise ValueError(
            f"`candidates` has {fl.checks.shown(leaf)}; expected a leading axis [N, ...], N of at least 1."
        )
    return jnp.asarray(leaf)[0]


def _gaussian(shadow: np.ndarray, rows: np.ndarray, variance: str, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean `[n]` and standard deviation (`[n]` or a scalar) of each column over the chosen rows."""
    count = rows.sum(axis=0)
    need = 2 if variance == "example" else 1
    if (count < need).any():
        first = int(np.flatnonzero(count < need)[0])
        raise ValueError(
            f"`shadow_member` has {int(count[first])} models {side} example {first}; expected at least {need}. Train "
            "more shadow models, each on a random half."
        )
    mean = np.where(rows, shadow, 0.0).sum(axis=0) / count
    squares = np.where(rows, (shadow - mean) ** 2, 0.0)
    if variance == "example":
        return mean, np.sqrt(np.maximum(squares.sum(axis=0) / (count - 1), 1e-12))
    # Each example's own mean is fitted, which takes one degree of freedom from each.
    spare = max(int((count - 1).sum()), 1)
    return mean, np.sqrt(np.maximum(squares.sum() / spare, 1e-12))


def _check_shadow(values: np.ndarray, shadow: np.ndarray, member: np.ndarray) -> None:
    if values.ndim != 1 or shadow.ndim != 2 or shadow.shape[1:] != values.shape or shadow.shape != member.shape:
        raise ValueError(
            f"`scores` has shape {list(values.shape)}, `shadow_scores` {list(shadow.shape)}, `shadow_member` "
            f"{list(member.shape)}; expected [n], [S, n] and [S, n]."
        )
    if member.dtype != bool:
        raise ValueError(f"`shadow_member` has dtype {member.dtype}; expected bools, True for members.")
    if not (np.isfinite(values).all() and np.isfinite(shadow).all()):
        raise ValueError("`scores` or `shadow_scores` holds values that are not finite; expected finite ones.")
