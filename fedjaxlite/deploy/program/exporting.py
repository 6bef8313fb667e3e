"""A function of flat arrays as StableHLO, through `jax.export`, and what XLA says of its memory."""

import contextlib
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import jax

from fedjaxlite.deploy.device.program import CALLS, calls_of
from fedjaxlite.deploy.program import refusing
from fedjaxlite.deploy.program.template import Template


class Exported(NamedTuple):
    """A function that was exported.

    Attributes:
      data: bytes, as `jax.export` serializes it.
      calling_convention: its version.
      call: the function as a device has it, jitted.
      shapes: what it takes.
    """

    data: bytes
    calling_convention: int
    call: Any
    shapes: tuple[Any, ...]


def exported(function: Any, shapes: Sequence[Any], template: Template, platforms: tuple[str, ...]) -> Exported:
    """Exports a function of flat arrays.

    Args:
      function: pure.
      shapes: of its arguments.
      template: whose it is, for messages.
      platforms: as `jax.export` names them.

    Raises:
      ModuleNotFoundError: flatbuffers is not installed.
      ValueError: for what cannot be exported, with why.

    Guarantees:
      The bytes hold no path and no line of a source, so that they are the same wherever they are made.
    """
    export = export_of_jax()
    jitted = jax.jit(function)
    with _without_sources():
        refusing.refuse_callbacks(jitted.trace(*shapes).jaxpr.jaxpr, template)
        try:
            found = export.export(jitted, platforms=platforms)(*shapes)
            data = bytes(found.serialize())
        except (ValueError, NotImplementedError, TypeError) as error:
            raise refusing.not_exported(error, template, platforms) from error
    called = sorted(set(calls_of(found)) - CALLS)
    if called:
        raise refusing.foreign(called, template, platforms)
    call = jax.jit(export.deserialize(bytearray(data)).call)
    return Exported(data, found.calling_convention_version, call, tuple(shapes))


def memory_of(program: Exported, platforms: tuple[str, ...]) -> dict[str, int] | None:
    """Bytes that the program takes on a CPU, by XLA's own analysis: arguments, outputs, temporaries; None for others.

    It compiles the program, once: a call on the CPU in this process finds it compiled.
    """
    if "cpu" not in platforms:
        return None
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names others
        return None
    with jax.default_device(cpu):
        found = program.call.lower(*program.shapes).compile().memory_analysis()
    if found is None:
        return None
    return {
        "arguments": int(found.argument_size_in_bytes),
        "outputs": int(found.output_size_in_bytes),
        "temporaries": int(found.temp_size_in_bytes),
    }


def export_of_jax() -> Any:
    """`jax.export`, with what it needs to write files."""
    try:
        import flatbuffers as flatbuffers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "programs for devices are written and read with flatbuffers, which is not installed; "
            "pip install 'fedjaxlite[deploy]'."
        ) from error
    from jax import export

    return export


@contextlib.contextmanager
def _without_sources() -> Generator[None]:
    """Names of files and lines of code are no part of a program: they would tell of the machine that made it."""
    own = {"jax_traceback_in_locations_limit": 0, "jax_include_full_tracebacks_in_locations": True}
    before = {name: getattr(jax.config, name) for name in own}
    try:
        for name, value in own.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
