"""What several processes agree on, with their calls to each other played by the test: no second process is needed."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from fedjaxlite import processes, storage


def stand_in(monkeypatch: pytest.MonkeyPatch, others: list[dict[str, Any]], *, index: int = 0) -> None:
    """Makes this the process `index` of several, the others of which hold the values of `others`."""
    told = [{name: processes.shown(value) for name, value in one.items()} for one in others]
    texts = [processes.json.dumps(one).encode() for one in told]
    longest = max(map(len, texts))
    turn: list[int] = []

    def gathered(values: Any) -> np.ndarray:
        turn.append(0)
        own = np.asarray(values)
        if len(turn) == 1:
            return np.stack([own, *[np.int32(len(text)) for text in texts]])
        size = len(own)
        assert size >= longest
        rows = [np.frombuffer(text.ljust(size, b"\0"), np.uint8) for text in texts]
        return np.stack([own, *rows])

    monkeypatch.setattr(processes, "count", lambda: 1 + len(others))
    monkeypatch.setattr(processes, "index", lambda: index)
    monkeypatch.setattr(processes, "gathered", gathered)


OWN: dict[str, Any] = {
    "num_rounds": 10,
    "params": {"w": np.arange(3, dtype=np.float32)},
    "key": jax.random.key(3),
    "algorithm": ["fed_avg", {"lr": 0.1, "optimizer": np.sum}],
}


def test_equal_values_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    same = {**OWN, "params": {"w": np.arange(3, dtype=np.float32)}, "key": jax.random.key(3)}
    stand_in(monkeypatch, [same, dict(OWN)])
    processes.same(OWN)


@pytest.mark.parametrize(
    ("name", "other", "text"),
    [
        ("num_rounds", 12, "`num_rounds` is 10 in process 0 and 12 in process 2"),
        (
            "params",
            {"w": np.asarray([0, 1, 3], np.float32)},
            r"`params` is .*digest \w+.* and .*digest \w+.* in process 2",
        ),
        ("params", {"w": np.arange(3)}, r"float32.* in process 0 and .*int64"),
        ("key", jax.random.key(4), "`key` is key<fry>.* in process 2"),
        ("algorithm", ["fed_avg", {"lr": 0.2, "optimizer": np.sum}], "lr: 0.2, optimizer: sum.* in process 2"),
        ("algorithm", ["fed_avg", {"lr": 0.1, "optimizer": np.prod}], "optimizer: prod.* in process 2"),
    ],
)
def test_what_differs_is_named_with_who_has_it(monkeypatch: Any, name: str, other: Any, text: str) -> None:
    stand_in(monkeypatch, [dict(OWN), {**OWN, name: other}])
    with pytest.raises(ValueError, match=text) as caught:
        processes.same(OWN)
    assert "the 3 processes of this run do not hold the same" in str(caught.value)
    assert "process 1" not in str(caught.value)


def test_a_value_that_one_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, [{"num_rounds": 10, "extra": 1}])
    with pytest.raises(ValueError, match="`extra` is absent in process 0 and 1 in process 1"):
        processes.same({"num_rounds": 10})


def test_texts_hold_no_address_and_are_short() -> None:
    def loss(params: Any) -> Any:
        return params

    shown = processes.shown({"loss": loss, "object": object(), "long": list(range(100))})
    assert "0x" not in shown
    assert len(shown) < 120
    assert shown != processes.shown({"loss": loss, "object": object(), "long": list(range(1, 101))})


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileExistsError("'runs' holds a run"), FileExistsError),
        (OSError(28, "No space left"), OSError),
        (storage.StorageError(28, "the disk is full"), storage.StorageError),
        (ValueError("no checkpoint is whole"), ValueError),
        (jax.errors.JaxRuntimeError("INTERNAL"), RuntimeError),
    ],
)
def test_an_error_of_the_first_is_raised_by_all(error: Exception, kind: type[Exception]) -> None:
    raised = processes.again(**processes.json.loads(processes.json.dumps(processes.told_of(error))))
    assert type(raised) is kind
    assert (getattr(error, "strerror", None) or str(error)) in str(raised)
    assert getattr(raised, "errno", None) == getattr(error, "errno", None)


def test_one_process_agrees_with_itself() -> None:
    value = (1, "a")
    assert processes.agreed(value) is value
    assert processes.by_first(lambda: value) is value
    assert processes.gathered(np.asarray([1, 2], np.float32)).tolist() == [[1.0, 2.0]]
    processes.same({"a": object()})
    processes.together("test")
    assert processes.is_first()


@pytest.mark.parametrize("leaf", [lambda: np.float64(1), lambda: np.zeros((0, 3)), lambda: np.bool_(True), lambda: 7])
def test_any_leaf_has_a_digest(leaf: Callable[[], Any]) -> None:
    assert processes.digest({"a": leaf()}) == processes.digest({"a": leaf()}) != processes.digest({"b": leaf()})
