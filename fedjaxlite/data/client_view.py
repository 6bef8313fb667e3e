"""A client's view of its own examples: batches of any size, any number of times, in lanes of ragged clients."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.changed_batches import Change, one_after_the_other
from fedjaxlite.data.local_loop import run_steps
from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared.pieces import piece_of
from fedjaxlite.data.prepared.whole import counted
from fedjaxlite.platforms import default_platform, platform_of
from fedjaxlite.shuffle import shuffled, unrolling

PyTree = Any
Step = Callable[[PyTree, dict[str, jax.Array], jax.Array, jax.Array], PyTree]
# Fixed fold_ins of a client's key: what one purpose draws never depends on what another does.
SHUFFLE, LOCAL, ENCODE, CHANGE = 0, 1, 2, 3


class Wave(NamedTuple):
    """What the lanes that run side by side have in common; the same for all of them, so not batched by `vmap`.

    Attributes:
      ids: int32 `[L]`, the clients in the lanes.
      num_examples: int32 `[L]`, their sizes; 0 for an empty lane.
      work: float32 `[L]`, the share of its local steps that each client gets done.
      max_size: static, the examples of the population's largest client.
      max_steps: a static bound on local steps, or None for loops of dynamic length.
      platform: static, that of the devices that the lanes run on ("cpu", "gpu", "tpu" ...), which need not be those
        that JAX takes by default; None where it is not known.
      mean_size: static, the examples of a client of the population in the mean, at least 1.
      taken_apart: static, whether the client's program is traced to be taken apart at its loop; `ids`, `num_examples`
        and `work` are then this client's own in all lanes.
    """

    ids: jax.Array
    num_examples: jax.Array
    work: jax.Array
    max_size: int
    max_steps: int | None = None
    platform: str | None = None
    mean_size: int = 1
    taken_apart: bool = False

    @property
    def num_lanes(self) -> int:
        """L: an int, static."""
        return self.ids.shape[0]


def mean_size(population: Population) -> int:
    """Examples of a client in the mean, as far as shapes tell: at least 1, at most those of the largest."""
    rows, num_clients = counted(population)
    return max(1, min(population.max_size, round(rows / max(num_clients, 1))))


@dataclass(frozen=True)
class ClientData:
    """One client's examples, as `Algorithm.client_update` receives them.

    Attributes:
      features: dict of the whole population's packed arrays `[n_total, ...]`.
      offset: int32 scalar, this client's first row.
      num_examples: int32 scalar, how many rows it has.
      id: int32 scalar, the client's index in the population.
      work: float32 scalar in (0, 1], the share of its local steps that it gets done.
      key: the client's key of this round.
      wave: what its lanes share.
      noise: a key for noise that protects the client's examples, a function of the run's noise key, the round and the
        id; None outside of a run.
      change: what is done to every batch as it is drawn, or None; see `with_change`.
    """

    features: Mapping[str, jax.Array]
    offset: jax.Array
    num_examples: jax.Array
    id: jax.Array
    work: jax.Array
    key: jax.Array
    wave: Wave
    noise: jax.Array | None = None
    change: Change | None = None

    def batches(
        self, *, batch_size: int, epochs: Any = None, steps: Any = None, shuffle: bool = True, stream: int = 0
    ) -> "Batches":
        """The client's examples in batches, for a number of epochs or of steps.

        Every epoch uses each example once; the last batch of an epoch may be partial and is kept. A new order is
        drawn each epoch. It does not depend on padding, lanes, or the other clients.

        Args:
          batch_size: B, a static int.
          epochs: passes over the data, an int; or
          steps: number of batches, an int. Exactly one of the two; either may be traced if it is the same for all
            clients. A straggler (`work` below 1) stops after `ceil(work * steps)`, at least one.
          shuffle: False keeps the stored order, as it is kept where one batch holds the largest client.
          stream: another int gives other orders for a second pass in the same client update.

        Raises:
          TypeError, ValueError: for a batch size below 1, or unless exactly one of `epochs` and `steps` is given.
        """
        batch_size = checks.positive_int(batch_size=batch_size, remedy="Full batches are `local_sgd(batch_size=None)`.")
        if (epochs is None) == (steps is None):
            raise ValueError(
                f"`epochs` is {epochs!r} and `steps` is {steps!r}; expected exactly one of them: epochs for passes "
                "over the client's data, steps for a fixed number of batches."
            )
        epochs, steps = checks.trip_count(epochs=epochs, steps=steps)
        shuffle, stream = checks.flag(shuffle=shuffle), checks.nonnegative_int(stream=stream)
        return Batches(self, batch_size, epochs, steps, shuffle, stream)

    def of(self, population: Population) -> "ClientData":
        """The same client's examples in another population with the same clients, such as its own test set.

        What changes batches of this view does not change those of the other: nobody augments a test set.
        """
        population = jax.tree.map(jnp.asarray, population)  # it may lie on the host still

        def sizes(ids: jax.Array) -> tuple[jax.Array, jax.Array]:
            offsets = population.offsets[ids]
            return offsets, population.offsets[ids + 1] - offsets

        offset, num_examples = sizes(self.id)
        sizes_of_all = {"max_size": population.max_size, "mean_size": mean_size(population)}
        wave = self.wave._replace(num_examples=sizes(self.wave.ids)[1], **sizes_of_all)
        features = population.features
        return replace(self, features=features, offset=offset, num_examples=num_examples, wave=wave, change=None)

    def with_work(self, work: Any) -> "ClientData":
        """The same view with another share of local steps, for all lanes alike: `with_work(1.0)` ignores stragglers."""
        everyone = jnp.full(self.wave.work.shape, work, jnp.float32)
        return replace(self, work=jnp.asarray(work, jnp.float32), wave=self.wave._replace(work=everyone))

    def with_change(self, change: Change) -> "ClientData":
        """The same view, every batch of which goes through a function as it is drawn: augmentation, or poison.

        No array of the population changes, and whatever computes on batches (local steps, full gradients) sees them
        changed. A program without a change is what it would be if there were none.

        Args:
          change: `change(batch, examples, key) -> batch`; `batch` is a dict of `[B, ...]` without the mask, `examples`
            int32 `[B]` says which of the client's examples its rows are, from 0 on, and `key` is a fixed function of
            the client's key, the batches' stream and the step. It returns the same names with as many rows. Of two
            changes the one that was asked for first comes first: it is nearer to the data.

        Raises:
          TypeError: if `change` cannot be called so. When a batch is drawn, TypeError and ValueError for other names or
            another number of rows.

        Example:
          >>> import jax, numpy as np, fedjaxlite as fl
          >>> people = fl.Population.from_arrays({"x": np.float32([1, 3, 10])}, client_ids=[0, 0, 1])
          >>> data = client_view(people, 0, key=jax.random.key(0))
          >>> double = data.with_change(lambda batch, examples, key: {"x": 2 * batch["x"]})
          >>> double.batches(batch_size=2, epochs=1, shuffle=False).batch(0)[0]["x"].tolist()
          [2.0, 6.0]
        """
        checks.is_function_of("batch", "examples", "key", change=change)
        return replace(self, change=one_after_the_other(self.change, change))


def client_view(population: Population, client: Any, *, key: jax.Array) -> ClientData:
    """One client's view of its own examples, alone in its wave: to call an algorithm's functions by hand.

    Args:
      population: N clients.
      client: the client's index, an int or int32 `[]` in [0, N); may be traced.
      key: the client's key of a round. A run's is `fold_in(fold_in(state.keys.client, round), client)`.

    Returns:
      a ClientData, what `Algorithm.client_update` gets.

    Raises:
      IndexError: for a client that is none of the population.

    Example:
      >>> import jax, numpy as np, fedjaxlite as fl
      >>> people = fl.Population.from_arrays({"x": np.float32([1, 3, 10])}, client_ids=[0, 0, 1])
      >>> data = client_view(people, 0, key=jax.random.key(0))
      >>> add = lambda total, batch, mask, key: total + jax.numpy.where(mask, batch["x"], 0.0).sum()
      >>> float(data.batches(batch_size=2, epochs=1).scan(add, jax.numpy.float32(0)))
      4.0
    """
    checks.one_instance(Population, "a Population", population=population)
    checks.is_key(key=key)
    if not checks.is_traced(client):
        integer = isinstance(client, jax.Array) and client.ndim == 0 and jnp.issubdtype(client.dtype, jnp.integer)
        plain = client.item() if integer else client
        if isinstance(plain, (bool, np.bool_)) or not isinstance(plain, (int, np.integer)):
            raise TypeError(
                f"`client` is {checks.shown(client)}; expected an int from 0 to {population.num_clients - 1}."
            )
        if not 0 <= plain < population.num_clients:
            raise IndexError(f"`client` is {client}; expected 0 to {population.num_clients - 1}.")
    elif jnp.shape(client) != () or not jnp.issubdtype(client.dtype, jnp.integer):
        raise TypeError(f"`client` is {client!r}; expected one int32.")
    client = jnp.asarray(client, jnp.int32)
    if population.on_disk:
        checks.concrete("Its rows are read from the disk, outside of jit.", client=client)
        population = piece_of(population, np.asarray(client)[None])
    offsets = jnp.asarray(population.offsets)
    size, work = offsets[client + 1] - offsets[client], jnp.float32(1)
    wave = Wave(client[None], size[None], work[None], population.max_size, platform=platform_of(population))
    features = {name: jnp.asarray(array) for name, array in population.features.items()}
    return ClientData(features, offsets[client], size, client, work, key, wave)


@dataclass(frozen=True)
class Batches:
    """A plan of batches over one client's data; `scan` runs it, as often as you like."""

    data: ClientData
    batch_size: int
    epochs: Any
    steps: Any
    shuffle: bool
    stream: int

    @property
    def num_steps(self) -> jax.Array:
        """int32 scalar, how many steps this client takes; 0 without examples."""
        return self._count(self.data.num_examples, self.data.work)

    @property
    def steps_per_epoch(self) -> jax.Array:
        """int32 scalar, the batches in one epoch, the partial last one included; at least 1."""
        return jnp.maximum(_batches_of(self.data.num_examples, self.batch_size), 1)

    def batch(self, step: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        """The batch of a step and its mask `[B]`, True for real examples.

        Slots beyond the client's last example repeat its first ones: they are real rows, so that nothing that is
        computed on them can be infinite where the client's own examples are not, and they are masked in every loss.
        """
        rows, mask = self._places(step, self._seed())
        batch = self._read(rows, self.data.features)
        key = self._change_key()
        if key is not None:
            batch = self._changed(batch, rows, jax.random.fold_in(key, jnp.asarray(step, jnp.int32)))
        return {**batch, "mask": mask}, mask

    def _seed(self) -> jax.Array | None:
        """What the orders follow from, uint32 `[2]`; None where every batch is all of a client's examples."""
        if not self.shuffle or self.data.wave.max_size <= self.batch_size:
            return None
        key = jax.random.fold_in(jax.random.fold_in(self.data.key, SHUFFLE), self.stream)
        return jax.random.bits(key, (2,), jnp.uint32)

    def _change_key(self) -> jax.Array | None:
        """What the keys of the batches' change follow from; None where nothing changes them."""
        if self.data.change is None:
            return None
        return jax.random.fold_in(jax.random.fold_in(self.data.key, CHANGE), self.stream)

    def _changed(self, batch: dict[str, jax.Array], rows: jax.Array, key: jax.Array | None) -> dict[str, jax.Array]:
        if self.data.change is None or key is None:
            return batch
        return dict(self.data.change(batch, rows - self.data.offset, key))

    def _places(self, step: jax.Array, seed: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """The rows of a step's batch in the packed features, int32 `[B]`, and its mask."""
        data, size = self.data, self.batch_size
        n = jnp.maximum(jnp.asarray(data.num_examples, jnp.int32), 1)
        step, steps_per_epoch = jnp.asarray(step, jnp.int32), self.steps_per_epoch
        # Here and below `div` and `rem`: `//` and `%` would be ten operations each, for signs that cannot occur.
        epoch, position = jax.lax.div(step, steps_per_epoch), jax.lax.rem(step, steps_per_epoch)
        place = position * size + jnp.arange(size, dtype=jnp.int32)
        mask = (place < data.num_examples) & (step < self.num_steps)
        place = jnp.where(place < n, place, jax.lax.rem(place, jnp.broadcast_to(n, place.shape)))
        if seed is not None:
            unroll = unrolling(data.wave.platform or default_platform())
            place = shuffled(seed, epoch, place, n, unroll=unroll)
        return data.offset + place, mask

    def _read(self, rows: jax.Array, names: Iterable[str]) -> dict[str, jax.Array]:
        data = self.data
        read = lambda feature: feature.at[rows].get(mode="clip", wrap_negative_indices=False)  # noqa: E731
        batch = {name: read(data.features[name]) for name in names}
        if data.wave.max_steps is not None:
            # Where loops are static a client without examples runs too, on rows that may hold anything.
            batch = jax.tree.map(lambda leaf: jnp.where(data.num_examples > 0, leaf, jnp.zeros_like(leaf)), batch)
        return batch

    def scan(
        self, step: Callable[[PyTree, dict[str, jax.Array], jax.Array, jax.Array], PyTree], carry: PyTree
    ) -> PyTree:
        """Runs `carry = step(carry, batch, mask, key)` over the batches and returns the last carry.

        A step of pure padding (a lane whose client is done while another goes on) leaves the whole carry untouched,
        optimizer counters too. The number of trips is one scalar for all lanes.

        Args:
          step: gets the carry, the batch (dict of `[B, ...]`, and `mask` among them), the mask `[B]`, and a key that
            is a fixed function of the client's key and the step; returns a carry of the same structure and dtypes.
          carry: pytree of arrays.

        Returns:
          the last carry; the initial one for a client without examples.
        """
        key = jax.random.fold_in(jax.random.fold_in(self.data.key, LOCAL), self.stream)

        seed, to_change = self._seed(), self._change_key()
        # Labels and the like, one entry a row, are read ahead too.
        ahead = [name for name, feature in self.data.features.items() if feature.ndim == 1]
        behind = [name for name in self.data.features if name not in ahead]

        def draw(index: jax.Array) -> tuple[Any, ...]:
            rows, mask = self._places(index, seed)
            changing = None if to_change is None else jax.random.fold_in(to_change, index)
            return rows, mask, self._read(rows, ahead), jax.random.fold_in(key, index), changing

        def body(_: jax.Array, drawn: tuple[Any, ...], carry: PyTree) -> PyTree:
            rows, mask, read, own, changing = drawn
            batch = {**self._read(rows, behind), **read}
            batch = self._changed({name: batch[name] for name in self.data.features}, rows, changing)
            return step(carry, {**batch, "mask": mask}, mask, own)

        return run_steps(self.data, self._count, draw, body, carry)

    def _count(self, num_examples: Any, work: Any) -> jax.Array:
        total = self.steps if self.epochs is None else self.epochs * _batches_of(num_examples, self.batch_size)
        return _share(total, num_examples, work)


def num_repeats(data: ClientData, steps: Any) -> jax.Array:
    """int32 scalar, how often `repeat(data, steps, ...)` runs its body for this client."""
    return _share(steps, data.num_examples, data.work)


def _batches_of(num_examples: Any, batch_size: int) -> jax.Array:
    rounded_up = jnp.asarray(num_examples, jnp.int32) + (batch_size - 1)
    return jax.lax.div(rounded_up, jnp.full_like(rounded_up, batch_size))


def repeat(data: ClientData, steps: Any, body: Callable[[jax.Array, PyTree], PyTree], carry: PyTree) -> PyTree:
    """Runs `carry = body(index, carry)` `steps` times, fewer for a straggler and not at all without examples.

    Args:
      data: the client's view.
      steps: int, or an int32 scalar that is the same for all clients.
      body: gets the step's index and the carry.
      carry: pytree of arrays.

    Returns:
      the last carry.
    """
    checks.one_instance(ClientData, "a client's view, such as fl.client_view(population, 0, key=...)", data=data)
    checks.is_function_of("index", "carry", body=body)
    steps = checks.trip_count(steps=steps)
    if steps is None:
        raise TypeError("`steps` is None; expected an int of at least 1.")
    checks.numeric_leaves("carry", carry, keys=True)
    count = lambda num_examples, work: _share(steps, num_examples, work)  # noqa: E731
    return run_steps(data, count, lambda index: (), lambda index, _, carry: body(index, carry), carry)


def _share(total: Any, num_examples: Any, work: Any) -> jax.Array:
    total = jnp.asarray(total, jnp.int32)
    # 1e-4 of slack: a float32 product such as 0.2 * 5 must not round up to one step more.
    partial = jnp.ceil(work * total.astype(jnp.float32) - 1e-4).astype(jnp.int32)
    count = jnp.where(work < 1, jnp.maximum(partial, 1), total)
    return jnp.where(num_examples > 0, count, 0)
