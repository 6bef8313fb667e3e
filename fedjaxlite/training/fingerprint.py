"""Fingerprints of traced programs: equal in every process that traces the same, whatever its names and addresses.

A program's text will not do: it holds addresses of functions, the order of sets, names of variables, and leaves the
constants out. Here every equation goes into the digest as what it computes: its operation, its operands by where they
come from, its parameters, and the bytes of its constants.

What a fingerprint cannot see: Python that a program calls back into, flags of XLA, and code whose program is the same.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

_NOT_COMPUTED = frozenset(
    {
        "name",
        "sharding",
        "in_shardings",
        "out_shardings",
        "in_layouts",
        "out_layouts",
        "mesh",
        "ctx_mesh",
        "donated_invars",
    }
    | {"keep_unused", "inline", "compiler_options_kvs", "debug_info", "device", "devices"}
)
"""Parameters of equations that say where a program runs, or what it is called."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_MOST_NUMBERS = 64


class Fingerprint(NamedTuple):
    """Of one or several programs.

    Attributes:
      digest: hexadecimal text.
      numbers: the different finite numbers that stand in them, sorted, as texts: rates, thresholds, chances. Empty
        where there are more than 64.
    """

    digest: str
    numbers: tuple[str, ...]


def fingerprint(programs: Iterable[ClosedJaxpr]) -> Fingerprint:
    """The fingerprint of some traced programs.

    Example:
      >>> def scaled(rate):
      ...     return fingerprint([jax.make_jaxpr(lambda x: rate * x)(1.0)])
      >>> scaled(0.5) == scaled(0.5), scaled(0.5) == scaled(0.25), scaled(0.5).numbers
      (True, False, ('0.5',))
    """
    reader = _Reader()
    for program in programs:
        reader.program(program)
    numbers = sorted(reader.numbers, key=float)
    return Fingerprint(reader.digest.hexdigest()[:32], tuple(numbers) if len(numbers) <= _MOST_NUMBERS else ())


class _Reader:
    """Reads programs into a digest; a program that stands in several places is read once."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.numbers: set[str] = set()
        self.known: dict[int, tuple[Any, str]] = {}

    def say(self, *words: Any) -> None:
        self.digest.update("\x1f".join(map(str, words)).encode() + b"\x1e")

    def program(self, program: ClosedJaxpr | Jaxpr) -> None:
        """One program, by a digest of its own, so that reading it again costs nothing."""
        found = self.known.get(id(program))
        if found is None:
            outer, self.digest = self.digest, hashlib.sha256()
            consts = program.consts if isinstance(program, ClosedJaxpr) else ()
            self._equations(program.jaxpr if isinstance(program, ClosedJaxpr) else program, consts)
            # The program is kept beside its digest: an id may be given again once its object is gone.
            found = (program, self.digest.hexdigest())
            self.known[id(program)], self.digest = found, outer
        self.say("program", found[1])

    def _equations(self, jaxpr: Jaxpr, consts: Iterable[Any]) -> None:
        places: dict[Any, int] = {}

        def name(variables: Iterable[Any]) -> None:
            for variable in variables:
                places[variable] = len(places)
                self.say("is", variable.aval.str_short())

        def read(atoms: Iterable[Any]) -> None:
            for atom in atoms:
                if isinstance(atom, Literal):
                    self.value(atom.val, atom.aval)
                else:
                    self.say("of", places[atom])

        name((*jaxpr.constvars, *jaxpr.invars))
        for const in consts:
            self.value(const)
        for equation in jaxpr.eqns:
            self.say("do", equation.primitive.name)
            told = {n: v for n, v in equation.params.items() if n not in _NOT_COMPUTED}
            # Where a product lies; said as it is outside of a mesh, so that digests stay what they were.
            self.parameter({n: None if n == "out_sharding" else v for n, v in told.items()})
            read(equation.invars)
            name(equation.outvars)
        read(jaxpr.outvars)

    def value(self, value: Any, aval: Any = None) -> None:
        """A constant, by its bytes."""
        if isinstance(value, jax.Array) and not value.is_fully_addressable:
            self.say("elsewhere", value.dtype, value.shape)
            return
        keys = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(value) if keys else value)
        if aval is not None and not keys:
            array = array.astype(aval.dtype)
        self.say("value", array.dtype, array.shape)
        self.digest.update(np.ascontiguousarray(array).tobytes())
        if array.shape == () and array.dtype.kind == "f" and np.isfinite(array) and len(self.numbers) <= _MOST_NUMBERS:
            self.numbers.add(f"{float(array):.6g}")

    def parameter(self, value: Any) -> None:
        """A parameter of an equation; programs among them are read."""
        if isinstance(value, (ClosedJaxpr, Jaxpr)):
            self.program(value)
        elif isinstance(value, Mapping):
            for name in sorted(value, key=str):
                self.say("parameter", name)
                self.parameter(value[name])
        elif isinstance(value, (set, frozenset)):
            self.say("set", *sorted(_ADDRESS.sub("", repr(item)) for item in value))
        elif isinstance(value, (tuple, list)):
            self.say("some", type(value).__name__, len(value))
            for item in value:
                self.parameter(item)
        elif isinstance(value, (np.ndarray, np.generic, jax.Array)):
            self.value(value)
        elif callable(value) and not isinstance(value, type):
            self.say("function")  # a rule for derivatives that were taken, or Python: neither can be read
        else:
            self.say("parameter", _ADDRESS.sub("", repr(value)))
