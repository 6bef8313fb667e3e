"""Clipping that keeps its promise in float32, and the checks that every mechanism makes of the chain that it stands in.

A bound on one client's update is what all noise is scaled to, so it has to hold for the numbers that are sent and not
only on paper. Norms are summed in float32 in short blocks, for which the worst case of rounding is known whatever the
order of a backend's sums, and updates are scaled to slightly less than the clip norm, by more than that worst case.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import fedjaxlite as fl
from fedjaxlite.privacy.mechanisms import Mechanism

PyTree = Any

BLOCK = 32
"""How many numbers are summed at a time, so that the rounding of a norm does not grow with the size of the model."""

SHRINK = 1.0 - 2.0**-16
"""What is left of a clip norm for the update: 2^31 entries in ten levels of blocks round by less than 2^-16."""


class Clipped(NamedTuple):
    """An update after clipping.

    Attributes:
      value: pytree, floats of at least 32 bits.
      fits: bool scalar, or a tree of them beside a tree of clip norms: whether nothing had to be cut.
    """

    value: PyTree
    fits: Any


def clip(value: PyTree, clip_norm: Any, *, order: int = 2) -> Clipped:
    """Scales an update down to a norm of at most `clip_norm`, the whole or each of its parts.

    Args:
      value: pytree of floats. Narrow ones (bfloat16, float16) are widened to float32 first and stay it.
      clip_norm: a number above 0 (infinity for no clipping), or a tree prefix of `value` with one for each part.
      order: 2 for the L2 norm over all leaves of a part, 1 for the L1 norm.

    Returns:
      a Clipped. Updates that are short enough are returned bit for bit.

    Guarantees:
      The norm of what is returned, of any part and in exact arithmetic, is at most its clip norm, for up to 2^31
      entries of any size and clip norms from 1e-30 on. A part that holds NaN or infinity is returned as zeros, and does
      not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> clip({"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.1])}, {"a": 1.0, "b": 1.0}).fits
      {'a': Array(False, dtype=bool), 'b': Array(True, dtype=bool)}
    """
    done = jax.tree.map(lambda limit, part: _clip_part(part, limit, order), clip_norm, value)
    is_one = lambda x: isinstance(x, Clipped)  # noqa: E731
    return Clipped(
        jax.tree.map(lambda one: one.value, done, is_leaf=is_one),
        jax.tree.map(lambda one: one.fits, done, is_leaf=is_one),
    )


def _clip_part(part: PyTree, clip_norm: Any, order: int) -> Clipped:
    part = jax.tree.map(_widen, part)
    if _is_infinite(clip_norm):
        return Clipped(part, jnp.bool_(True))
    largest = jnp.float32(0.0)
    for leaf in jax.tree.leaves(part):
        largest = jnp.maximum(largest, jnp.max(jnp.abs(leaf), initial=0.0).astype(jnp.float32))
    # Relative to the largest entry no square overflows, and none vanishes that counts. Compilers divide by multiplying
    # with 1 / unit, which must not vanish either: processors take what is below the normal numbers for 0.
    finite = jnp.isfinite(largest)
    unit = jnp.clip(largest, jnp.finfo(jnp.float32).tiny, 2.0**126)
    unit = jax.lax.stop_gradient(unit)  # it cancels in what is returned
    relative = _norm([(leaf / unit.astype(leaf.dtype)).ravel() for leaf in jax.tree.leaves(part)], order)
    limit = jnp.asarray(clip_norm, jnp.float32) * jnp.float32(SHRINK)
    fits = finite & (unit * relative <= limit)
    factor = limit / jnp.maximum(relative, 1.0)  # a largest entry of 1 makes the norm no less; what is tiny fits

    def scaled(leaf: jax.Array) -> jax.Array:
        cut = leaf / unit.astype(leaf.dtype) * factor.astype(leaf.dtype)
        return jnp.where(fits, leaf, jnp.where(finite, cut, 0.0))

    return Clipped(jax.tree.map(scaled, part), fits)


def _norm(leaves: list[jax.Array], order: int) -> jax.Array:
    """The norm of flat leaves whose entries are at most 1, each sum over no more than `BLOCK` terms."""
    flat = [part for leaf in leaves for part in _blocks(leaf.astype(jnp.float32), order)]
    entries = jnp.concatenate(flat) if flat else jnp.zeros((0,), jnp.float32)
    while entries.size > BLOCK:
        entries = jnp.concatenate(_blocks(entries, order))
    return _norm_of_rows(entries, order)


def _blocks(entries: jax.Array, order: int) -> list[jax.Array]:
    """The norms of blocks of entries, and the entries that fill no block."""
    whole = entries.size // BLOCK * BLOCK
    return [_norm_of_rows(entries[:whole].reshape(-1, BLOCK), order), entries[whole:]] if whole else [entries]


def _norm_of_rows(entries: jax.Array, order: int) -> jax.Array:
    if order == 1:
        return jnp.sum(jnp.abs(entries), axis=-1)
    squares = jnp.sum(jnp.square(entries), axis=-1)
    # The root of 0 has no derivative, and rounds can be differentiated.
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)


def _widen(leaf: jax.Array) -> jax.Array:
    return leaf.astype(_wide(leaf.dtype))


def _wide(dtype: Any) -> Any:
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def clip_scalars(scalars: Any, bounds: Any) -> dict[str, jax.Array]:
    """Scalars cut to their declared bounds, `|s| <= bounds[name]`; NaN becomes 0."""
    cut = {}
    for name in sorted(scalars):
        scalar, bound = jnp.asarray(scalars[name], jnp.float32), jnp.asarray(bounds[name], jnp.float32)
        cut[name] = jnp.where(jnp.isnan(scalar), 0.0, jnp.clip(scalar, -bound, bound))
    return cut


def total_norm(clip_norm: Any, *, order: int = 2) -> Any:
    """The bound on a whole update from a tree of clip norms: the norm of the norms; infinity passes.

    Example:
      >>> total_norm({"a": 3.0, "b": 4.0}), total_norm({"a": 3.0, "b": 4.0}, order=1)
      (5.0, 7.0)
    """
    norms = jax.tree.leaves(clip_norm)
    if len(norms) == 1:
        return norms[0]
    return sum(norms) if order == 1 else sum(norm * norm for norm in norms) ** 0.5


def bounded(bounds: fl.Bounds, clip_norm: Any, *, order: int = 2) -> fl.Bounds:
    """The bounds of an update that `clip` returned, from what they were before.

    Bounds on norms are replaced and not tightened: an earlier codec may promise less exactly.
    """
    total = total_norm(clip_norm, order=order)
    if _is_infinite(total):
        return bounds
    entry = jax.tree.leaves(clip_norm)[0]
    for norm in jax.tree.leaves(clip_norm)[1:]:
        entry = jnp.maximum(entry, norm) if fl.checks.is_traced((entry, norm)) else max(entry, norm)
    if bounds.linf is not None:
        traced = fl.checks.is_traced((entry, bounds.linf))
        entry = jnp.minimum(entry, bounds.linf) if traced else min(entry, bounds.linf)
    return fl.Bounds(l2=total, linf=entry, l1=total if order == 1 else None)


def _is_infinite(clip_norm: Any) -> bool:
    return not fl.checks.is_traced(clip_norm) and math.isinf(float(clip_norm))


def check_noise_multiplier(noise_multiplier: Any) -> Any:
    """The noise multiplier as a float, or as the tracer that it is; refuses what is not a finite number from 0 on."""
    remedy = "Noise is `noise_multiplier` times the clip norm; 0 switches it off, and epsilon is infinite then."
    noise_multiplier = fl.checks.nonnegative(noise_multiplier=noise_multiplier, remedy=remedy)
    if fl.checks.is_traced(noise_multiplier):
        return noise_multiplier
    if math.isinf(float(noise_multiplier)):
        raise ValueError(
            f"`noise_multiplier` is {noise_multiplier!r}; expected a finite number of at least 0. {remedy}"
        )
    return float(noise_multiplier)


def check_clip_norm(clip_norm: Any, noise_multiplier: Any) -> Any:
    """The clip norm with floats for numbers; refuses clip norms of 0 or below, and noise without a clip.

    Args:
      clip_norm: a number above 0, or a pytree of them.
      noise_multiplier: what `check_noise_multiplier` returned.
    """
    if isinstance(clip_norm, Iterator):
        raise TypeError(f"`clip_norm` is {clip_norm!r}; expected a number above 0, or one for each part of the update.")
    leaves, treedef = jax.tree_util.tree_flatten_with_path(clip_norm)
    if not leaves:
        raise TypeError(f"`clip_norm` is {clip_norm!r}; expected a number above 0, or one for each part of the update.")
    norms = []
    for path, norm in leaves:
        name = "clip_norm" + jax.tree_util.keystr(path)
        norm = fl.checks.nonnegative("It is the largest norm that an update may have.", **{name: norm})
        if fl.checks.is_traced(norm):
            norms.append(norm)
            continue
        if float(norm) == 0:
            raise ValueError(f"`{name}` is 0; expected a number above 0: a clip norm of 0 would erase every update.")
        if math.isinf(float(norm)) and (fl.checks.is_traced(noise_multiplier) or noise_multiplier > 0):
            raise ValueError(
                f"`{name}` is infinite with noise_multiplier={noise_multiplier!r}: noise without a clip protects "
                "nobody. Give a finite clip norm; noise_multiplier=0 is for no privacy at all."
            )
        norms.append(float(norm))
    return jax.tree.unflatten(treedef, norms)


def check_prefix(name: str, clip_norm: Any, value: PyTree) -> None:
    """Refuses a tree of clip norms that is no prefix of the update, and says what the update looks like."""
    try:
        jax.tree.map(lambda norm, part: None, clip_norm, value)
    except ValueError:
        given, expected = (
            ", ".join(fl.checks.path_str(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0])
            for tree in (clip_norm, value)
        )
        raise ValueError(
            f"`clip_norm` of `{name}` has numbers at {given}, which is no tree prefix of the update. Give one number, "
            f"or one for each part of an update with leaves at {expected}."
        ) from None


def refuse(name: str, wire: fl.Wire) -> None:
    """Refuses every chain in which central noise would not protect what it is scaled to.

    Args:
      name: of the mechanism, for the message.
      wire: what the chain is up to the mechanism.

    Raises:
      ValueError: for what `refuse_order` refuses; for a rule that sees every message apart, which no noise on a sum
        covers; for a mean without a fixed denominator (weights or the number of reports would count), for a sampler
        that scales weights, and for a tree of weights.
    """
    refuse_order(name, wire)
    if wire.stack_ahead:
        raise ValueError(
            f"`{name}` adds its noise to a sum of updates, and this chain ends with a rule that is no sum: how far one "
            "client moves a rule's result is another question, so no guarantee would hold. Let clients noise their own "
            "updates, which a rule may then see: privacy.local_gaussian(...) before it, behind fl.mean(). Or leave the "
            f"rule out: the clip of `{name}` bounds what each client adds to the sum."
        )
    if wire.denominator is None:
        drawn, size = wire.participation, "..."
        if drawn is not None and wire.num_clients is not None:
            size = f"{drawn.expected_size(wire.num_clients):g}"
        raise ValueError(
            f"`{name}` needs a mean over a fixed number of clients, and the mean at the head of this chain divides by "
            "the clients' own weights or by how many report: one client could then change the result by more than the "
            f"noise is made for. Put fl.mean(over={size}) at the head, with the expected number of clients in a round."
        )
    if len(jax.tree.leaves(wire.weight)) != 1:
        raise ValueError(
            f"`{name}` needs one weight per client, and this chain has a tree of them. Put fl.mean(over=...) at the "
            "head, under which every part of an update weighs 1."
        )
    if wire.weight_cap != 1:
        cap = "weights of any size" if wire.weight_cap is None else f"weights up to {wire.weight_cap}"
        raise ValueError(
            f"`{name}` needs clients that weigh 1, and this chain has {cap}"
            f"{' from a sampler that scales them' if wire.scaled else ''}: one client could outweigh the noise. Use "
            "fl.mean(over=...) and a sampler without scale, such as fl.sampling.poisson or fl.sampling.uniform."
        )


def refuse_order(name: str, wire: fl.Wire) -> None:
    """Refuses a chain in which this mechanism cannot clip, or has nothing to say on top of another.

    Raises:
      ValueError: behind a mask, behind `quantize`, after another mechanism, for leaves that are not floats, and for
        scalars without a finite bound.
    """
    if wire.masked:
        raise ValueError(f"`{name}` stands behind a mask; a masked message cannot be clipped. Put `{name}` before it.")
    if wire.apart is not None:
        raise ValueError(
            f"`{name}` stands behind `{wire.apart}`, which may send more beside the values that noise covers (norms, "
            f"indices). Put `{name}` before `{wire.apart}`: what is compressed after its noise is as private."
        )
    for path, leaf in jax.tree_util.tree_flatten_with_path(wire.value)[0]:
        if wire.group != "float" or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"`{name}` clips floats, and the update has {leaf.dtype}{list(leaf.shape)} at "
                f"{fl.checks.path_str(path)}; an update is clipped before it is quantized. Put `{name}` before "
                "`quantize`."
            )
    if wire.noised:
        other = wire.mechanisms[-1].kind if wire.mechanisms else "another one"
        raise ValueError(
            f"`{name}` is the second mechanism of this chain, after {other}; expected one, since nothing is gained "
            "by noise on top of noise. Leave one of the two out."
        )
    for scalar in sorted(wire.scalars):
        bound = wire.scalar_bounds.get(scalar)
        if bound is None:
            raise ValueError(
                f"`{name}` needs a bound on the scalar {scalar!r}, which is clipped and noised as the update is; the "
                "algorithm declares none. Add it to Algorithm.scalar_bounds."
            )
        fl.checks.positive("Noise is scaled to it.", **{f"scalar_bounds[{scalar!r}]": bound})


def noised(wire: fl.Wire, mechanism: Mechanism, bounds: fl.Bounds) -> fl.Wire:
    """The wire that a mechanism leaves behind: its bounds, its noise, and leaves of at least 32 bits."""
    wide = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, _wide(leaf.dtype))  # noqa: E731
    return wire._replace(
        value=jax.tree.map(wide, wire.value),
        bounds=bounds,
        noised=True,
        mechanisms=(*wire.mechanisms, mechanism),
    )
