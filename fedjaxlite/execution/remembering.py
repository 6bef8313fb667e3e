"""Samplers with a memory inside of rounds: what they are told, the models that they keep, what they learn."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.data.population import Population
from fedjaxlite.execution.bytes_sent import broadcast, traffic_on
from fedjaxlite.execution.cohort_pass import PassInfo
from fedjaxlite.execution.layout import Layout, with_model
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.protocol.algorithm import Algorithm
from fedjaxlite.sampling import Cohort, Memory, Sampler, Seen, Setting
from fedjaxlite.wire.aggregator import Message, Wire
from fedjaxlite.wire.chain import multiply
from fedjaxlite.wire.packing.forms import num_bytes

PyTree = Any


def bytes_told(sampler: Sampler) -> int:
    """What each client sends beside its message, for a sampler that learns from it."""
    return 0 if sampler.memory is None else 4 * len(sampler.memory.reads)


def steps_of(hparams: Mapping[str, Any]) -> Callable[[Any, Any], Any] | None:
    """`steps(num_examples, work) -> int32`, local steps of clients.

    None where the algorithm's hyperparameters do not say: it has no "batch_size" with "epochs" or "steps".
    """
    batch_size, epochs, steps = (hparams.get(name) for name in ("batch_size", "epochs", "steps"))
    if "batch_size" not in hparams or not isinstance(epochs or steps, int):
        return None

    def count(num_examples: Any, work: Any) -> Any:
        sizes = jnp.asarray(num_examples, jnp.int32)
        passes = jnp.ones_like(sizes) if batch_size is None else -(-sizes // batch_size)
        whole = passes * epochs if epochs is not None else jnp.full_like(sizes, steps or 0)
        part = jnp.ceil(jnp.asarray(work, jnp.float32) * whole.astype(jnp.float32) - 1e-4).astype(jnp.int32)
        return jnp.where(sizes > 0, jnp.clip(part, 1, whole), 0)

    return count


def begun(
    sampler: Sampler,
    algorithm: Algorithm,
    wire: Wire,
    layout: Layout,
    state: RoundState,
    population: Population,
    params: PyTree,
) -> RoundState:
    """The state with the first memory of a sampler that has one, and the models that it keeps.

    Args:
      sampler: who takes part.
      algorithm: of the clients.
      wire: the facts at the end of the chain.
      layout: where rounds run.
      state: of a run that begins, or goes on with this sampler.
      population: the data.
      params: the model, or its shapes.

    Raises:
      ValueError: for what cannot be meant: weights by staleness in a sum of integers, choices by what clients tell
        beside noise, versions of a model that is sharded over devices.
    """
    memory = sampler.memory
    if memory is None:
        return state
    _refuse(sampler.name, memory, wire)
    if memory.versions > 1 and algorithm.in_rounds:
        raise ValueError(
            f"{algorithm.name} sends something else from round to round, and {sampler.name} sums messages of clients "
            "that began from models of several rounds. Take a sampler of rounds, such as fl.sampling.uniform(10), or "
            "settings with one kind of message (exchanges=1, fragments=1)."
        )
    if memory.versions > 1 and with_model(layout, params).table:
        raise ValueError(
            f"{sampler.name} keeps {memory.versions} models for clients that are still at work, and the model is "
            "sharded over devices; that is not supported. Leave param_shardings out, or take a synchronous sampler."
        )
    sent, sizes = traffic_on(wire, algorithm, params), population.offsets[1:] - population.offsets[:-1]
    setting = Setting(
        num_clients=population.num_clients,
        num_examples=jnp.asarray(sizes, jnp.int32),
        bytes_up=sent.up,
        bytes_down=sent.down,
        steps=steps_of(algorithm.hparams),
        model_bytes=num_bytes(params),
    )
    first = jax.tree.map(jnp.asarray, memory.init(setting))
    return state._replace(sampler=first, versions=_versions(memory.versions, broadcast(algorithm, state.server_state)))


def _versions(number: int, shared: PyTree) -> PyTree:
    """The models of the past that a run keeps, `[D, ...]`, all of them the first; `()` where the newest is enough."""
    if number == 1:
        return ()
    return jax.tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], number, axis=0), shared)


def _refuse(name: str, memory: Memory, wire: Wire) -> None:
    hidden = "a mask hides single updates from the server" if wire.masked else "updates are summed as integers"
    in_sum = wire.masked or wire.group != "float"
    if in_sum and (memory.discounts or memory.mixes):
        what = "mixes models" if memory.mixes else "weighs updates by their staleness"
        raise ValueError(
            f"{name} {what} once they have arrived, and {hidden}. Take fl.systems.fed_buff with "
            "staleness=fl.systems.staleness.constant(), under which all messages of a buffer weigh alike, or leave the "
            "codec out."
        )
    if memory.reads and (wire.noised or wire.masked):
        why = "noise protects" if wire.noised else "a mask hides"
        raise ValueError(
            f"{name} chooses clients by what they tell of themselves in the clear ({', '.join(memory.reads)}), "
            f"beside messages that {why}: nothing could be said of their privacy, and no amplification by sampling "
            "holds. Take fl.sampling.uniform(...) or fl.sampling.poisson(...)."
        )


def with_newest(sampler: Sampler, versions: PyTree, remembered: PyTree, shared: PyTree) -> PyTree:
    """The models that are kept, with the one that this round made in its place."""
    if sampler.memory is None or sampler.memory.versions == 1:
        return versions
    place = sampler.memory.place(remembered)
    return jax.tree.map(lambda kept, new: kept.at[place].set(new), versions, shared)


def of_slot(versions: PyTree, cohort: Cohort, newest: PyTree) -> Callable[[jax.Array], PyTree]:
    """`shared(slot)`, the model that the client in a slot of the cohort began from."""
    if not jax.tree.leaves(versions) or cohort.version is None:
        return lambda slot: newest

    def shared(slot: jax.Array) -> PyTree:
        at = cohort.version[slot]
        return jax.tree.map(lambda kept: kept.at[at].get(mode="clip", wrap_negative_indices=False), versions)

    return shared


def learned(sampler: Sampler, remembered: PyTree, cohort: Cohort, info: PassInfo) -> tuple[PyTree, PassInfo]:
    """The memory after the round, and what it tells of it."""
    memory = sampler.memory
    if memory is None:
        return remembered, info
    missing = [name for name in memory.reads if name not in info.clients]
    if missing:
        raise ValueError(
            f"{sampler.name} learns from the clients' {checks.shown(missing[0])}, and the algorithm tells "
            f"{sorted(info.clients)}. Name one of these, or give `ClientOutput.info` that one."
        )
    metrics = {name: info.clients[name].astype(jnp.float32) for name in memory.reads}
    seen = Seen(cohort, info.clients["in_sum"], info.clients["num_examples"], metrics)
    new = memory.learn(remembered, seen)
    checks.same_structure(
        new,
        jax.eval_shape(lambda: remembered),
        what=f"the memory that `learn` of {sampler.name} returned",
        than="what its `init` gave",
        remedy="Keep its structure, shapes and dtypes.",
    )
    return new, info._replace(sampler=dict(memory.tell(new)))


def adjusting(
    sampler: Sampler, cohort: Cohort, began_from: Callable[[jax.Array], PyTree], newest: PyTree
) -> Callable[[Message, jax.Array], Message] | None:
    """What a server does to the message in a slot before it adds it; None where that is nothing.

    A server that mixes models compares a client's with the newest one: the update, which is the model that the client
    began from minus its own, gets what the server has moved since. What staleness takes off comes last, and off the
    update alone: the weight counts whole.
    """
    memory = sampler.memory
    if memory is None or not (memory.mixes or cohort.discount is not None):
        return None

    def moved(element: Message, slot: jax.Array) -> Message:
        checks.same_structure(
            element.value,
            newest,
            what=f"the update, which {sampler.name} compares with the newest model,",
            than="what clients download",
            remedy="Mixing needs an algorithm whose clients send a delta of the model, such as fl.algorithms.fed_avg.",
            any_dtype=True,
        )
        since = jax.tree.map(lambda now, then: now - then, newest, began_from(slot))
        whole = multiply(element._replace(value=since, scalars={}, aside=()))
        return element._replace(value=jax.tree.map(lambda a, b: a + b.astype(a.dtype), element.value, whole.value))

    def adjust(element: Message, slot: jax.Array) -> Message:
        element = moved(element, slot) if memory.mixes else element
        if cohort.discount is None:
            return element
        share = cohort.discount[slot]
        return element._replace(value=jax.tree.map(lambda leaf: leaf * share.astype(leaf.dtype), element.value))

    return adjust
