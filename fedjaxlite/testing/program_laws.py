"""Laws of the program: jit, many rounds a dispatch, resuming, `vmap` over runs, derivatives through a round."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.testing.cases import REFERENCE, Case, describe
from fedjaxlite.testing.compare import assert_close

PyTree = Any


def check_jit(case: Case) -> None:
    """Law 6: a round without `jit` gives what it gives with it, to the case's tolerance.

    Raises:
      AssertionError: naming leaf and the largest difference.
    """
    run, plain = case.rounds(REFERENCE), case.rounds(REFERENCE._replace(jit=False))
    want, _ = run.step(case.start(run), case.population)
    got, _ = plain.step(case.start(plain), case.population)
    what = "law 6 (jit): one round without jit against one with it"
    assert_close(case.visible(got), case.visible(want), what=what, tolerance=case.tolerance)


def check_steps(case: Case) -> None:
    """Law 6: `steps(R)` equals R times `step`, state and infos, in the last of the case's layouts.

    Raises:
      AssertionError: naming leaf and the largest difference.
    """
    layout = _last_layout(case)
    run, want = case.rounds(layout), case.play(layout)
    state, infos = run.steps(case.start(run), case.population, case.num_rounds)
    what = f"law 6 (steps): steps({case.num_rounds}) against {case.num_rounds} times step, {describe(layout)}"
    assert_close(state, want.state, what=what, tolerance=case.tolerance)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *want.infos)
    assert_close(infos, stacked, what=f"{what}, infos", tolerance=case.tolerance)


def check_resume(case: Case) -> None:
    """Law 3, in memory: a run whose state goes through numpy after every round ends bit-identical.

    Raises:
      AssertionError: naming leaf and the largest difference.
    """
    for layout in {REFERENCE, _last_layout(case)}:
        run, want = case.rounds(layout), case.play(layout)
        state = case.start(run)
        for _ in range(case.num_rounds):
            state, _ = run.step(through_numpy(state), case.population)
        what = f"law 3 (resume): the state through numpy after each of {case.num_rounds} rounds, {describe(layout)}"
        assert_close(state, want.state, what=what)


def check_vmap(case: Case) -> None:
    """Law 6: a round vmapped over runs with other seeds gives what each of the runs gives alone.

    Raises:
      AssertionError: naming leaf and the largest difference.
    """
    run = case.rounds(REFERENCE)
    seeds = jnp.arange(2, dtype=jnp.int32)

    def one(seed: Any) -> Any:
        return case.visible(run.step(case.start(run, seed), case.population)[0])

    together = jax.jit(jax.vmap(one))(seeds)
    for i in range(2):
        got = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        what = f"law 6 (vmap): run {i} of 2 seeds vmapped, against the run alone"
        assert_close(got, one(i), what=what, tolerance=case.tolerance)


def check_derivatives(case: Case, *, rtol: float = 1e-3) -> None:
    """Law 6: a round is differentiable with respect to the initial parameters, and both modes agree.

    The forward derivative along v, paired with u, must equal the reverse derivative of u paired with v. Reverse mode
    runs under a static bound on local steps (`Execution(max_steps=)`).

    Args:
      case: what is tested.
      rtol: allowed difference, relative to the products of the norms that enter.

    Raises:
      AssertionError: with both numbers.
    """
    bounded = REFERENCE._replace(max_steps=2**20)
    floats, rebuild = _float_leaves(case.params)
    v, u = _normal_like(floats, 0), _normal_like(floats, 1)
    dot = partial(jnp.vdot, precision="highest")  # they pair what was computed, at whatever precision that was

    def after(execution: fl.Execution) -> Callable[[list[jax.Array]], jax.Array]:
        run = case.rounds(execution)

        def paired(leaves: list[jax.Array]) -> jax.Array:
            key = jax.random.key(0)
            state = run.init(rebuild(leaves), case.population, key=key, noise_key=key)
            new, _ = _float_leaves(run.params(run.step(state, case.population)[0]))
            return sum((dot(a, b) for a, b in zip(new, u, strict=True)), jnp.float32(0))

        return paired

    _, forward = jax.jit(lambda x: jax.jvp(after(REFERENCE), (x,), (v,)))(floats)
    gradient = jax.jit(jax.grad(after(bounded)))(floats)
    reverse = sum(float(dot(a, b)) for a, b in zip(gradient, v, strict=True))
    size = float(fl.global_norm(gradient) * fl.global_norm(v))
    if not abs(float(forward) - reverse) <= rtol * size + 1e-6:
        raise AssertionError(
            f"law 6 (derivatives): forward mode gives {float(forward)} along a direction, reverse mode {reverse}; they "
            f"differ by {abs(float(forward) - reverse):.3g}, the tolerance is {rtol * size + 1e-6:.3g}."
        )


def _last_layout(case: Case) -> fl.Execution:
    return case.layouts[-1] if case.layouts else REFERENCE


def through_numpy(tree: PyTree) -> PyTree:
    """The same arrays after a stay in numpy, as a checkpoint gives them back, on the devices where they were.

    Args:
      tree: pytree of arrays and random keys.

    Returns:
      a new pytree, equal bit for bit.
    """

    def leaf(x: jax.Array) -> jax.Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = jax.random.key_data(x)
            back = jax.device_put(np.array(data), data.sharding)
            return jax.random.wrap_key_data(back, impl=jax.random.key_impl(x))
        return jax.device_put(np.array(x), x.sharding)

    return jax.tree.map(leaf, tree)


def _float_leaves(tree: PyTree) -> tuple[list[jax.Array], Callable[[list[jax.Array]], PyTree]]:
    """The leaves that can be differentiated, and how to put others in their place."""
    leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, tree))
    which = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def rebuild(new: list[jax.Array]) -> PyTree:
        rest = iter(new)
        return jax.tree.unflatten(treedef, [next(rest) if w else old for w, old in zip(which, leaves, strict=True)])

    return [leaf for leaf, w in zip(leaves, which, strict=True) if w], rebuild


def _normal_like(leaves: list[jax.Array], seed: int) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
