"""A client's half of a round, as the one function that is exported."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.data.client_view import ENCODE, ClientData, Wave, mean_size
from fedjaxlite.deploy.program.leaves import as_words, leaves_of, unflattened, wrapped
from fedjaxlite.deploy.program.template import Template, download_specs, sent, undownloaded
from fedjaxlite.wire.aggregator import ClientInfo


def client_half(template: Template) -> Callable[..., tuple[Any, ...]]:
    """What a client computes in a round, on flat lists of plain arrays: the function that is exported.

    Called with (*download, *state, *features in the order of their names, num_examples int32, key uint32 `[2]`,
    client int32, noise uint32 `[2]`); returns (*message, *state, finite bool, *info float32). A masked message is one
    uint32 vector of all that is summed.
    """
    num_down, num_state = len(download_specs(template)), len(leaves_of(template.state))
    num_features = len(template.population.features)

    def half(*flat: Any) -> tuple[Any, ...]:
        down, rest = flat[:num_down], flat[num_down:]
        state, rest = unflattened(template.state, rest[:num_state]), rest[num_state:]
        features, (num_examples, key, client, noise) = rest[:num_features], rest[num_features:]
        shared, opened = undownloaded(template, down)
        view = client_data(*(template, features, num_examples), client=client, key=wrapped(key), noise=wrapped(noise))
        output = template.program.client(view, (shared, state.algorithm))
        encoding = jax.random.fold_in(view.key, ENCODE)
        known = ClientInfo(view.id, jnp.float32(1), encoding, jnp.bool_(True), jnp.int32(0), view.noise)
        message, new, finite, _ = sent(template, opened, output, state.codec, known)
        new = jax.tree.map(lambda now, old: jnp.where(finite, now, old), new, state)
        words = (as_words(message),) if template.masked else tuple(leaves_of(message))
        info = tuple(jnp.asarray(output.info[name], jnp.float32) for name in info_names(template))
        return (*words, *leaves_of(new), finite, *info)

    return half


def info_names(template: Template) -> list[str]:
    """The names of what a client measures of its own training, one number each: it stays on the device."""
    return sorted(name for name, leaf in template.found.output.info.items() if leaf.shape == ())


def client_data(
    template: Template, features: Sequence[Any], num_examples: Any, *, client: Any, key: jax.Array, noise: Any
) -> ClientData:
    """A client's view of a buffer of `capacity` examples, of which the first `num_examples` are its own.

    Args:
      template: of the run.
      features: arrays `[capacity, ...]`, in the order of their sorted names.
      num_examples: int32 scalar.
      client: int32 scalar, the client's number.
      key: of this client in this round.
      noise: its key for noise; its own.
    """
    names = sorted(template.population.features)
    size, work = jnp.asarray(num_examples, jnp.int32), jnp.float32(1)
    client = jnp.asarray(client, jnp.int32)
    wave = Wave(client[None], size[None], work[None], template.capacity, mean_size=mean_size(template.population))
    own = dict(zip(names, features, strict=True))
    return ClientData(own, jnp.int32(0), size, client, work, key, wave, noise)
