"""Language models of the federated-learning literature: recurrent, one prediction a time step.

Inputs are token ids `[B, T]`, outputs logits `[B, T, vocab_size]` of the next token at every step.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fedjaxlite import checks
from fedjaxlite.models.lstm import lstm
from fedjaxlite.models.nnx_adapter import from_nnx
from fedjaxlite.models.types import Model

# Up to here a product with one-hot rows costs less than gathering rows and scattering their gradients.
_ONE_HOT_VOCAB = 512


def char_lstm(
    *,
    vocab_size: int = 90,
    embed: int = 8,
    hidden: int = 256,
    layers: int = 2,
    peephole: bool = False,
    hoisted_gradient: bool = True,
) -> Model:
    """The stacked character LSTM of McMahan et al. (2017): 820,522 parameters with 90 characters.

    Embedding of 8, two LSTM layers of 256, and the logits; one bias a gate. The paper gives 866,578 parameters, which
    these sizes reach with peephole cells and 258 characters.

    Args:
      vocab_size: number of token ids; ids are in [0, vocab_size).
      embed: width of the embedding.
      hidden: width of each LSTM layer.
      layers: number of LSTM layers.
      peephole: whether the gates also see the cell.
      hoisted_gradient: how the gradient of the recurrent weights is computed, see `fedjaxlite.models.lstm`; it changes
        speed and rounding only.

    Returns:
      a Model from ids `[B, T]` to logits `[B, T, vocab_size]`. Initialization: embeddings uniform within 0.05, input
      and output kernels Glorot uniform, recurrent kernels orthogonal, forget biases 1, all other biases and peepholes
      zero.

    Raises:
      ValueError, TypeError: for sizes that are not positive ints; when called, for an x that is not `[B, T]` of ints.

    Reference: McMahan et al. (2017), https://arxiv.org/abs/1602.05629

    Example:
      >>> import jax
      >>> from fedjaxlite import models
      >>> models.num_params(jax.eval_shape(models.char_lstm(vocab_size=90).init, jax.random.key(0)))
      820522
    """
    peephole, hoisted_gradient = checks.flag(peephole=peephole, hoisted_gradient=hoisted_gradient)
    sizes = {"vocab_size": vocab_size, "embed": embed, "hidden": hidden, "layers": layers}
    return _language_model("char_lstm", sizes, {"peephole": peephole, "hoisted_gradient": hoisted_gradient})


def word_lstm(
    *, vocab_size: int = 10_004, embed: int = 96, hidden: int = 670, layers: int = 1, hoisted_gradient: bool = True
) -> Model:
    """The next-word LSTM for Stack Overflow of Reddi et al. (2021): 4,050,748 parameters.

    Embedding of 96, an LSTM layer of 670, a linear layer back to 96, and the logits of 10,000 words and four special
    tokens.

    Args:
      vocab_size: number of token ids; ids are in [0, vocab_size).
      embed: width of the embedding and of the layer before the logits.
      hidden: width of each LSTM layer.
      layers: number of LSTM layers.
      hoisted_gradient: as in `char_lstm`.

    Returns:
      a Model from ids `[B, T]` to logits `[B, T, vocab_size]`, initialized as `char_lstm`.

    Raises:
      ValueError, TypeError: for sizes that are not positive ints; when called, for an x that is not `[B, T]` of ints.

    Reference: Reddi et al. (2021), https://arxiv.org/abs/2003.00295

    Example:
      >>> import jax
      >>> from fedjaxlite import models
      >>> models.num_params(jax.eval_shape(models.word_lstm().init, jax.random.key(0)))
      4050748
    """
    hoisted_gradient = checks.flag(hoisted_gradient=hoisted_gradient)
    sizes = {"vocab_size": vocab_size, "embed": embed, "hidden": hidden, "layers": layers}
    return _language_model("word_lstm", sizes, {"hoisted_gradient": hoisted_gradient}, project=True)


def _language_model(name: str, sizes: dict[str, int], options: dict[str, bool], project: bool = False) -> Model:
    sizes = {argument: checks.positive_int("", **{argument: value}) for argument, value in sizes.items()}
    hparams: dict[str, Any] = {**sizes, **options}
    inner = from_nnx(lambda rngs: _LanguageModel(**hparams, project=project, rngs=rngs), name=name, hparams=hparams)

    def apply(params: Any, x: Any, *, key: Any = None, train: bool = False, mask: Any = None) -> Any:
        if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(
                f"`{name}` got x of {x.dtype}{list(x.shape)}; expected token ids, ints [B, T] with T time steps. "
                "A single sequence becomes a batch by `x[None]`."
            )
        return inner.apply(params, x, key=key, train=train, mask=mask)

    return inner._replace(apply=apply)


class _LanguageModel(nnx.Module):
    """Embedding, LSTM layers, and logits at every step."""

    def __init__(
        self, *, vocab_size: int, embed: int, hidden: int, layers: int, rngs: nnx.Rngs,
        project: bool = False, peephole: bool = False, hoisted_gradient: bool = True,
    ):  # fmt: skip
        small = jax.random.uniform(rngs.params(), (vocab_size, embed), minval=-0.05, maxval=0.05)
        self.embedding = nnx.Param(small)
        self.layers = layers
        for index in range(layers):
            layer = _Lstm(embed if index == 0 else hidden, hidden, peephole, hoisted_gradient, rngs=rngs)
            setattr(self, f"lstm_{index}", layer)
        glorot = nnx.initializers.glorot_uniform()
        self.project = nnx.Linear(hidden, embed, kernel_init=glorot, rngs=rngs) if project else None
        self.logits = nnx.Linear(embed if project else hidden, vocab_size, kernel_init=glorot, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Ids `[B, T]` to logits `[B, T, vocab_size]`."""
        values = _look_up(self.embedding[...], x.T)
        for index in range(self.layers):
            values = getattr(self, f"lstm_{index}")(values)
        if self.project is not None:
            values = self.project(values)
        return self.logits(jnp.swapaxes(values, 0, 1))


class _Lstm(nnx.Module):
    """One layer, time first."""

    def __init__(self, size: int, hidden: int, peephole: bool, hoisted_gradient: bool, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.glorot_uniform()(rngs.params(), (size, 4 * hidden)))
        self.recurrent = nnx.Param(nnx.initializers.orthogonal()(rngs.params(), (hidden, 4 * hidden)))
        self.bias = nnx.Param(jnp.zeros((4 * hidden,)).at[hidden : 2 * hidden].set(1.0))
        self.peepholes = nnx.Param(jnp.zeros((3, hidden))) if peephole else None
        self.hoisted_gradient = hoisted_gradient

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[T, B, size]` to `[T, B, hidden]`; the product with the inputs is taken for all steps at once."""
        projected = x @ self.kernel[...] + self.bias[...][None, None]
        peepholes = None if self.peepholes is None else self.peepholes[...]
        return lstm(projected, self.recurrent[...], peepholes, hoisted_gradient=self.hoisted_gradient)


def _look_up(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows of `table [V, E]` by ids of any shape; NaN for ids outside [0, V)."""
    if table.shape[0] > _ONE_HOT_VOCAB:
        return jnp.where((ids >= 0)[..., None], jnp.take(table, ids, axis=0, mode="fill", fill_value=jnp.nan), jnp.nan)
    inside = (ids >= 0) & (ids < table.shape[0])
    # A row that is looked up is the row itself: at the default precision of a GPU or TPU the product would round it.
    hot = jax.nn.one_hot(ids, table.shape[0], dtype=table.dtype)
    rows = jnp.matmul(hot, table, precision="highest")
    return jnp.where(inside[..., None], rows, jnp.nan)
