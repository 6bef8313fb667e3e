"""The table of docs/compression.md: every codec is in it, with the bits that its arrays take and whether sums are enough."""

import re
from pathlib import Path
from typing import Any

import chains
import jax
import jax.numpy as jnp
import pytest

import fedjaxlite as fl

PAGE = Path(__file__).resolve().parents[3] / "docs" / "compression.md"
MATRIX = jax.ShapeDtypeStruct((250, 400), jnp.float32)


def rows() -> dict[str, list[str]]:
    """The cells of every codec by its call."""
    lines = re.findall(r"^\| `(\w+\(.*?\))` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {call: [cell.strip() for cell in cells.split("|")] for call, cells in lines}
    return {call: cells for call, cells in found.items() if not call.startswith("error_feedback")}


def built(call: str) -> fl.Aggregator:
    """The codec of a call in the table."""
    names: dict[str, Any] = {name: getattr(fl.compression, name) for name in fl.compression.__all__}
    return eval(call, {"__builtins__": {}}, {**names, "quantize": fl.quantize})


def test_every_codec_is_in_the_table() -> None:
    named = {call.partition("(")[0] for call in rows()}
    assert named == {name.partition("/")[0].partition("+")[0] for name in chains.CODECS} - {"error_feedback"}


@pytest.mark.parametrize("call", rows())
def test_bits_and_sums_are_what_the_table_says(call: str) -> None:
    bits, sum_safe = rows()[call][0], rows()[call][4]
    codec = built(call)
    clip = (fl.clip_by_global_norm(1.0),) if call.startswith(("quantize", "thc", "quic_fl")) else ()
    wire = fl.chain(fl.mean(), *clip, codec).init(fl.wire_of(MATRIX, capacity=2, num_clients=2))[1]
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((wire.value, wire.aside)))
    told = float(re.match(r"[\d.]+", bits)[0])  # type: ignore[index]
    assert 8 * size / MATRIX.size == pytest.approx(told, abs=0.006), 8 * size / MATRIX.size
    assert sum_safe.rstrip("²") == ("yes" if codec.sum_safe else "no")
    assert (wire.apart is None) == codec.sum_safe
