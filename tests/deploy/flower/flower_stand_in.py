"""Flower's names as far as an app uses them, and a grid whose nodes are functions of this process.

What is here is what flwr 1.42 does for an app; `test_flower_app.py` runs the same app on the real package.
"""

import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np


class ArrayRecord:
    """Flower's, of a list of arrays."""

    def __init__(self, arrays: list[np.ndarray]):
        self._arrays = [np.array(array) for array in arrays]

    def to_numpy_ndarrays(self) -> list[np.ndarray]:
        return self._arrays


class ConfigRecord(dict):
    """Flower's: plain values, or lists of them, by name."""

    def __init__(self, values: Mapping[str, Any]):
        for value in values.values():
            for one in value if isinstance(value, list) else [value]:
                assert type(one) in (int, float, str, bool, bytes), value
        super().__init__(values)


class RecordDict(dict):
    """Flower's: records by name."""


class Context:
    """What a node knows, and keeps for as long as a run lasts."""

    def __init__(self, node_config: Mapping[str, Any]):
        self.node_config, self.state, self.run_config = dict(node_config), RecordDict(), {}


class Message:
    """Flower's, as far as it is asked for."""

    def __init__(self, content=None, *, dst_node_id=None, message_type=None, group_id=None, reply_to=None, error=None):
        node = reply_to.metadata.dst_node_id if reply_to is not None else None
        self.content, self.error = content, error
        self.metadata = types.SimpleNamespace(
            dst_node_id=dst_node_id, src_node_id=node, message_type=message_type, group_id=group_id
        )

    def has_error(self) -> bool:
        return self.error is not None


class ClientApp:
    """Functions by kind of message."""

    def __init__(self):
        self.functions: dict[str, Callable[..., Message]] = {}

    def _adds(self, kind: str):
        def add(function):
            self.functions[kind] = function
            return function

        return lambda: add

    train = property(lambda self: self._adds("train"))
    evaluate = property(lambda self: self._adds("evaluate"))
    query = property(lambda self: self._adds("query"))


class ServerApp:
    """One function."""

    def main(self):
        def add(function):
            self.function = function
            return function

        return add


class Grid:
    """Nodes of this process: {Flower's number of a node: (its app, its context)}."""

    def __init__(self, nodes: Mapping[int, tuple[ClientApp, Context]], fails: Iterable[tuple[str, int]] = ()):
        self.nodes, self.fails, self.seen = dict(nodes), set(fails), []

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for message in reversed(list(messages)):  # who answers first is anybody's guess
            told = message.metadata
            self.seen.append((told.message_type, told.group_id, told.dst_node_id))
            app, context = self.nodes[told.dst_node_id]
            reply = app.functions[told.message_type](message, context)
            if (told.group_id, told.dst_node_id) in self.fails:  # it trained, and its answer was lost
                reply = Message(reply_to=message, error=types.SimpleNamespace(reason="lost"))
            replies.append(reply)
        return replies


def install(monkeypatch: Any) -> None:
    """Puts all this where `import flwr` finds it."""
    modules = {
        "flwr": {},
        "flwr.app": {n: globals()[n] for n in ("ArrayRecord", "ConfigRecord", "Context", "Message", "RecordDict")},
        "flwr.clientapp": {"ClientApp": ClientApp},
        "flwr.serverapp": {"ServerApp": ServerApp, "Grid": Grid},
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
