"""The files of a Flower app that are text: its pyproject.toml, README.md and LICENSE."""

from collections.abc import Mapping
from typing import Any

PACKAGE = "federated_app"
"""The package of the app, as Flower imports it."""
FLWR = "1.42.0"
"""The release of Flower that the app is written for, and tested with."""

_PYPROJECT = """\
# Written by fedjaxlite. What Flower ships to every node is the package {package}/ and this file; server/ stays here.
[project]
name = "{name}"
version = "1.0.0"
description = "{description}"
license = {{ file = "LICENSE" }}
requires-python = ">=3.11"
# What a node needs. The server needs fedjaxlite beside it.
dependencies = ["flwr>={flwr}", "jax>={jax}", "numpy>=2.0", "flatbuffers>=24.3.25"]

[tool.flwr.app]
publisher = "{publisher}"
fab-format-version = 1
flwr-version-target = "{flwr}"
fab-include = ["{package}/**", "LICENSE"]

[tool.flwr.app.components]
serverapp = "{package}.server_app:app"
clientapp = "{package}.client_app:app"

[tool.flwr.app.config]
num-rounds = {num_rounds}
# The first round waits until so many clients are there.
min-clients = {min_clients}
# Seconds that a round waits for messages.
round-seconds = {round_seconds}
# Clients measure the model after every so many rounds; 0 for never.
evaluate-every = {evaluate_every}
# Where server/ lies, on the machine of the SuperLink.
server-folder = '{server_folder}'
"""

_README = """\
# {name}

{description}, as a Flower app. Written by fedjaxlite for flwr {flwr}.

| | |
| --- | --- |
| `{package}/program.json` | the clients' program, {program_bytes:,} bytes; sha256 `{sha256}` |
| `{package}/device/` | reads the program and runs it, with jax and numpy |
| `{package}/client_app.py` | what a node runs: the program, on its own data |
| `{package}/server_app.py` | what the server runs: cohorts, decoding, the server's step, by fedjaxlite |
| `server/` | what stays with the server: where its rounds come from, the first model, and `results/` |

A node gets all but `server/`, and needs `flwr`, `jax`, `numpy` and `flatbuffers`. The SuperLink's Python needs
fedjaxlite and `flwr`, and whatever `{made_by}` imports.

## Data of a node

An `.npz` file with one array per feature, examples along the first axis, at most {capacity:,} of them:

{features}

```python
np.savez("client-0.npz", {savez})
```

## Run it on one machine

The server, in a terminal of its own:

```bash
flower-superlink --insecure --disable-runtime-dependency-installation --host 127.0.0.1
```

Every client, each in a terminal of its own, with a port of its own; `partition-id` is its number, below
{num_clients:,}:

```bash
flower-supernode --insecure --superlink 127.0.0.1:8000 --port 9100 \\
    --node-config 'partition-id=0 data="/path/client-0.npz"'
flower-supernode --insecure --superlink 127.0.0.1:8000 --port 9101 \\
    --node-config 'partition-id=1 data="/path/client-1.npz"'
```

Once, the SuperLink's address in `~/.flwr/config.toml`:

```toml
[superlink.loop]
address = "127.0.0.1:8000"
insecure = true
```

The run, from this folder:

```bash
flwr run . loop --stream
```

`server/results/records.jsonl` gets a line a round, and `server/results/params.npz` the model after it. Other numbers of
rounds or clients: `flwr run . loop --run-config 'num-rounds=10 min-clients=5'`. Where `server/` lies elsewhere on the
SuperLink's machine: `--run-config "server-folder='/path/server'"`.

Every message starts a Python process that compiles the program. `JAX_COMPILATION_CACHE_DIR=/path/cache`, set for the
SuperNodes, keeps what was compiled.

## Between machines

`--insecure` is for one machine. Between machines give the SuperLink `--ssl-certfile`, `--ssl-keyfile` and
`--ssl-ca-certfile`, every SuperNode `--root-certificates`, and authenticate the nodes (`--enable-supernode-auth`); see
Flower's documentation.

## What leaves a node

{leaves}

A client keeps what its method needs between rounds in Flower's context of the run: it stays on the node, and is gone
with the run. Whoever may start runs on a SuperLink decides what its nodes run: the hash above says which program this
app holds, not which app a node gets. Which client a node is, it says itself, by its `partition-id`.
"""

_LICENSE = """\
The files that fedjaxlite wrote into this app ({package}/ but for program.json, and pyproject.toml) are licensed under
the Apache License, Version 2.0; you may obtain a copy at https://www.apache.org/licenses/LICENSE-2.0.

The program in {package}/program.json was made from the method, the model and the settings of whoever exported this app,
and is licensed as they say.
"""


def pyproject(**told: Any) -> str:
    """`pyproject.toml`, in the app format of Flower."""
    return _PYPROJECT.format(package=PACKAGE, flwr=FLWR, **told)


def readme(manifest: Mapping[str, Any], **told: Any) -> str:
    """`README.md`, with the commands."""
    specs = manifest["features"]
    rows = [f"| `{name}` | {specs[name]['dtype']}{['n', *specs[name]['shape']]} |" for name in sorted(specs)]
    return _README.format(
        package=PACKAGE,
        flwr=FLWR,
        capacity=manifest["capacity"],
        features="\n".join(["| array | |", "| --- | --- |", *rows]).replace("'n'", "n"),
        savez=", ".join(f"{name}={name}" for name in sorted(specs)),
        leaves=_leaves(manifest),
        **told,
    )


def license_text() -> str:
    """`LICENSE`, which Flower's app format asks for."""
    return _LICENSE.format(package=PACKAGE)


def _leaves(manifest: Mapping[str, Any]) -> str:
    arrays = ", ".join(f"{spec['dtype']}{spec['shape']}" for spec in manifest["message"][:6])
    more = len(manifest["message"]) - 6
    arrays += f" and {more} more arrays" if more > 0 else ""
    measured = ""
    if manifest["evaluation"]:
        measured = f" When clients measure a model: {', '.join(manifest['evaluation'])}, and the number of examples."
    noise = " Noise is drawn on the node, from its operating system." if manifest["noise"] else ""
    return (
        f"Once a round, the program's message ({arrays}), the client's number, and whether all was finite.{measured} "
        f"The node's log has a line with bytes and sha256 of each.{noise}"
    )
