"""Random keys as the engine takes them: one kind, whatever kind the caller holds; and secret ones from the system."""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state

from fedjaxlite import checks, processes

OF_NO_CLIENT = np.uint32(2**32 - 1)
"""What a round's client key is folded with for what all clients share: no client has this id."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NoiseKeys:
    """Secret keys that `noise_keys` drew, for `rounds.init(noise_key=)`: one for every run, or one of them.

    A pytree of one leaf, so that `jax.vmap` over it gives each run its own. Unlike a plain key it says where it comes
    from: a run that got it is private, and its report says so.

    Attributes:
      key: random keys `[num_runs]`, or `[]` for one run.
    """

    key: Any

    def __len__(self) -> int:
        return self.key.shape[0]

    def __getitem__(self, run: int) -> "NoiseKeys":
        return NoiseKeys(self.key[run])

    def __iter__(self) -> Iterator["NoiseKeys"]:
        return (self[run] for run in range(len(self)))


def noise_keys(num_runs: int) -> NoiseKeys:
    """One secret noise key for each of several runs, from the operating system's entropy.

    Runs that are made inside of `jax.vmap` or `jax.jit` cannot draw a secret each: the transformed program is traced
    once, and what is read from the system while it is traced is a constant of it, the same in every run. Two models
    with equal noise tell their difference without any. So the keys are drawn before, and are an argument:

        jax.jit(jax.vmap(run))(jnp.arange(5), fl.noise_keys(5))     # run(seed, noise_key) -> ...

    Args:
      num_runs: R. With several processes, the first draws and all get the same keys.

    Returns:
      NoiseKeys with a leading axis `[R]`, to be mapped over, indexed or iterated.

    Raises:
      TypeError, ValueError: a number of runs that is no int of at least 1; a call inside of jit, vmap or grad.

    Example:
      >>> keys = noise_keys(3)
      >>> len(keys), keys.key.shape, len({tuple(jax.random.key_data(one.key).tolist()) for one in keys})
      (3, (3,), 3)
    """
    checks.positive_int(num_runs=num_runs)
    if is_tracing():
        raise ValueError(
            "`fl.noise_keys` was called inside of jit, vmap or grad, where the keys that it draws would be constants "
            "of the compiled program. Call it outside, and pass its result as an argument."
        )
    return NoiseKeys(_from_system((int(num_runs),), shared=True))


def entropy_key(*, shared: bool = False) -> jax.Array:
    """A key that nobody can guess, from the operating system's entropy; to be called where JAX is not tracing.

    Args:
      shared: the first process draws and all get the same, so that what they replicate stays so; all have to call.
    """
    return _from_system((), shared=shared)


def _from_system(shape: tuple[int, ...], *, shared: bool) -> jax.Array:
    words = np.frombuffer(secrets.token_bytes(8 * int(np.prod(shape))), np.uint32).reshape((*shape, 2))
    if shared:
        words = processes.agreed_words(words)
    return jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")


def is_random_key(leaf: Any) -> bool:
    """Whether a leaf is an array of JAX's random keys, which NumPy does not take."""
    return jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)


def is_tracing() -> bool:
    """Whether this is the body of a function that JAX is transforming: by jit, vmap, grad, eval_shape, scan ..."""
    return get_opaque_trace_state() != _outside()


@lru_cache(maxsize=1)
def _outside() -> Any:
    # A thread of its own is inside of nothing, wherever this is asked first.
    with ThreadPoolExecutor(1) as fresh:
        return fresh.submit(get_opaque_trace_state).result()


def as_key(key: Any, name: str) -> jax.Array:
    """A scalar threefry key, from a key of any kind or from the raw uint32 data of one; refuses anything else.

    Other generators are not functions of the key alone (rbg draws a batch of keys as one stream), so that what a
    client draws would depend on the lanes beside it. Threefry keys are taken as they are, others are drawn from once.
    """
    checks.is_key(**{name: key})
    if key.dtype == jnp.uint32:
        key = jax.random.wrap_key_data(key, impl="threefry2x32" if key.shape == (2,) else "rbg")
    if str(jax.random.key_impl(key)) == "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.bits(key, (2,), jnp.uint32), impl="threefry2x32")
