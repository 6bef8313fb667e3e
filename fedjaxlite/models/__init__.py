"""Models of the literature in flax.nnx, and adapters that turn nnx, linen and plain functions into a `Model`.

Submodules are loaded on first use, so that importing the library, or a `Model` type, does not import flax.

What comes in: models that papers of the field use, and adapters; each is parameters and a pure function. Losses of
their outputs are `losses/`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedjaxlite.models.adapters import from_functions as from_functions
    from fedjaxlite.models.adapters import from_linen as from_linen
    from fedjaxlite.models.nnx_adapter import from_nnx as from_nnx
    from fedjaxlite.models.text import char_lstm as char_lstm
    from fedjaxlite.models.text import word_lstm as word_lstm
    from fedjaxlite.models.types import Model as Model
    from fedjaxlite.models.types import num_bytes as num_bytes
    from fedjaxlite.models.types import num_params as num_params
    from fedjaxlite.models.types import summary as summary
    from fedjaxlite.models.vision import cifar_cnn as cifar_cnn
    from fedjaxlite.models.vision import cnn as cnn
    from fedjaxlite.models.vision import dropout_cnn as dropout_cnn
    from fedjaxlite.models.vision import logistic as logistic
    from fedjaxlite.models.vision import mlp as mlp

_HOME = {
    "Model": "types",
    "num_params": "types",
    "num_bytes": "types",
    "summary": "types",
    "from_functions": "adapters",
    "from_linen": "adapters",
    "from_nnx": "nnx_adapter",
    "logistic": "vision",
    "mlp": "vision",
    "cnn": "vision",
    "dropout_cnn": "vision",
    "cifar_cnn": "vision",
    "char_lstm": "text",
    "word_lstm": "text",
}

__all__ = [  # noqa: RUF022  (as above: types, adapters, models)
    "Model",
    "num_params",
    "num_bytes",
    "summary",
    "from_functions",
    "from_linen",
    "from_nnx",
    "logistic",
    "mlp",
    "cnn",
    "dropout_cnn",
    "cifar_cnn",
    "char_lstm",
    "word_lstm",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOME))}.")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
