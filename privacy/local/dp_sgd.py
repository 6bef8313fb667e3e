"""Local training by differentially private SGD: what is protected is one example of one client.

    client of n examples:   q_n = min(q, m / n)
    every step              each of its examples with probability q_n            (Poisson batch)
                            g  =  (sum of the examples' gradients, each clipped to C  +  N(0, (z C)^2 I)) / (q_n n)
                            w  <-  client_optimizer(w, g)

So a step is along the client's own mean gradient, whatever its size: q alone is one rate, and one epsilon, for all; m
alone is one batch size for all, and the fewer examples a client has, the more each of them is drawn and told of. What
is sent depends on n, which counts as public. Where it must not, `sizes="secret"` gives all clients one rate q and one
divisor m: then a client with few examples takes short steps, and one with many takes long ones.

Sources:
  Abadi et al. (2016), "Deep Learning with Differential Privacy", https://arxiv.org/abs/1607.00133, algorithm 1.
  Ponomareva et al. (2023), "How to DP-fy ML", https://arxiv.org/abs/2303.00654, section 5.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.privacy.accounting.conversions import check_delta, gaussian_epsilon
from fedjaxlite.privacy.central import clipping
from fedjaxlite.privacy.central.noise import Spread, add_noise, product
from fedjaxlite.privacy.local.per_example import Batch, clipped_sum, poisson_batches
from fedjaxlite.privacy.mechanisms import ExampleMechanism

PyTree = Any
_PURPOSE = 0x6470  # a fold_in of a client's key that nothing else uses


class DPLocalTraining(NamedTuple):
    """Local training with a guarantee for single examples; called like what `fl.local_sgd` returns.

    Attributes:
      run: `run(params, data, correct=None) -> fl.LocalResult`.
      mechanisms: what it says of its noise, one `privacy.ExampleMechanism`; an algorithm around it passes this on.
    """

    run: Callable[..., fl.LocalResult]
    mechanisms: tuple[ExampleMechanism, ...]

    def __call__(self, params: PyTree, data: fl.ClientData, correct: Any = None) -> fl.LocalResult:
        """`run`."""
        return self.run(params, data, correct)


def dp_sgd(
    loss_fn: Callable[..., Any],
    *,
    client_optimizer: optax.GradientTransformation,
    rate: float | None = None,
    expected_batch_size: float | None = None,
    steps: int,
    clip_norm: Any,
    noise_multiplier: Any,
    sizes: Literal["public", "secret"] = "public",
    max_overflow: float = 1e-18,
    micro_batch_size: int | None = None,
    lower: bool | Literal["auto"] = "auto",
    compute_dtype: Any = None,
    remat: bool | Callable[..., Any] = False,
) -> DPLocalTraining:
    """Local training that protects single examples, in the place of `fl.local_sgd`.

    Args:
      loss_fn: `(params, batch, key) -> [B]` or `([B], LossAux)`, whose row i depends on example i alone.
      client_optimizer: an optax optimizer; its state starts fresh in every call.
      rate: q in (0, 1], the largest chance of each of a client's examples in each step; used to the multiple of 2^-32
        below. None for no limit but `expected_batch_size`.
      expected_batch_size: m above 0, the largest expected batch: clients with more than m / q examples draw with chance
        m / n, n being their number. None for no limit but `rate`. At least one of the two has to be given.
      steps: of one call. A straggler takes fewer.
      clip_norm: C, the largest L2 norm of an example's gradient, a number or a tracer; infinity without noise only. Or
        a tree prefix of the gradient with one for each part: C is then the root of the sum of their squares.
      noise_multiplier: z, the noise's standard deviation on the sum over C, at least 0. May be a tracer.
      sizes: "public", or "secret" where what a client sends must not depend on its number of examples: everyone then
        draws with chance `rate` and divides by `expected_batch_size`: `rate` times the size of a typical client.
      max_overflow: the largest chance of a step in which more examples are drawn than there is room for; room is made
        for the population's largest client. Examples that find none are left out; the chance is part of delta.
      micro_batch_size: examples at a time, whose gradients are in memory together. None for all of a batch.
      lower: see `fl.value_and_grad`.
      compute_dtype: see `fl.value_and_grad`.
      remat: see `fl.value_and_grad`.

    Returns:
      a DPLocalTraining, to be called as `run(params, data, correct=None) -> fl.LocalResult`. `num_examples`, the weight
      of federated averaging, is the client's own number, or m / q for everybody where sizes are secret. The metrics are
      those of the drawn examples, without noise: for simulations only.

    Raises:
      TypeError, ValueError: for numbers out of range, neither a rate nor a batch size, secret sizes without both, noise
        without a clip, and losses that are declared cross_example; when traced, for losses that give a state.

    Guarantees:
      Unit: one example of one client, which counts for nothing instead; where sizes are secret, one that is added or
      removed. An example changes the sum of a step by at most C, also where its gradient is not finite (it counts as
      zero). With secret sizes all steps are taken, and noise is added, whatever number of examples a client has, none
      included. Around it, an algorithm that states `mechanisms` (`algorithms.fed_avg_of`) has the guarantee of examples
      in `privacy.epsilon`, `report`, `calibrate`, `running_epsilon` and `stop_at_epsilon`. It is not comparable to an
      epsilon of whole clients, and the two are stated side by side, never added. Draws and noise come from the run's
      noise key, so from the operating system unless one is given. Noise is float32 (Mironov 2012).

    Source: Abadi et al. (2016), https://arxiv.org/abs/1607.00133, algorithm 1, with Poisson batches in fact.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> train = dp_sgd(loss, client_optimizer=optax.sgd(0.1), expected_batch_size=5, steps=20, clip_norm=1.0,
      ...                noise_multiplier=1.0)
      >>> [train.mechanisms[0].rate_of(num_examples) for num_examples in (4, 10, 100)]
      [1.0, 0.5, 0.05]
    """
    options: dict[str, Any] = {"lower": lower, "compute_dtype": compute_dtype, "remat": remat}
    fl.value_and_grad(loss_fn, **options)  # refuses now what it refuses
    if micro_batch_size is not None:
        micro_batch_size = fl.checks.positive_int(
            micro_batch_size=micro_batch_size, remedy="None takes each batch as one."
        )
    fl.check_optimizer(client_optimizer=client_optimizer)
    _refuse_cross_example(loss_fn)
    steps = fl.checks.positive_int(steps=steps)
    remedy = "It bounds the chance that a batch has no room for an example."
    max_overflow = fl.checks.probability(remedy, max_overflow=fl.checks.concrete(remedy, max_overflow=max_overflow))
    sizes = fl.checks.one_of(("public", "secret"), sizes=sizes)
    q, m = _check_batches(rate, expected_batch_size, sizes)
    public = sizes == "public"
    limit = m if public else None  # of the expected batch
    z = clipping.check_noise_multiplier(noise_multiplier)
    clip = clipping.check_clip_norm(clip_norm, z)
    std = product(z, clipping.total_norm(clip))

    def run(params: PyTree, data: fl.ClientData, correct: Any = None) -> fl.LocalResult:
        secret = _secret_key(data)
        draw = poisson_batches(data, q, max_overflow, limit)
        divisor = _expected(data, q, limit) if public else m
        gradient = fl.value_and_grad(loss_fn, lanes=data.wave.num_lanes, platform=data.wave.platform, **options)

        def clipped(params: PyTree, key: jax.Array, drawn: Batch) -> tuple[PyTree, dict[str, jax.Array]]:
            batch, mask = drawn
            return clipped_sum(gradient, params, batch, mask, key, clip_norm=clip, chunk_size=micro_batch_size)

        def step(index: jax.Array, carry: _Carry) -> _Carry:
            for_batch, for_loss, for_noise = jax.random.split(jax.random.fold_in(secret, index), 3)
            total, sums = clipped(carry.params, for_loss, draw(for_batch))
            like = fl.trainable(carry.params)
            grads = _noised_mean(total, std, divisor, like, for_noise)
            grads = grads if correct is None else correct(grads, carry.params)
            updates, opt_state = client_optimizer.update(grads, carry.opt_state, like)
            new = fl.with_trainable(carry.params, optax.apply_updates(like, updates))
            return _Carry(new, opt_state, jax.tree.map(jnp.add, carry.sums, sums), carry.steps + 1)

        shapes = jax.eval_shape(lambda: clipped(params, secret, draw(secret))[1])
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        first = _Carry(params, client_optimizer.init(fl.trainable(params)), zeros, jnp.int32(0))
        last = fl.repeat(data if public else _never_empty(data), steps, step, first)
        weight = last.sums.pop("weight")
        metrics = {name: value / jnp.where(weight > 0, weight, 1.0) for name, value in last.sums.items()}
        delta = jax.tree.map(jnp.subtract, params, last.params)
        size = data.num_examples if m is None or public else jnp.int32(max(1, round(m / q)))
        return fl.LocalResult(last.params, delta, last.steps, size, metrics, last.opt_state)

    mechanism = ExampleMechanism(clip_norm, noise_multiplier, int(steps), q, limit, float(max_overflow), public)
    return DPLocalTraining(run, (mechanism,))


def dp_sgd_epsilon(
    train: DPLocalTraining, *, participations: int, delta: float, num_examples: int | None = None
) -> float:
    """What all reports of a client cost one of its examples. Of a composed run, `privacy.epsilon` says it.

    Args:
      train: from `dp_sgd`.
      participations: the most rounds that a client can be in, `sampler.accounting.participations(num_rounds)`.
      delta: in (0, 1).
      num_examples: of the client. None for whichever client it is: the largest rate.

    Returns:
      epsilon for adding or removing one example, by privacy loss distributions of all steps of all reports; infinite
      without noise. It holds against whoever sees the client's updates, the server included. Sampling of clients is
      not made use of.

    Raises:
      TypeError, ValueError: for numbers out of range, or where overflows alone would cost more than a hundredth of
        delta.
      ModuleNotFoundError: without dp-accounting, of the extra "privacy".

    Source: Koskela, Jälkö, Honkela (2020), https://arxiv.org/abs/1906.03049 (accounting); Chua et al. (2024),
      https://arxiv.org/abs/2411.04205 (cut batches).

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> train = dp_sgd(loss, client_optimizer=optax.sgd(0.1), rate=1.0, expected_batch_size=5, steps=1,
      ...                clip_norm=1.0, noise_multiplier=1.0)
      >>> round(dp_sgd_epsilon(train, participations=1, delta=1e-5), 3)
      4.38
    """
    if not isinstance(train, DPLocalTraining):
        raise TypeError(f"`train` is a {type(train).__name__}; expected what privacy.dp_sgd(...) returns.")
    participations, delta = fl.checks.positive_int(participations=participations), check_delta(delta)
    if num_examples is not None:
        num_examples = fl.checks.positive_int(num_examples=num_examples)
    (own,) = train.mechanisms
    rounds, rate = participations * own.steps, own.rate if num_examples is None else own.rate_of(num_examples)
    epsilon = gaussian_epsilon(noise_multiplier=own.noise_multiplier, delta=0.99 * delta, rate=rate, num_rounds=rounds)
    overflow = rounds * own.max_overflow if rate < 1 else 0.0
    if math.isfinite(epsilon) and (1 + math.exp(min(epsilon, 700.0))) * overflow > 0.01 * delta:
        raise ValueError(
            f"batches that overflow in {rounds} steps cost more than a hundredth of delta={delta!r} at epsilon="
            f"{epsilon:.4g}; make privacy.dp_sgd with a `max_overflow` below {own.max_overflow!r}."
        )
    return epsilon


class _Carry(NamedTuple):
    params: PyTree
    opt_state: Any
    sums: Any
    steps: jax.Array


def _secret_key(data: fl.ClientData) -> jax.Array:
    return jax.random.fold_in(data.key if data.noise is None else data.noise, _PURPOSE)


def _expected(data: fl.ClientData, rate: float, limit: float | None) -> jax.Array:
    """q_n n, the expected number of drawn examples; 1 for a client without any, which takes no step."""
    expected = rate * data.num_examples.astype(jnp.float32)
    expected = expected if limit is None else jnp.minimum(expected, limit)
    return jnp.where(data.num_examples > 0, expected, 1.0)


def _noised_mean(total: PyTree, std: Any, divisor: Any, like: PyTree, key: jax.Array) -> PyTree:
    leaves, treedef = jax.tree.flatten(total)
    zero = fl.Message(jax.tree.unflatten(treedef, leaves), jnp.float32(1.0), {})
    noised = add_noise(zero, Spread(std, {}), key).value
    return jax.tree.map(lambda leaf, param: (leaf / divisor).astype(param.dtype), noised, like)


def _never_empty(data: fl.ClientData) -> fl.ClientData:
    """The same view, of which the loop believes that it holds an example: without one, all steps are taken too."""
    wave = data.wave._replace(num_examples=jnp.maximum(data.wave.num_examples, 1))
    return dataclasses.replace(data, num_examples=jnp.maximum(data.num_examples, 1), wave=wave)


def _refuse_cross_example(loss_fn: Any) -> None:
    if getattr(loss_fn, "cross_example", False):
        raise ValueError(
            "the loss is declared cross_example: the loss of a row depends on other rows (batch statistics), so no "
            "gradient belongs to one example and clipping protects none. Use a model without them, such as GroupNorm "
            "for BatchNorm."
        )


def _check_batches(rate: Any, expected_batch_size: Any, sizes: Any) -> tuple[float, float | None]:
    """The two limits, q and m; a missing rate is 1."""
    fl.checks.concrete("The room for a batch follows from it.", rate=rate, expected_batch_size=expected_batch_size)
    if rate is not None:
        rate = fl.checks.probability("It is the chance of each example in each step.", rate=rate)
        if rate * 2**32 < 1:
            raise ValueError(f"`rate` is {rate!r}; expected at least 2^-32, the resolution of the draw.")
    if expected_batch_size is not None:
        expected_batch_size = fl.checks.positive(
            expected_batch_size=expected_batch_size, remedy="It is the largest expected batch."
        )
    if rate is None and expected_batch_size is None:
        raise ValueError(
            "neither `rate` nor `expected_batch_size` was given; expected at least one: a rate for batches that grow "
            "with a client's examples, a size for batches that do not."
        )
    if sizes == "secret" and (rate is None or expected_batch_size is None):
        missing = "rate" if rate is None else "expected_batch_size"
        raise ValueError(
            f"`sizes` is 'secret' and `{missing}` was not given; expected both, since neither may follow from a "
            "client's number of examples. `expected_batch_size` is `rate` times the size of a typical client."
        )
    return 1.0 if rate is None else float(rate), None if expected_batch_size is None else float(expected_batch_size)
