"""What both sides of a deployed round agree on, from the same `Rounds`: flat lists of arrays, and their shapes.

A client and a server in two processes exchange lists of plain arrays. Here is said which they are, in which order, and
what of a round belongs to which side; nothing is computed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared.whole import traceable
from fedjaxlite.deploy.program.leaves import leaves_of, shape_of, unflattened
from fedjaxlite.execution.bytes_sent import broadcast
from fedjaxlite.execution.cohort_pass import as_chain
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.halves.client_half import ClientState, Encoded, encoded
from fedjaxlite.execution.lanes.equations import needed, reads
from fedjaxlite.execution.layout import resolve
from fedjaxlite.execution.one_round import Program, Templates, client_of, templates
from fedjaxlite.protocol.algorithm import ClientOutput
from fedjaxlite.sampling import cohort
from fedjaxlite.wire.aggregator import Aggregator, ClientInfo, Message, Wire
from fedjaxlite.wire.chain import chain, multiply
from fedjaxlite.wire.rows import fold_of

PyTree = Any


class DataSpec(NamedTuple):
    """What a server knows of data that it never sees.

    Attributes:
      features: {name: shape and dtype of one example}, as `jax.ShapeDtypeStruct`, a pair of both, or an array like it.
      num_clients: N, how many clients may ever be enrolled.
      capacity: the most examples of one client.
    """

    features: Any
    num_clients: int
    capacity: int


class Template(NamedTuple):
    """What follows from rounds, model and the shapes of data; both sides build it, or read it off a manifest.

    Attributes:
      program: algorithm, sampler, aggregator (the whole chain), layout.
      codecs: the chain that clients encode with: all of it, or what stands before the mask.
      masked: whether a secure sum carries the messages.
      fold: "sum", "stack" or "rows": what the server's half of the chain needs.
      population: of shapes, with N clients of at most `capacity` examples.
      params: shapes of the model.
      shared: shapes of what the algorithm broadcasts.
      opened: shapes of the codecs' state in a round that has begun.
      kept: which leaves of `opened` clients read, by their places.
      state: ClientState of shapes, what one client keeps.
      message: Message of shapes, as a client sends it; what is summed mod 2^32 where it is masked.
      found: what `one_round.templates` found: the output, the wire at the chain's end, whether clients draw noise.
    """

    program: Program
    codecs: Aggregator
    masked: bool
    fold: str
    population: Population
    params: PyTree
    shared: PyTree
    opened: PyTree
    kept: tuple[int, ...]
    state: ClientState
    message: Message
    found: Templates

    @property
    def capacity(self) -> int:
        """The most examples of one client."""
        return self.population.max_size

    @property
    def wire(self) -> Wire:
        """The facts at the end of the whole chain."""
        return self.found.wire

    @property
    def draws_noise(self) -> bool:
        """Whether clients draw noise that protects them, which needs a key that nobody else has."""
        return self.found.client_noise or self.wire.noised


def template_of(
    rounds: Rounds, params: PyTree, data: Population | DataSpec, *, capacity: int | None = None
) -> Template:
    """The template of a composition.

    Args:
      rounds: what was simulated.
      params: the model, or its shapes.
      data: a Population like the clients' data, or a DataSpec; values do not matter.
      capacity: the most examples of one client; None takes those of `data`.

    Raises:
      TypeError, ValueError: for arguments that do not fit, and for compositions that cannot be deployed, with why.
    """
    checks.one_instance(Rounds, "what fl.rounds(...) returned", rounds=rounds)
    population = _population(data, capacity)
    program = Program(
        rounds.algorithm,
        rounds.sampler,
        as_chain(rounds.aggregator),
        resolve(rounds.execution._replace(devices=1, mesh=None, lanes=1), rounds.sampler.capacity),
        client_of(rounds.algorithm),
    )
    refuse(rounds)
    checks.numeric_leaves("params", params, remedy="Give the model's arrays, or their shapes.", keys=True, structs=True)
    params = jax.tree.map(shape_of, params)
    found = templates(program, params, population)
    codecs, masked = unmasked(program.aggregator)
    algorithm = program.algorithm
    shared = jax.eval_shape(lambda p: broadcast(algorithm, algorithm.init(p)), params)
    state = jax.eval_shape(
        lambda p, u: ClientState(algorithm.init_client(p), codecs.init_client(u)), params, found.output.update
    )
    capacity = rounds.sampler.capacity
    nobody = cohort(jnp.zeros((capacity,), jnp.int32), jnp.zeros((capacity,), bool))
    bare = jax.eval_shape(lambda s: of_codecs(s, codecs), found.aggregator_state)
    opened = jax.eval_shape(lambda s, c: codecs.begin(s, c, jax.random.key(0), jax.random.key(0)), bare, nobody)
    fold = "sum" if masked else fold_of(program.aggregator)
    first = Template(
        *(program, codecs, masked, fold, population, params, shared, opened),
        *((), state, Message((), (), {}), found),
    )
    kept, message = _read_and_sent(first)
    return first._replace(kept=kept, message=message)


def unmasked(aggregator: Aggregator) -> tuple[Aggregator, bool]:
    """The part of a chain before its masks, and whether it has any: the masks are the secure sum's own then."""
    before = [codec for codec in aggregator.parts if codec.role != "mask"]
    masked = len(before) < len(aggregator.parts)
    return (chain(*before), True) if masked else (aggregator, False)


def of_codecs(states: Any, codecs: Aggregator) -> Any:
    """Of the states of a whole chain those of the codecs before its masks."""
    return tuple(states[: len(codecs.parts)])


def download_specs(template: Template) -> list[jax.ShapeDtypeStruct]:
    """Shapes and dtypes of what a client downloads: the broadcast, then what the codecs need."""
    codecs = leaves_of(template.opened)
    return [*leaves_of(template.shared), *(codecs[place] for place in template.kept)]


def download(template: Template, shared: PyTree, opened: PyTree) -> list[Any]:
    """What a client downloads, as plain arrays."""
    codecs = leaves_of(opened)
    return [*leaves_of(shared), *(codecs[place] for place in template.kept)]


def undownloaded(template: Template, down: Sequence[Any]) -> tuple[PyTree, PyTree]:
    """The broadcast, and the codecs' state, of which what clients do not read is zero."""
    number = len(jax.tree.leaves(template.shared))
    codecs = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in leaves_of(template.opened)]
    for place, leaf in zip(template.kept, down[number:], strict=True):
        codecs[place] = leaf
    return unflattened(template.shared, down[:number]), unflattened(template.opened, codecs)


def sent(template: Template, opened: Any, output: ClientOutput, codec_state: Any, client: ClientInfo) -> Encoded:
    """A client's output as it is sent: of a masked run the summand, before any mask.

    Args:
      template: of the run.
      opened: the codecs' state in a round that has begun.
      output: what `client_update` returned.
      codec_state: what the codecs keep at this client.
      client: what codecs may know of it.
    """
    made = encoded(output, template.codecs, opened, codec_state, client)
    return made._replace(message=multiply(made.message)) if template.masked else made


def _read_and_sent(template: Template) -> tuple[tuple[int, ...], Message]:
    """Which leaves of the codecs' state a client's message rests on, and the shapes of the message."""
    output, opened = template.found.output, template.opened
    tree = jax.tree.structure(opened)

    def encode(opened: list[Any], output: ClientOutput, codec: Any, key: Any) -> Any:
        known = ClientInfo(jnp.int32(0), jnp.float32(1), key, jnp.bool_(True), jnp.int32(0), key)
        made = sent(template, tree.unflatten(opened), output, codec, known)
        return made.message, made.state

    leaves = jax.tree.leaves(opened)
    args = (leaves, output, template.state.codec, jax.random.key(0))
    program, shapes = jax.make_jaxpr(encode, return_shape=True)(*args)
    equations, asked = program.jaxpr.eqns, program.jaxpr.outvars
    used = reads(needed(equations, asked), asked)
    kept = tuple(i for i, variable in enumerate(program.jaxpr.invars[: len(leaves)]) if variable in used)
    return kept, shapes[0]


def _population(data: Population | DataSpec, capacity: int | None) -> Population:
    """A Population of shapes."""
    if isinstance(data, DataSpec):
        num_clients = checks.positive_int(num_clients=data.num_clients)
        most = checks.positive_int(capacity=data.capacity)
        nested = isinstance(data.features, dict) and any(isinstance(one, dict) for one in data.features.values())
        if not isinstance(data.features, dict) or not data.features or nested:
            raise TypeError(
                f"`features` of the DataSpec is {checks.shown(data.features)}; expected a dict of the shape and dtype "
                "of one example of each feature, such as {'x': jax.ShapeDtypeStruct((64,), np.float32)}."
            )
        one = {name: _struct(name, leaf) for name, leaf in data.features.items()}
        rows = num_clients * most
    else:
        checks.one_instance(Population, "a Population, or an fl.deploy.DataSpec", data=data)
        whole = traceable(data)
        num_clients, most = whole.num_clients, whole.max_size
        rows = next(iter(whole.features.values())).shape[0]
        one = {name: jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for name, a in whole.features.items()}
    most = most if capacity is None else checks.positive_int(capacity=capacity)
    features = {name: jax.ShapeDtypeStruct((rows, *leaf.shape), leaf.dtype) for name, leaf in one.items()}
    offsets = jax.ShapeDtypeStruct((num_clients + 1,), np.dtype(np.int32))
    return Population.tree_unflatten(most, (features, offsets))


def _struct(name: str, one: Any) -> jax.ShapeDtypeStruct:
    """Of one example of a feature; also from a pair of shape and dtype."""
    try:
        return jax.ShapeDtypeStruct(one[0], np.dtype(one[1])) if isinstance(one, tuple) else shape_of(one)
    except (TypeError, ValueError, IndexError) as error:
        raise TypeError(
            f"`features` of the DataSpec has {checks.shown(one)} under {name!r}; expected the shape and dtype of one "
            "example, such as jax.ShapeDtypeStruct((64,), np.float32) or ((64,), np.float32)."
        ) from error


def refuse(rounds: Rounds) -> None:
    """Refuses what cannot be deployed, whichever side asks.

    Raises:
      ValueError: for models that are sharded, and samplers that simulate devices or decide for them.
    """
    if rounds.execution.param_shardings is not None or rounds.execution.mesh is not None:
        raise ValueError(
            "the rounds have a model that is sharded over devices (param_shardings, mesh), and a client trains it on "
            "its own device alone. Compose the rounds without them."
        )
    if rounds.sampler.scaled:
        raise ValueError(
            f"{rounds.sampler.name} weighs clients by their chances, which a server of devices that come and go does "
            "not know. Take fl.sampling.uniform(K) or fl.sampling.full(N)."
        )
    if rounds.sampler.name.endswith("+server"):
        raise ValueError(
            f"{rounds.sampler.name} lets the server take part as one more client with data of its own "
            "(fl.robust.server_client), and only devices take part in a deployment. Compose the rounds with the "
            "sampler alone; a device at the server's side can enroll as any other."
        )
    simulated = [name for name in ("dropout", "stragglers") if f"+{name}" in rounds.sampler.name]
    if simulated:
        raise ValueError(
            f"{rounds.sampler.name} simulates {' and '.join(simulated)}, and devices leave and are late by themselves. "
            "Compose the rounds with the sampler alone, such as fl.sampling.uniform(K)."
        )
    if rounds.sampler.memory is not None:
        raise ValueError(
            f"{rounds.sampler.name} keeps a clock, or learns whom to choose: it is a simulation of devices. In a "
            "deployment devices check in by themselves. Take fl.sampling.uniform(K) or fl.sampling.full(N)."
        )
