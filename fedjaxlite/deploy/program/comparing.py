"""Whether a program's file is of given rounds, whichever versions of JAX and of this library wrote it."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from fedjaxlite.deploy.program.manifest import manifest_of
from fedjaxlite.deploy.program.template import Template
from fedjaxlite.training.identity import flat, library_version

_ARRAYS = ("download", "state", "message")
_OF_ROUNDS = ("algorithm", "aggregator", "capacity", "features", *_ARRAYS, "noise", "masked", "secure_sum", "steps")
"""Entries that follow from the rounds. Not among them: versions, memory, platforms, hashes, which others may have; and
what is measured, which stays on the device or is read off the manifest."""
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_CLOSE = 1e-6  # a rate that was float32 once, and noise that an accountant of another version calibrated


class Unlike(NamedTuple):
    """An entry of a manifest that rounds would write otherwise: its name, what it says, and what they would say."""

    name: str
    given: Any
    own: Any


def unlike(manifest: Mapping[str, Any], template: Template) -> list[Unlike]:
    """What a program's manifest says that is not so of some rounds.

    Args:
      manifest: of any program, such as one that was saved under other versions.
      template: of the rounds.

    Returns:
      the entries that differ, an entry inside another one by a name with dots. Arrays are held against each other by
      shape and dtype. Numbers may differ by a millionth, functions are told apart by their names. Hyperparameters that
      only one of two versions of the library states are left out.

    Guarantees:
      Nothing is exported or compiled, and versions, memory and hashes do not matter: a program goes on being of its
      rounds after an upgrade. What stands in no manifest is not seen: the loss, or the rate inside an optimizer.
    """
    own = json.loads(json.dumps(manifest_of(template, ())))
    pairs = {name: (_bare(name, manifest[name]), _bare(name, own[name])) for name in _OF_ROUNDS}
    given, now = ({name: pair[side] for name, pair in pairs.items()} for side in (0, 1))
    found = [Unlike(name, given[name], now[name]) for name in _OF_ROUNDS if not same(given[name], now[name])]
    told, stated = (part["hyperparameters"] for part in (manifest, own))
    one_version = manifest["versions"].get("fedjaxlite") == library_version()
    values = unlike_hyperparameters(told, stated, one_version=one_version)
    return found + [each._replace(name=f"hyperparameters.{each.name}") for each in values]


def unlike_hyperparameters(
    told: Mapping[str, Any], stated: Mapping[str, Any], *, one_version: bool = True
) -> list[Unlike]:
    """Which hyperparameters, tables of `plain` values, are not the same.

    Args:
      told: of a file.
      stated: of rounds.
      one_version: whether one version of the library stated both; of two, one may state more than the other.

    Example:
      >>> unlike_hyperparameters({"fed_prox": {"mu": 0.1}}, {"fed_prox": {"mu": 0.2, "new": 1}}, one_version=False)
      [Unlike(name='fed_prox.mu', given=0.1, own=0.2)]
    """
    told, stated = flat(json.loads(json.dumps(told))), flat(json.loads(json.dumps(stated)))
    both = [name for name in told if name in stated]
    names = list(dict.fromkeys([*told, *stated])) if one_version else both
    pairs = [(name, told.get(name, "absent"), stated.get(name, "absent")) for name in names]
    return [Unlike(*pair) for pair in pairs if not same(*pair[1:])]


def same(one: Any, other: Any) -> bool:
    """Whether two values of JSON are one, numbers up to a millionth, and texts but for addresses in memory.

    Example:
      >>> same({"mu": 0.1}, {"mu": 0.10000000149}), same([1, 2], [1, 3]), same(True, 1)
      (True, False, False)
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, str) and isinstance(other, str):
        return _ADDRESS.sub("", one) == _ADDRESS.sub("", other)
    if isinstance(one, (int, float)) and isinstance(other, (int, float)) and float in (type(one), type(other)):
        return math.isclose(one, other, rel_tol=_CLOSE)
    return type(one) is type(other) and one == other


def _bare(name: str, value: Any) -> Any:
    """An entry without what no side goes by: the paths of arrays, and against which servers a secure sum protects."""
    if name in _ARRAYS:
        return [f"{each['dtype']}{each['shape']}" for each in value]
    if name == "secure_sum" and value is not None:
        return {key: each for key, each in value.items() if key != "server"}
    return value
