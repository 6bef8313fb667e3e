"""config.toml: what a run was, so that it can be repeated and its numbers can be trusted."""

import datetime
import platform
import subprocess
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from fedjaxlite import processes
from fedjaxlite.data.population import Population
from fedjaxlite.execution.bytes_sent import Traffic
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.layout import resolve, with_lanes
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.storage import replace_text
from fedjaxlite.training import identity
from fedjaxlite.training.run_folder import RunFolder

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")


def describe(
    rounds: Rounds, state: RoundState, population: Population, who: Mapping[str, Any], traffic: Traffic
) -> dict[str, Any]:
    """What the library can tell of a run by itself.

    Args:
      rounds: the run.
      state: any state of it.
      population: what it trains on.
      who: its `identity.identity`.
      traffic: bytes of one client in one round.

    Returns:
      a dict of tables for TOML: "date", "versions", "platform", "git" where there is a repository, "algorithm",
      "sampler", "aggregator", "execution", "population" and "model".
    """
    capacity = rounds.sampler.capacity
    layout = with_lanes(resolve(rounds.execution, capacity), rounds.params(state), population, capacity)
    mesh = rounds.execution.mesh
    execution = rounds.execution._replace(
        lanes=layout.lanes, devices=len(layout.devices), mesh=None if mesh is None else dict(mesh.shape)
    )
    sizes = population.num_examples
    return {
        "date": _now(),
        "versions": versions(),
        "platform": {
            "system": platform.platform(),
            "backend": layout.platform,
            "devices": [device.device_kind for device in layout.devices],
            "processes": processes.count(),
        },
        **_git(),
        "algorithm": who["algorithm"],
        "sampler": {**who["sampler"], "accounting": identity.plain(rounds.sampler.accounting)},
        "aggregator": who["aggregator"],
        "execution": identity.plain(execution),
        "population": {
            **who["population"],
            "num_examples": int(sizes.sum()),
            "smallest_client": int(sizes.min()),
            "largest_client": int(sizes.max()),
        },
        "model": {
            "num_params": sum(leaf.size for leaf in jax.tree.leaves(rounds.params(state))),
            "bytes_up": traffic.up,
            "bytes_down": traffic.down,
        },
        "keys": {"digest": who["keys"]},
    }


def versions() -> dict[str, str]:
    """The versions of Python, this library and what it stands on; packages that are not installed are left out."""
    found = {"python": platform.python_version(), "fedjaxlite": identity.library_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write(
    folder: RunFolder, about: Mapping[str, Any], extra: Mapping[str, Any], *, resumed: Mapping[str, Any] | None = None
) -> None:
    """Writes a run's config.toml, all or nothing; a run that goes on keeps what is there and notes that it did.

    Args:
      folder: the run's folder.
      about: the tables of `describe`.
      extra: the caller's own tables; after a resume they replace the old ones.
      resumed: what to note of a run that goes on, "from_round" first; None for a new one.

    Raises:
      ValueError: a table of `extra` has the name of one that the library writes.
    """
    import tomli_w

    taken = sorted(set(extra) & {*about, "resumed", "fewer_lanes"})
    if taken:
        raise ValueError(f"`config` has {', '.join(taken)}, which the library writes itself; choose another name.")
    tables = {**about, **identity.plain(extra)}
    if resumed is not None:
        old = read(folder.config) if folder.config.exists() else {}
        entry = {"date": _now(), **resumed, "versions": versions()}
        tables = {**old, **tables, "resumed": [*old.get("resumed", []), entry]}
    replace_text(folder.config, tomli_w.dumps(tables))


def note(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Adds an entry to a list of config.toml, of what happened while the run went on.

    Args:
      folder: the run's folder.
      name: of the list.
      entry: what to note beside the date.
    """
    import tomli_w

    path = folder / "config.toml"
    tables = read(path) if path.exists() else {}
    tables[name] = [*tables.get(name, []), {"date": _now(), **identity.plain(entry)}]
    replace_text(path, tomli_w.dumps(tables))


def read(path: Path) -> dict[str, Any]:
    """Reads a config.toml.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{str(path)!r} is no TOML: {error}.") from None


def _now() -> datetime.datetime:
    return datetime.datetime.now().astimezone().replace(microsecond=0)


def _git() -> dict[str, Any]:
    """The commit of this library and that of the working directory, where git tells one."""
    found = {}
    for name, folder in (("library", Path(__file__).parent), ("working_directory", Path.cwd())):
        try:
            told = subprocess.run(
                ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
                capture_output=True,
                text=True,
                timeout=5,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        found[name] = told.stdout.strip()
    return {"git": found} if found else {}
