"""A server from the rounds that were simulated."""

from collections.abc import Callable, Mapping
from typing import Any

from fedjaxlite import checks
from fedjaxlite.data.population import Population
from fedjaxlite.deploy.program.comparing import unlike
from fedjaxlite.deploy.program.leaves import leaves_of
from fedjaxlite.deploy.program.template import DataSpec, Template, refuse, template_of
from fedjaxlite.deploy.server import masked
from fedjaxlite.deploy.server.halves import first_state, halves_of
from fedjaxlite.deploy.server.moving import payload_of
from fedjaxlite.deploy.server.settings import ServerSettings, checked
from fedjaxlite.deploy.server.state import Payload, ServerHalf
from fedjaxlite.execution.bytes_sent import traffic_on
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.composition import rounds as composed
from fedjaxlite.sampling import Accounting, Sampler

PyTree = Any
_DRAWN = ("without_replacement", "full", "availability")
_NOTHING = Payload("0" * 64, 0, ())


def Server(
    rounds: Rounds,
    params: PyTree,
    data: Population | DataSpec,
    *,
    program: Any = None,
    key: Any,
    noise_key: Any = None,
    cohort_key: Any = None,
    num_rounds: int,
    settings: ServerSettings = ServerSettings(),  # noqa: B008  (a NamedTuple of numbers)
    known: Mapping[int, bytes] | None = None,
    capacity: int | None = None,
) -> ServerHalf:
    """The server's half of simulated rounds: a pure state machine for clients in other processes.

    `answer(server, state, client, message, now)` and `tick(server, state, now)` are its two functions. The transport,
    the disk and the clock are outside: `fl.deploy.serve` joins them.

    Args:
      rounds: what was simulated, with fl.sampling.uniform(K) or fl.sampling.full(N).
      params: the model that the run begins with.
      data: a Population like the clients' data, or a DataSpec; values do not matter.
      program: the `ClientProgram` of the same rounds, which clients fetch; None where they have it. A run that goes on
        takes the one that it began with, `fl.deploy.load_program` of its file: another version of JAX or of this
        library would make another hash of it, and devices hold a server to the one that they agreed to.
      key: of the run, as in `rounds.init`.
      noise_key: likewise; None takes one from the operating system.
      cohort_key: likewise.
      num_rounds: rounds until the run is finished.
      settings: how many, how long, and who.
      known: {client: Ed25519 public key}, for a masked run whose server may lie.
      capacity: the most examples of a client; None takes the program's, or else that of `data`.

    Returns:
      ServerHalf.

    Raises:
      TypeError, ValueError: for arguments that do not fit each other, and for compositions that cannot be deployed.

    Guarantees:
      Its run is `rounds.step` from the same keys with the cohorts that came about: bit for bit where messages are
      integers, and up to the order of a sum of floats else. Whoever is drawn is drawn uniformly from those that have
      checked in, which is nobody's uniform draw from the population: no accountant is told of amplification.
      `fl.privacy.report(server.rounds, num_clients, num_rounds=state.number, delta=..., state=state.rounds)` is the
      report of a run.

    Source: Bonawitz et al. (2019), "Towards Federated Learning at Scale: System Design",
      https://arxiv.org/abs/1902.01046, for check-ins, over-selection and deadlines.

    Example:
      >>> import fedjaxlite as fl, jax, jax.numpy as jnp, numpy as np, optax
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> method = fl.algorithms.fed_avg(loss, client_optimizer=optax.sgd(1.0), batch_size=None, epochs=1)
      >>> run = fl.rounds(method, sampler=fl.sampling.uniform(2), aggregator=fl.mean())
      >>> spec = DataSpec({"x": jax.ShapeDtypeStruct((), np.float32)}, num_clients=9, capacity=4)
      >>> server = Server(run, jnp.float32(0), spec, key=jax.random.key(0), num_rounds=10)
      >>> server.numbers.selected, server.template.program.sampler.accounting.kind
      (2, 'availability')
    """
    checks.one_instance(Rounds, "what fl.rounds(...) returned", rounds=rounds)
    num_rounds = checks.positive_int(num_rounds=num_rounds)
    refuse(rounds)  # before its sampler has another name
    sampler = _among_those_present(rounds.sampler)
    rounds = composed(rounds.algorithm, sampler=sampler, aggregator=rounds.aggregator, execution=rounds.execution)
    if program is not None and not isinstance(getattr(program, "manifest", None), Mapping):
        raise TypeError(f"`program` is {checks.shown(program)}; expected what client_program(...) returned, or None.")
    manifest = None if program is None else program.manifest
    if capacity is None and manifest is not None:
        capacity = manifest["capacity"]
    template = template_of(rounds, params, data, capacity=capacity)
    num_clients = template.population.num_clients
    numbers = checked(
        settings, capacity=template.program.sampler.capacity, num_clients=num_clients, masked=template.masked
    )
    leaves = leaves_of(template.message)
    specs = tuple({"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for leaf in leaves)
    if manifest is not None:
        _check_program(template, manifest)
    if settings.evaluate_every is not None and manifest is not None and manifest["evaluation"] is None:
        raise ValueError(
            "`evaluate_every` asks clients for metrics, and the program has no evaluation. Make it with "
            "client_program(..., evaluate=loss), or leave `evaluate_every` out."
        )
    secure = _secure(template, manifest, settings, known)
    if secure is not None and numbers.min_waiting < max(secure.threshold, secure.min_survivors):
        raise ValueError(
            f"`min_waiting` of the ServerSettings is {numbers.min_waiting}, and a secure sum is of "
            f"{max(secure.threshold, secure.min_survivors)} clients at least: one of {numbers.min_waiting} is never "
            "opened."
        )
    return ServerHalf(
        rounds=rounds,
        template=template,
        halves=halves_of(template),
        numbers=numbers,
        num_rounds=num_rounds,
        program=_NOTHING if program is None else payload_of(program.artifact),
        metrics=None if manifest is None or manifest["evaluation"] is None else tuple(manifest["evaluation"]),
        first=first_state(template, params, key=key, noise_key=noise_key, cohort_key=cohort_key),
        traffic=traffic_on(template.wire, template.program.algorithm, params),
        specs=specs,
        upload_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
        secure=secure,
        known=known,
        read=_no_disk,
    )


def reading(server: ServerHalf, read: Callable[[str], bytes]) -> ServerHalf:
    """The server that finds what its effects put on a disk."""
    return server._replace(read=read)


def _among_those_present(sampler: Sampler) -> Sampler:
    """The sampler as an accountant has to see it: its clients are drawn from those that have checked in."""
    if sampler.accounting.kind not in _DRAWN:
        raise ValueError(
            f"{sampler.name} decides who is drawn from the whole population, and a server draws from those that have "
            "checked in. Take fl.sampling.uniform(K) or fl.sampling.full(N)."
        )
    accounting = Accounting(
        "availability",
        cohort_size=sampler.capacity,
        note="Drawn uniformly among the devices that had checked in; no amplification is claimed.",
    )
    return sampler._replace(accounting=accounting, name=f"checked_in({sampler.capacity})", check=lambda num: None)


def _check_program(template: Template, manifest: Mapping[str, Any]) -> None:
    for name, given, own in unlike(manifest, template):
        raise ValueError(
            f"`program` is of other rounds: its {name} is {checks.shown(given)}, and that of these rounds "
            f"{checks.shown(own)}. Make it by client_program(rounds, params, data) from the same arguments; or, to go "
            "on with a program that devices have agreed to, give the rounds, the model and the data that it is of."
        )


def _secure(template: Template, manifest: Any, settings: ServerSettings, known: Any) -> Any:
    """The parameters of a masked run's sums: those that its clients hold the server to."""
    if not template.masked:
        return None
    from fedjaxlite.privacy import secagg

    told = masked.arguments_of(template, server=settings.server) if manifest is None else manifest["secure_sum"]
    parameters = secagg.parameters(**told)
    if parameters.server != settings.server:
        raise ValueError(
            f"`server` of the ServerSettings is {settings.server!r}, and clients hold the server to their program's "
            f"{parameters.server!r}. Give both the same."
        )
    if parameters.server == "lying" and known is None:
        raise ValueError("`known` is missing; expected {client: Ed25519 public key}, since keys are signed.")
    return parameters


def _no_disk(path: str) -> bytes:
    raise FileNotFoundError(path)
