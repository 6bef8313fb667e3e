"""The random streams of a run that begins: what follows from the caller's key, and what has to be a secret."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.execution.layout import Layout, spans_processes
from fedjaxlite.execution.round_state import Keys
from fedjaxlite.keys import NoiseKeys, as_key, entropy_key, is_tracing

# Folded into a key where rounds are folded in otherwise, whose numbers stay below 2^31.
_COHORTS, _NOT_SECRET = 2**32 - 1, 2**32 - 2


def first_keys(
    key: Any, noise_key: Any, cohort_key: Any, *, private: bool, secret: bool, who: str, layout: Layout
) -> Keys:
    """The keys of a run.

    Args:
      key: the run's, which others may know.
      noise_key: of the noise; a key, one of NoiseKeys, or None for one from the operating system.
      cohort_key: of who takes part; likewise, or None. Then it follows from the noise key under a mechanism of privacy,
        since amplification by sampling is worth nothing against who can draw the cohorts again, and from `key` else.
      private: the chain holds a mechanism of privacy.
      secret: something in the round draws noise or masks that have to be secret.
      who: what draws them, for messages.
      layout: devices of several processes get one key from the first of them.

    Raises:
      TypeError: for what is no key. ValueError: no `noise_key` while JAX is tracing, where one has to be secret.
    """
    sample, client, server = jax.random.split(as_key(key, "key"), 3)
    noise, from_system = _noise(sample, noise_key, secret, who, layout)
    secret_cohorts = False
    if cohort_key is not None:
        sample, secret_cohorts = _given(cohort_key, "cohort_key")
    elif private:
        sample, secret_cohorts = jax.random.fold_in(noise, _COHORTS), from_system
    return Keys(sample, client, server, noise, jnp.bool_(from_system), jnp.bool_(secret_cohorts))


def _noise(key: jax.Array, noise_key: Any, secret: bool, who: str, layout: Layout) -> tuple[jax.Array, bool]:
    if noise_key is not None:
        return _given(noise_key, "noise_key")
    if not is_tracing():
        return entropy_key(shared=spans_processes(layout)), True
    if secret:
        raise ValueError(
            f"`init` is called inside of jit, vmap, grad or eval_shape, and {who} draws what has to be secret: a key "
            "from the operating system would be a constant of the traced program, so that all of its runs would have "
            "equal noise, and their difference none. Draw one key a run outside, fl.noise_keys(num_runs); hand it "
            "through, as in jax.vmap(run)(seeds, fl.noise_keys(len(seeds))); and write rounds.init(..., "
            "noise_key=noise_key). (With a key of your own the noise can be repeated, and is not private.)"
        )
    return jax.random.fold_in(key, _NOT_SECRET), False


def _given(key: Any, name: str) -> tuple[jax.Array, bool]:
    """A key that was given, and whether it is known to be a secret."""
    if not isinstance(key, NoiseKeys):
        return as_key(key, name), False
    if jnp.shape(key.key) != ():
        raise TypeError(
            f"`{name}` is NoiseKeys of {len(key)} runs; expected that of one. Map over them (jax.vmap), or take "
            "noise_keys[i] for run i."
        )
    return as_key(key.key, name), True
