"""With `compute_dtype=jnp.bfloat16` the matrix products of the compiled program are of bfloat16."""

import re
from collections import Counter

import jax.numpy as jnp
import pytest
import subjects

from fedjaxlite.rehearsal import hlo

CALLS = re.compile(r'custom_call_target="[^"]*(gemm|matmul|cublas|cudnn|conv)', re.IGNORECASE)

OFTEN = {("from_nnx", *pair) for pair in zip((1, subjects.LANES), subjects.TARGETS, strict=True)}
"""Each target, and each way of a round, once."""


def operands(text: hlo.Text) -> Counter[tuple[str, str]]:
    """The types of what goes into each product and convolution of a compiled program."""
    found: Counter[tuple[str, str]] = Counter()
    for operations in text.computations.values():
        types = {operation.name: operation.shapes.partition("[")[0].lstrip("(") for operation in operations}
        for operation in operations:
            called = operation.kind == "custom-call" and CALLS.search(operation.line)
            if operation.kind in ("dot", "convolution") or called:
                first, second = (types[name] for name in operation.operands[:2])
                found[first, second] += 1
    return found


@pytest.mark.accelerators
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    ("name", "lanes", "target"),
    [
        pytest.param(name, lanes, target, marks=pytest.mark.covering if (name, lanes, target) in OFTEN else ())
        for name in ("mlp", "cnn", "char_lstm", "from_nnx")
        for lanes in (1, subjects.LANES)
        for target in subjects.TARGETS
    ],
)
def test_products_are_of_the_compute_dtype(name: str, lanes: int, target: str) -> None:
    task = subjects.MODELS[name]()
    narrow, wide = (
        operands(hlo.read(subjects.compiled(subjects.of_model(task, compute_dtype=dtype), target, lanes).as_text()))
        for dtype in (jnp.bfloat16, None)
    )
    # Rows of zeros and ones, by which a small vocabulary is looked up, may be truth values.
    assert set(narrow) <= {("bf16", "bf16"), ("pred", "bf16"), ("bf16", "pred")}, narrow
    assert narrow.total() >= 4
    assert "f32" in {type_ for pair in wide for type_ in pair}, "nothing was found where there is something to find"
