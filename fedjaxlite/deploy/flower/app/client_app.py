"""What a node runs: the program in `program.json`, on the node's own data, and nothing else of the method.

It needs flwr, jax, numpy and flatbuffers. The node's configuration says which client this is and where its data are:

    flower-supernode ... --node-config 'partition-id=0 data="/path/client-0.npz"'

The file holds one array per feature, with the examples along the first axis. What leaves the node is the program's
message, once a round, and a few numbers that `train` lists; each is written to the node's log.
"""
# pyright: reportMissingImports=false

import base64
import functools
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedjaxlite.deploy.device import program as device

app = ClientApp()
log = logging.getLogger("flwr")


@app.query()
def who(message: Message, context: Context) -> Message:
    """Which client this is."""
    return Message(RecordDict({"told": ConfigRecord({"client": _client(context)})}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round's local training: download, program, message."""
    program, client, task = _program(), _client(context), _task(message)
    features, num_examples = _data(context, program)
    state = _state(context, program, counted=int(task["counted"]))
    key = np.asarray(task["key"], np.uint32)
    model = device.unpack(_bytes(message.content["model"]), program.manifest["download"])
    result = device.run(program, model, state, features, num_examples, key, client=client)
    update = device.pack(result.message)
    _keep(context, "pending-state", device.pack(result.state))
    context.state["pending"] = ConfigRecord({"round": int(task["round"])})
    digest = hashlib.sha256(update).hexdigest()
    log.info("round %d: client %d sends %d bytes, sha256 %s", task["round"], client, len(update), digest)
    told = {"client": client, "round": int(task["round"]), "finite": bool(result.finite)}
    return Message(RecordDict({"update": _record(update), "told": ConfigRecord(told)}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """The model on this node's data; nothing is trained."""
    program, client, task = _program(), _client(context), _task(message)
    features, num_examples = _data(context, program)
    state = _state(context, program, counted=int(task["counted"]))
    model = device.unpack(_bytes(message.content["model"]), program.manifest["download"])
    metrics = device.evaluate(program, model, state, features, num_examples)
    log.info("round %d: client %d sends metrics %s", task["round"], client, metrics)
    told = {"client": client, "round": int(task["round"]), "num-examples": num_examples}
    found = ConfigRecord({name: float(value) for name, value in metrics.items()})
    return Message(RecordDict({"metrics": found, "told": ConfigRecord(told)}), reply_to=message)


@functools.cache
def _program() -> device.Program:
    """The shipped program; it is refused where it is not the one that its hash names."""
    shipped = json.loads(Path(__file__).with_name("program.json").read_text(encoding="utf-8"))
    return device.load(base64.b64decode(shipped["base64"]), sha256=shipped["sha256"])


def _client(context: Context) -> int:
    given = context.node_config.get("partition-id")
    if not isinstance(given, int) or isinstance(given, bool) or given < 0:
        raise ValueError(
            f"the node's configuration has partition-id={given!r}; expected the number of this client, as in "
            "--node-config 'partition-id=0 data=\"/path/client-0.npz\"'."
        )
    return given


def _task(message: Message) -> dict[str, Any]:
    return dict(message.content["task"])


def _data(context: Context, program: device.Program) -> tuple[dict[str, np.ndarray], int]:
    """The node's examples, and how many they are."""
    wanted = sorted(program.manifest["features"])
    given = context.node_config.get("data")
    if not isinstance(given, str) or not Path(given).is_file():
        raise FileNotFoundError(
            f"the node's configuration has data={given!r}; expected an .npz file of this client, with arrays {wanted}."
        )
    with np.load(given, allow_pickle=False) as file:
        features = {name: file[name] for name in file.files}
    if sorted(features) != wanted:
        raise ValueError(f"{given} holds the arrays {sorted(features)}; expected {wanted}.")
    sizes = {name: len(array) for name, array in features.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"{given} holds arrays of unlike lengths, {sizes}; expected one row per example in each.")
    return features, next(iter(sizes.values()))


def _state(context: Context, program: device.Program, *, counted: int) -> list[np.ndarray]:
    """What this client keeps: changed by its last update where the server says that this update is in a sum.

    Args:
      context: of the node, which Flower keeps for as long as the run lasts.
      program: says what a client keeps, and what it begins with.
      counted: the last round whose sum has this client's update, or -1.
    """
    waits = context.state.get("pending")
    if waits is not None and int(dict(waits)["round"]) == counted and "pending-state" in context.state:
        context.state["state"] = context.state["pending-state"]
    for name in ("pending", "pending-state"):
        if name in context.state:
            del context.state[name]
    if "state" not in context.state:
        return list(program.start)
    return device.unpack(_bytes(context.state["state"]), program.manifest["state"])


def _keep(context: Context, name: str, data: bytes) -> None:
    if data:
        context.state[name] = _record(data)


def _record(data: bytes) -> ArrayRecord:
    # Bytes, and not arrays by name: Flower's arrays know fewer dtypes than a program may have, and a message is codes.
    return ArrayRecord([np.frombuffer(data, np.uint8)])


def _bytes(record: Any) -> bytes:
    return record.to_numpy_ndarrays()[0].tobytes()
