"""A composition's client as one file: built, saved, loaded, called."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.population import Population
from fedjaxlite.deploy.device import program as device
from fedjaxlite.deploy.device.artifact import pack
from fedjaxlite.deploy.program import refusing
from fedjaxlite.deploy.program.client_half import client_half
from fedjaxlite.deploy.program.exporting import export_of_jax, exported, memory_of
from fedjaxlite.deploy.program.leaves import leaves_of, unflattened
from fedjaxlite.deploy.program.manifest import evaluation_shapes, manifest_of, program_shapes, start_of
from fedjaxlite.deploy.program.measure import client_measure
from fedjaxlite.deploy.program.template import DataSpec, Template, template_of
from fedjaxlite.deploy.program.writing import artifact_of
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.keys import as_key
from fedjaxlite.metrics.metric import Metric

PyTree = Any


class Download(NamedTuple):
    """What a client downloads, where the codecs send something beside the model.

    Attributes:
      shared: what the algorithm broadcasts.
      codec: what the codecs send, in the order of the manifest's "download"; or their whole state in a round that has
        begun, of which the program takes what it reads.
    """

    shared: PyTree
    codec: PyTree


class ClientProgram(NamedTuple):
    """A client's half of a round, as a file and as a function.

    Attributes:
      artifact: bytes of the file.
      manifest: what the file says of itself: algorithm, shapes, dtypes, capacity, steps, memory, versions, hashes.
      loaded: the program as a device has it, read back from the file.
      template: how pytrees become its arrays; None for a program from a file, which takes and gives lists of arrays.
    """

    artifact: bytes
    manifest: Mapping[str, Any]
    loaded: device.Program
    template: Template | None = None

    @property
    def sha256(self) -> str:
        """The program's identity, hex: what devices hold it against."""
        return self.loaded.sha256

    def __call__(
        self,
        shared: PyTree,
        client_state: PyTree,
        features: Mapping[str, Any],
        num_examples: int,
        key: Any,
        client: int = 0,
        noise_key: Any = None,
    ) -> tuple[PyTree, PyTree]:
        """One client's work of one round, as a device does it.

        Args:
          shared: what the algorithm broadcasts, or a `Download` where the codecs send something too.
          client_state: what the client keeps, as this returned it; None before its first round.
          features: `{name: [n, ...]}`, n at least `num_examples`; rows beyond are never read.
          num_examples: int, 1 to the capacity.
          key: of this client in this round: a run's is `fold_in(fold_in(state.keys.client, round), client)`.
          client: the client's number.
          noise_key: a key of noise that protects the client; None draws it from the operating system.

        Returns:
          `(message, client_state)`: what the client sends, a Message of the chain as it is encoded, or a uint32 vector
          where it is masked, without any mask; and what it keeps once the message counts. An update that is not finite
          sends zeros of weight 0, and keeps the state.

        Raises:
          ValueError: for arrays that do not fit the program.
        """
        checks.one_instance(Mapping, "a dict of arrays by feature, [n, ...]", features=features)
        result = device.run(
            self.loaded,
            self._download(shared),
            self._state(client_state),
            {name: np.asarray(array) for name, array in features.items()},
            num_examples,
            _words(key, "key"),
            client=client,
            noise=None if noise_key is None else _words(noise_key, "noise_key"),
        )
        if self.template is None:
            return result.message, result.state
        sent = result.message[0] if self.template.masked else unflattened(self.template.message, result.message)
        return sent, unflattened(self.template.state, result.state)

    def evaluate(
        self, shared: PyTree, client_state: PyTree, features: Mapping[str, Any], num_examples: int
    ) -> dict[str, float]:
        """The loss and metrics of the client's model on its own examples, as means; arguments as in a call.

        Raises:
          ValueError: for a program that was built without `evaluate`.
        """
        own = {name: np.asarray(array) for name, array in features.items()}
        return device.evaluate(self.loaded, self._download(shared), self._state(client_state), own, num_examples)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, all or nothing; `*.fjlp` by convention."""
        path = Path(path)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_bytes(self.artifact)
        beside.replace(path)

    def _download(self, shared: PyTree) -> list[Any]:
        if not isinstance(shared, Download):
            return _plain(shared)
        codec = _plain(shared.codec)
        if self.template is not None and len(codec) == len(jax.tree.leaves(self.template.opened)):
            codec = [codec[place] for place in self.template.kept]
        return _plain(shared.shared) + codec

    def _state(self, client_state: PyTree) -> list[Any] | None:
        return None if client_state is None else _plain(client_state)


def client_program(
    rounds: Rounds,
    params: PyTree,
    population_or_spec: Population | DataSpec,
    *,
    capacity: int | None = None,
    evaluate: Any = None,
    metrics: Sequence[Metric] = (),
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> ClientProgram:
    """A client's half of simulated rounds as a file that devices run: download, local training, encoding.

    A device needs JAX, NumPy and flatbuffers to run it, and neither this library nor the code of loss, model and
    algorithm: `fedjaxlite.deploy.device.program` reads and runs the file.

    Args:
      rounds: what was simulated. Sampler and execution do not matter, but that samplers with a clock or with weights
        are refused.
      params: the model, or its shapes where clients keep nothing.
      population_or_spec: a Population like the clients', or a DataSpec; values do not matter.
      capacity: the most examples of a client, to which all data are padded; None takes those of the largest client.
        It is a part of the numbers: where one batch holds the largest client, examples are not shuffled.
      evaluate: a loss or a Model, as `fl.evaluate_clients` takes it, for evaluations on devices; None for none.
      metrics: of `fl.metrics`, for `evaluate`; single numbers.
      platforms: that it is made for: "cpu", "cuda", "tpu", "rocm".

    Returns:
      a ClientProgram. Called as `message, client_state = program(shared, client_state, features, num_examples, key)`.

    Raises:
      ModuleNotFoundError: flatbuffers is not installed.
      TypeError, ValueError: for what cannot be exported, with why: calls back into Python, custom calls, attacks,
        sharded models, samplers of simulated devices.

    Guarantees:
      It is the client's function of `rounds.step`, exported: what a client computes and sends with one lane on the same
      platform, up to how XLA joins products and sums in two programs (one unit in the last place of an entry, if any).
      What it sends has the bytes that `rounds.traffic` counts. Rows beyond `num_examples` are never read. The file
      holds no path, date or line of code; equal arguments give equal bytes under the same versions.

    Source: Bonawitz et al. (2019), "Towards Federated Learning at Scale: System Design",
      https://arxiv.org/abs/1902.01046, whose plans are such programs; https://docs.jax.dev/en/latest/export/export.html.

    Example:
      >>> import fedjaxlite as fl, jax, jax.numpy as jnp, numpy as np, optax
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> algorithm = fl.algorithms.fed_avg(loss, client_optimizer=optax.sgd(1.0), batch_size=None, epochs=1)
      >>> run = fl.rounds(algorithm, sampler=fl.sampling.uniform(2), aggregator=fl.mean())
      >>> data = fl.deploy.DataSpec({"x": jax.ShapeDtypeStruct((), np.float32)}, num_clients=9, capacity=4)
      >>> program = client_program(run, jnp.float32(0), data)
      >>> own = {"x": np.float32([1, 2, 3])}
      >>> message, state = program(jnp.float32(0), None, own, 3, jax.random.key(0))
      >>> float(message.value), program.manifest["capacity"], program.manifest["steps"]
      (-2.0, 4, 1)
    """
    export_of_jax()
    platforms = _checked(platforms)
    checks.one_instance((list, tuple), "a list of fl.metrics", metrics=metrics)
    checks.concrete(evaluate=evaluate)
    template = template_of(rounds, params, population_or_spec, capacity=capacity)
    refusing.refuse_composition(rounds, template)
    manifest = manifest_of(template, platforms)
    train = exported(client_half(template), program_shapes(template), template, platforms)
    entries = {"program.bin": train.data, "start.bin": pack(_start(template, params))}
    names = None
    if evaluate is not None:
        measure, names = client_measure(template, evaluate, metrics)
        entries["evaluate.bin"] = exported(measure, evaluation_shapes(template), template, platforms).data
    elif metrics:
        raise ValueError("`metrics` are given and `evaluate` is None; give the loss or the Model that they are of.")
    manifest |= {"memory": memory_of(train, platforms), "calling_convention": train.calling_convention}
    artifact, whole = artifact_of({**manifest, "evaluation": names}, entries)
    return ClientProgram(artifact, whole, device.load(artifact)._replace(call=train.call), template)


def load_program(source: Any, *, sha256: str | None = None) -> ClientProgram:
    """A program from its file, to be called with lists of arrays in the manifest's order, or pytrees that flatten so.

    Args:
      source: bytes, or the path of a file.
      sha256: the identity that it must have; None takes any.

    Returns:
      a ClientProgram without a template: messages and states that it returns are lists of arrays.

    Raises:
      ProgramRefused: for a file that is no program, or another one. OSError: a path that cannot be read.
    """
    export_of_jax()
    checks.one_instance((bytes, bytearray, memoryview, str, os.PathLike), "bytes, or the path of a file", source=source)
    checks.one_instance((str, type(None)), "64 hex digits, or None", sha256=sha256)
    if isinstance(source, (str, os.PathLike)) and not Path(source).is_file():
        raise FileNotFoundError(f"`source` is {os.fspath(source)!r}, and no file; expected the path of a program.")
    data = bytes(source) if isinstance(source, (bytes, bytearray, memoryview)) else Path(source).read_bytes()
    loaded = device.load(data, sha256=sha256)
    return ClientProgram(data, loaded.manifest, loaded)


def _checked(platforms: Sequence[str]) -> tuple[str, ...]:
    checks.one_instance((str, list, tuple), "names of platforms, such as ('cpu', 'cuda')", platforms=platforms)
    given = (platforms,) if isinstance(platforms, str) else tuple(platforms)
    known = ("cpu", "cuda", "tpu", "rocm")
    for name in given:
        checks.one_of(known, platforms=name)
    if not given or len(set(given)) < len(given):
        raise ValueError(f"`platforms` is {given!r}; expected one or several of {known}, each once.")
    return given


def _start(template: Template, params: PyTree) -> list[Any]:
    """What clients keep at first; of shapes alone that can only be nothing."""
    structs = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params))
    if not structs:
        return start_of(template, params)
    if jax.tree.leaves(template.state):
        raise ValueError(
            f"`params` are shapes, and what clients of {refusing.names(template)} keep at first follows "
            "from the model. Give the parameters."
        )
    return []


def _plain(tree: PyTree) -> list[Any]:
    return [np.asarray(leaf) for leaf in leaves_of(tree)]


def _words(key: Any, name: str) -> np.ndarray:
    return np.asarray(jax.random.key_data(as_key(key, name)))
