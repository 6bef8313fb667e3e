"""Evaluation of one model on a population that lies on a disk: rows come in pieces, the numbers are those of memory."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite.data import host_arrays
from fedjaxlite.data.on_disk import reading
from fedjaxlite.data.population import Population
from fedjaxlite.evaluation.measuring import Measuring, finished, steps, with_ends
from fedjaxlite.platforms import platform_of

PyTree = Any

PIECE_BYTES = 1 << 25
"""Of rows that are read at a time; two pieces are in memory, one that is computed on and one that is read."""


def evaluated(
    what: Measuring, data: Population, size: int, draw: jax.Array
) -> Callable[[PyTree], dict[str, jax.Array]]:
    """The measurement as a function of the model.

    Args:
      what: is measured.
      data: on a disk.
      size: rows of a batch.
      draw: the key of resamples.
    """
    total = reading.num_rows(data)
    row_bytes = max(1, sum(array.nbytes for array in data.features.values()) // total)
    in_piece = min(-(-total // size), max(1, PIECE_BYTES // (row_bytes * size)))

    batch = {name: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype) for name, a in data.features.items()}
    batch_mask = jax.ShapeDtypeStruct((size,), np.bool_)

    @partial(jax.jit, static_argnums=0)
    def piece(platform: str, params: PyTree, carry: Any, arrays: Mapping[str, jax.Array], at: Any, draw: Any) -> Any:
        of_batch, _, added = steps(what, platform)
        first, rows_left = at

        def one(index: jax.Array) -> Any:
            rows = index * size + jnp.arange(size, dtype=jnp.int32)
            mask = rows < rows_left
            taken = {name: array[jnp.minimum(rows, rows_left - 1)] for name, array in arrays.items()}
            return of_batch(params, {**taken, "mask": mask}, mask, jax.random.fold_in(draw, first + index)), mask

        def add(total: Any, index: jax.Array) -> tuple[Any, Any]:
            batch, mask = one(index)
            more = added(total, batch)
            # Behind the last row nothing is added, not even zeros.
            kept = jax.tree.map(lambda new, old: jnp.where(mask.any(), new, old), more, total)
            return kept, (batch.rows, mask) if what.keeps_rows else None

        return jax.lax.scan(add, carry, jnp.arange(in_piece, dtype=jnp.int32))

    @jax.jit
    def end(carry: Any, rows: Any, mask: Any, draw: jax.Array) -> dict[str, jax.Array]:
        return with_ends(finished(what, carry, rows, mask, draw, empty=1.0))

    def run(params: PyTree) -> dict[str, jax.Array]:
        platform = platform_of(params)
        of_batch, nothing, _ = steps(what, platform)
        carry, kept = nothing(jax.eval_shape(of_batch, params, {**batch, "mask": batch_mask}, batch_mask, draw)), []
        for first in range(0, -(-total // size), in_piece):
            arrays = _rows(data, first * size, in_piece * size)
            left = np.int32(min(total - first * size, in_piece * size))
            before = carry
            carry, rows = piece(platform, params, carry, arrays, (np.int32(first), left), draw)
            if what.keeps_rows:
                kept.append(jax.device_get(rows))
            jax.block_until_ready(before)  # what is read ahead stays bounded
        rows, mask = jax.tree.map(lambda *parts: np.concatenate(parts), *kept) if kept else ({}, None)
        return end(carry, rows, mask, draw)

    return run


def _rows(data: Population, start: int, rows: int) -> dict[str, np.ndarray]:
    """So many rows from one on, in arrays of this length also behind the last: one shape, one program."""
    have = min(rows, reading.num_rows(data) - start)
    found = reading.rows_between(data, start, start + have)
    if have == rows:
        return found
    padded = {}
    for name, array in found.items():
        padded[name] = host_arrays.aligned((rows, *array.shape[1:]), array.dtype)
        padded[name][:have], padded[name][have:] = array, np.zeros((), array.dtype)
    return padded
