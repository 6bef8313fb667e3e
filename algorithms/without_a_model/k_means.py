"""Federated k-means: Lloyd's algorithm, of which every step is a sum over clients.

    client i:   for each of its examples x the nearest center c_j;  per center the count n_ij and the sum of c_j - x
    server:     c_j = c_j - (sum over clients of the sums) / (sum over clients of n_ij)

With everyone present that is one step of Lloyd's algorithm on the pooled examples; of a cohort, on the cohort's. A
center that nobody's example is nearest to stays where it is. An example of which any entry is missing (NaN, infinite)
is nearest to none: it is left out, and counted in the info "missing".

These are rounds like any others, so noise and its price are too: behind a chain with a mechanism, such as
`fl.chain(fl.mean(over=K), privacy.gaussian(...))`, `privacy.epsilon(rounds, ...)` says what the centers cost.

Sources:
  Lloyd (1982), "Least Squares Quantization in PCM", IEEE Transactions on Information Theory 28.
  Arthur, Vassilvitskii (2007), "k-means++: The Advantages of Careful Seeding", SODA, section 2.2 (the first centers).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import fedjaxlite as fl


class KMeansState(NamedTuple):
    """The server's state.

    Attributes:
      params: float `[k, ...]`, the centers.
    """

    params: Any


def k_means(*, feature: str = "x", batch_size: int = 256) -> fl.Algorithm:
    """Lloyd's algorithm over clients.

    Args:
      feature: the feature to cluster, `[n, ...]` numbers.
      batch_size: rows at a time; memory against speed, and what a straggler's work is counted in.

    Returns:
      an `fl.Algorithm` whose params are the centers, float `[k, ...]`: start it from `k_means_init(...)`, or from
      centers of one's own. The update has the parts "delta" `[k, ...]` and "shares" `[k]`, both divided by the client's
      examples, which are its weight; under `fl.mean()` every client counts alike. Its info is "loss", the mean squared
      distance to the nearest center before the step, "missing", the examples that were left out, and "local_steps".

    Raises:
      TypeError, ValueError: for arguments out of range; when rounds are built, if the feature is missing or the centers
        have another shape than its rows.

    Guarantees:
      With everyone present, nothing missing, `fl.weighted_mean()` and no straggler, the loss never rises from round to
      round.

    Example:
      >>> import numpy as np
      >>> people = fl.Population.from_arrays({"x": np.float32([[0], [1], [9], [11]])}, client_ids=[0, 1, 0, 1])
      >>> run = fl.rounds(k_means(), sampler=fl.sampling.full(2), aggregator=fl.weighted_mean())
      >>> state = run.init(jnp.float32([[0], [5]]), people, key=jax.random.key(0))
      >>> state, _ = run.steps(state, people, 3)
      >>> state.params.ravel().tolist()
      [0.5, 10.0]
    """
    batch_size = fl.checks.positive_int(batch_size=batch_size)
    feature = fl.checks.text("It names a feature.", feature=feature)

    def client_update(centers: jax.Array, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key
        _check_feature(data, feature, centers)
        flat = centers.reshape(centers.shape[0], -1).astype(jnp.float32)
        plan = data.batches(batch_size=min(batch_size, data.wave.max_size), epochs=1, shuffle=False)

        def add(sums: Any, batch: Any, mask: Any, key: Any) -> Any:
            del key
            delta, counts, loss, missing = sums
            x = batch[feature].reshape(mask.shape[0], -1).astype(jnp.float32)
            known = jnp.all(jnp.isfinite(x), axis=1)
            missing = missing + jnp.sum(mask & ~known, dtype=jnp.int32)
            x, mask = jnp.where(known[:, None], x, 0.0), mask & known
            nearest, distance = _nearest(x, flat)
            chosen = jax.nn.one_hot(nearest, flat.shape[0], dtype=jnp.float32) * mask[:, None].astype(jnp.float32)
            away = jnp.where(mask[:, None], flat[nearest] - x, 0.0)
            delta = delta + jnp.einsum("bk,bd->kd", chosen, away, precision="highest")
            return delta, counts + chosen.sum(0), loss + jnp.where(mask, distance, 0.0).sum(), missing

        start = (jnp.zeros_like(flat), jnp.zeros(flat.shape[:1], jnp.float32), jnp.float32(0.0), jnp.int32(0))
        delta, counts, loss, missing = plan.scan(add, start)
        seen = counts.sum()
        share = 1.0 / jnp.maximum(seen, 1.0)
        update = {"delta": (delta * share).reshape(centers.shape).astype(centers.dtype), "shares": counts * share}
        info = {"loss": loss * share, "missing": missing, "local_steps": plan.num_steps}
        return fl.ClientOutput(update, seen.astype(jnp.int32), client_state=client_state, info=info)

    def server_update(state: KMeansState, aggregate: fl.Aggregate, key: jax.Array) -> KMeansState:
        del key
        delta, shares = aggregate.value["delta"], aggregate.value["shares"]
        shares = shares.reshape(-1, *(1 for _ in delta.shape[1:]))
        step = jnp.where(shares > 0, delta / jnp.where(shares > 0, shares, 1.0), 0.0)
        return KMeansState(state.params - step.astype(state.params.dtype))

    return fl.Algorithm(
        KMeansState,
        client_update,
        server_update,
        name="k_means",
        hparams={"feature": feature, "batch_size": batch_size},
    )


def k_means_init(key: jax.Array, points: Any, num_clusters: int) -> jax.Array:
    """First centers by k-means++: points drawn one by one, in proportion to the squared distance from those drawn.

    Args:
      key: a random key.
      points: `[n, ...]`, at least `num_clusters` of them, that the server may see: public ones, or a simulation's
        `population.features["x"]`.
      num_clusters: k.

    Returns:
      float32 `[k, ...]`, k of the points; distinct ones as long as there are.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Source: Arthur, Vassilvitskii (2007).

    Example:
      >>> import numpy as np
      >>> sorted(k_means_init(jax.random.key(0), np.float32([[0], [0], [100]]), 2).ravel().tolist())
      [0.0, 100.0]
    """
    num_clusters = fl.checks.positive_int(num_clusters=num_clusters)
    fl.checks.is_key(key=key)
    points = jnp.asarray(fl.checks.real_array(narrow=True, points=points, shape="[n, ...]"))
    if points.ndim == 0 or points.shape[0] < num_clusters:
        raise ValueError(
            f"`points` has shape {list(points.shape)}; expected [n, ...] with n at least {num_clusters}, the number of "
            "clusters. Give more points, or ask for fewer clusters."
        )
    flat = points.reshape(points.shape[0], -1).astype(jnp.float32)

    def squared(center: jax.Array) -> jax.Array:
        return jnp.sum((flat - flat[center][None]) ** 2, axis=1)

    def draw(distance: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        # The categorical draw of all zeros (no other points left) is uniform.
        weight = jnp.where(distance.max() > 0, distance, 1.0)
        center = jax.random.categorical(key, jnp.log(weight)).astype(jnp.int32)
        return jnp.minimum(distance, squared(center)), center

    first, rest = jax.random.split(key)
    start = jax.random.randint(first, (), 0, flat.shape[0])
    _, others = jax.lax.scan(draw, squared(start), jax.random.split(rest, num_clusters - 1))
    return flat[jnp.concatenate([start[None], others])].reshape(num_clusters, *points.shape[1:])


def _nearest(x: jax.Array, centers: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The index of the nearest center, and its squared distance, for each row."""
    product = jnp.einsum("bd,kd->bk", x, centers, precision="highest")
    nearest = jnp.argmin(jnp.sum(centers**2, axis=1)[None] - 2 * product, axis=1)
    return nearest, jnp.sum((x - centers[nearest]) ** 2, axis=1)


def _check_feature(data: fl.ClientData, feature: str, centers: jax.Array) -> None:
    if feature not in data.features:
        raise ValueError(f"the data have no feature {feature!r}, only {sorted(data.features)}; give `feature`.")
    shape = data.features[feature].shape[1:]
    if getattr(centers, "ndim", 0) == 0 or centers.shape[1:] != shape:
        raise ValueError(
            f"the params have shape {list(jnp.shape(centers))}; expected the centers, "
            f"[k{''.join(f', {n}' for n in shape)}], since rows of {feature!r} have shape {list(shape)}. "
            "Make them by k_means_init."
        )
