"""Writes a Flower app: the program of the clients, the two files that Flower runs, and what stays with the server."""

import ast
import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite import checks
from fedjaxlite.deploy.device.artifact import pack
from fedjaxlite.deploy.flower import rebuilding, texts
from fedjaxlite.deploy.program.client_half import client_half
from fedjaxlite.deploy.program.client_program import ClientProgram
from fedjaxlite.deploy.program.exporting import exported
from fedjaxlite.deploy.program.manifest import manifest_of, program_shapes, start_of
from fedjaxlite.deploy.program.template import Template, template_of
from fedjaxlite.keys import as_key

ROOM = "fedjaxlite.deploy.device"
"""What runs on a device; its files are copied into the app, under another name."""
MOST_BYTES = 9 * 1024 * 1024
"""What Flower ships to a node is at most 10 MiB; the rest is for the other files."""


class FlowerApp(NamedTuple):
    """An app that was written.

    Attributes:
      folder: where it lies; `flwr run` is called there.
      files: what was written, paths below the folder.
      program: sha256 of the clients' program, hex.
    """

    folder: Path
    files: tuple[str, ...]
    program: str


def export_flower(
    program: ClientProgram,
    folder: str | Path,
    *,
    made_by: str,
    key: Any,
    num_rounds: int,
    arguments: Mapping[str, Any] | None = None,
    min_clients: int | None = None,
    round_seconds: float = 600.0,
    evaluate_every: int = 0,
    name: str = "federated-app",
    publisher: str = "fedjaxlite",
) -> FlowerApp:
    """Writes a Flower app that trains as `rounds.step` does: for those who have a fleet of Flower's nodes.

    A node gets the program and nothing of the library or of the method's source. The server makes its half anew, from
    a function of yours: the app holds its name and not what it returns, so nothing is pickled, and whoever reads the
    app sees what is run.

    Args:
      program: what `fl.deploy.client_program(...)` returned.
      folder: a new or empty folder.
      made_by: "module:function", a function that returns `(rounds, params, data)`: the same rounds and model again,
        and the clients' Population, or an `fl.deploy.DataSpec` where the server has no data. The server's process
        imports and calls it.
      key: the run's random key, as in `rounds.init(..., key=key)`. It stays with the server.
      num_rounds: how many rounds a run does.
      arguments: keyword arguments of that function: texts, numbers, True, False, None.
      min_clients: how many clients the first round waits for; None waits for a cohort.
      round_seconds: how long a round waits for messages, seconds.
      evaluate_every: clients measure the model after every so many rounds; 0 for never. The program needs an
        evaluation.
      name: of the app: letters, digits and hyphens, at most 32.
      publisher: of the app, likewise.

    Returns:
      a FlowerApp. Its README.md has the commands.

    Raises:
      TypeError, ValueError: for arguments that do not fit; for a program with masks, since Flower carries no secure sum
        of this library; for a function that makes other rounds than the program is of.
      FileExistsError: there is something in the folder.

    Example:
      >>> import pathlib, sys, tempfile
      >>> import fedjaxlite as fl
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> _ = (folder / "my_means.py").write_text('''
      ... import fedjaxlite as fl, jax, jax.numpy as jnp, optax
      ... def run():
      ...     loss = lambda params, batch, key: (params - batch["x"]) ** 2
      ...     algorithm = fl.algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=None, epochs=1)
      ...     rounds = fl.rounds(algorithm, sampler=fl.sampling.full(2), aggregator=fl.weighted_mean())
      ...     data = fl.deploy.DataSpec({"x": jax.ShapeDtypeStruct((), jnp.float32)}, num_clients=2, capacity=4)
      ...     return rounds, jnp.float32(0), data
      ... ''')
      >>> sys.path.insert(0, str(folder))
      >>> import my_means
      >>> program = fl.deploy.client_program(*my_means.run())
      >>> app = export_flower(program, folder / "app", made_by="my_means:run", key=jax.random.key(0), num_rounds=3)
      >>> [file for file in app.files if "/" not in file]
      ['LICENSE', 'README.md', 'pyproject.toml']

    Guarantees:
      The nodes' files import neither fedjaxlite nor a method's code. The model after every round is that of
      `rounds.step` with the same key, where the same clients are there, up to the order of sums of floats.
    """
    checks.one_instance((Mapping, type(None)), "a dict of keyword arguments, or None", arguments=arguments)
    checks.one_instance((str, os.PathLike), "the path of a new folder", folder=folder)
    checks.concrete(key=key, min_clients=min_clients, round_seconds=round_seconds)
    arguments = dict(arguments or {})
    checks.one_instance(ClientProgram, "what fl.deploy.client_program(...) returned", program=program)
    rebuilding.check_source(made_by, arguments)
    num_rounds = checks.positive_int(num_rounds=num_rounds)
    checks.positive(round_seconds=round_seconds)
    evaluate_every = checks.nonnegative_int(evaluate_every=evaluate_every)
    _check_names(name=name, publisher=publisher)
    folder = Path(folder)
    _check_program(program, evaluate_every)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{str(folder)!r} is there already, and not empty; give a new folder.")
    made = rebuilding.make(made_by, arguments)
    template = template_of(made.rounds, made.params, made.data, capacity=program.manifest["capacity"])
    _check_same(program.manifest, made, template, made_by)
    clients = template.population.num_clients
    least = min(template.program.sampler.capacity, clients)
    least = least if min_clients is None else int(checks.positive_int(min_clients=min_clients))
    told = {
        "name": name,
        "publisher": publisher,
        "num_rounds": num_rounds,
        "min_clients": least,
        "round_seconds": float(round_seconds),
        "evaluate_every": evaluate_every,
        "jax": program.manifest["versions"]["jax"],
        "server_folder": folder.resolve() / "server",
        "made_by": made_by,
        "num_clients": clients,
    }
    _write(folder, program, told)
    rebuilding.write(
        folder / "server",
        made,
        made_by=made_by,
        arguments=arguments,
        key=[int(word) for word in np.asarray(jax.random.key_data(as_key(key, "key")))],
        program=program.sha256,
        capacity=program.manifest["capacity"],
        evaluation=program.manifest["evaluation"],
    )
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return FlowerApp(folder, tuple(files), program.sha256)


def device_files() -> dict[str, str]:
    """The sources that run on a node, by their names below the app's package: without a word of this library's name."""
    package, own = Path(__file__).parents[1] / "device", f"{texts.PACKAGE}.device"
    found, todo = {"device/__init__.py": '"""What a node runs a program with."""\n'}, ["program"]
    while todo:
        module = todo.pop()
        source = (package / f"{module}.py").read_text(encoding="utf-8")
        found[f"device/{module}.py"] = source.replace(ROOM, own)
        todo += [name for name in _imported(source) if f"device/{name}.py" not in found]
    return found


def _imported(source: str) -> list[str]:
    """Which files of the device's room a source imports."""
    names = [node.module or "" for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    return [name.removeprefix(f"{ROOM}.") for name in names if name.startswith(f"{ROOM}.")]


def _write(folder: Path, program: ClientProgram, told: Mapping[str, Any]) -> None:
    package, here = folder / texts.PACKAGE, Path(__file__).parent / "app"
    manifest = program.manifest
    description = f"{manifest['algorithm']} with {manifest['aggregator']}"
    app = {path.name: path.read_text(encoding="utf-8") for path in sorted(here.glob("*.py"))}
    app["client_app.py"] = app["client_app.py"].replace(ROOM, f"{texts.PACKAGE}.device")
    shipped = {"sha256": program.sha256, "base64": base64.b64encode(program.artifact).decode()}
    written = {f"{texts.PACKAGE}/{name}": _without_remarks(text) for name, text in {**app, **device_files()}.items()}
    written[f"{texts.PACKAGE}/program.json"] = json.dumps(shipped, indent=1) + "\n"
    written["pyproject.toml"] = texts.pyproject(description=description, **told)
    written["LICENSE"] = texts.license_text()
    written["README.md"] = texts.readme(
        manifest, description=description, program_bytes=len(program.artifact), sha256=program.sha256, **told
    )
    (package / "device").mkdir(parents=True)
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")


def _without_remarks(source: str) -> str:
    """A source without what it says to this repository's type checker."""
    return "".join(line for line in source.splitlines(keepends=True) if not line.startswith("# pyright:"))


def _check_names(**names: Any) -> None:
    for what, name in names.items():
        plain = isinstance(name, str) and name.isascii() and name.replace("-", "").isalnum() and name[:1].isalpha()
        if not plain or len(name) > 32:
            raise ValueError(
                f"`{what}` is {name!r}; expected letters, digits and hyphens, a letter first, at most 32 in all, as "
                "Flower asks for."
            )


def _check_program(program: ClientProgram, evaluate_every: int) -> None:
    if program.manifest["masked"]:
        raise ValueError(
            "the program is one of masked rounds, whose messages are sums mod 2^32 without their masks, and Flower "
            "does not carry this library's secure sum: the server would see every update. Use fl.deploy.Server, or "
            "compose the rounds without privacy.mask and privacy.secure_sum."
        )
    if evaluate_every and program.manifest["evaluation"] is None:
        raise ValueError(
            f"`evaluate_every` is {evaluate_every}, and the program has no evaluation. Make it with "
            "client_program(..., evaluate=loss), or take evaluate_every=0."
        )
    if len(program.artifact) > MOST_BYTES:
        raise ValueError(
            f"the program has {len(program.artifact):,} bytes, and Flower ships at most 10 MiB to a node, which leaves "
            f"{MOST_BYTES:,} for it. What a client keeps before its first round is in it: use fl.deploy.Server."
        )


def _check_same(manifest: Mapping[str, Any], made: rebuilding.Made, template: Template, made_by: str) -> None:
    """Refuses a function that makes other rounds than those of the program."""
    platforms = tuple(manifest["platforms"])
    again = manifest_of(template, platforms)
    for field in ("algorithm", "aggregator", "hyperparameters", "download", "state", "message", "features"):
        if again[field] != manifest[field]:
            raise ValueError(
                f"{made_by} makes other rounds than the program is of: their {field} is {checks.shown(again[field])}, "
                f"and that of the program {checks.shown(manifest[field])}. Make the program from what the function "
                "returns."
            )
    data = exported(client_half(template), program_shapes(template), template, platforms).data
    entries = {"program.bin": data, "start.bin": pack(start_of(template, made.params))}
    for name, entry in entries.items():
        if hashlib.sha256(entry).hexdigest() != manifest["sha256"][name]:
            raise ValueError(
                f"{made_by} makes other rounds than the program is of: {name} would have another hash, with JAX "
                f"{again['versions']['jax']} here and {manifest['versions']['jax']} where it was made. A learning "
                "rate, a loss or the model may differ. Make the program from what the function returns."
            )
