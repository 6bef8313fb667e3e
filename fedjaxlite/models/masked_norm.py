"""flax.nnx's BatchNorm, told by the adapter which rows of the batch are padding."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
from flax import nnx

from fedjaxlite.models.calling import row_mask

# Set for the length of one call of a model, and read by the layers inside it: a module's `__call__` takes no mask.
_ROWS: ContextVar[jax.Array | None] = ContextVar("rows", default=None)


@contextmanager
def rows(mask: jax.Array | None) -> Generator[None]:
    """Inside, layers that look across the batch count only the rows where `mask [B]` holds."""
    token = _ROWS.set(mask)
    try:
        yield
    finally:
        _ROWS.reset(token)


class MaskedBatchNorm(nnx.BatchNorm):
    """`nnx.BatchNorm` whose statistics are those of the real rows. A mask passed by the caller wins."""

    def __call__(self, x: Any, use_running_average: bool | None = None, *, mask: Any = None) -> Any:
        """As `nnx.BatchNorm`; `x` is `[B, ..., features]`."""
        batch = _ROWS.get()
        if mask is None and batch is not None:
            mask = row_mask(batch, x, "BatchNorm")
        return super().__call__(x, use_running_average, mask=mask)


def mask_batch_norms(module: nnx.Module) -> None:
    """Makes every plain `nnx.BatchNorm` in `module` a masked one, in place.

    The class is exchanged and nothing else, so the attributes, the variables and where they stand are untouched.
    Subclasses of BatchNorm are left alone: they may compute something else.
    """
    for _, child in nnx.iter_modules(module):
        if type(child) is nnx.BatchNorm:
            object.__setattr__(child, "__class__", MaskedBatchNorm)
