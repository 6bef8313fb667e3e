"""Questions with tags, invented: the synthetic twin of Stack Overflow tag prediction, whose words are as sparse.

What the comparison of servers turns on is kept: words and tags follow Zipf's law, so that most words are rare, a round
of ten clients meets few of them, and tags are told by words that are rare themselves. The task of Reddi et al. (2021),
https://arxiv.org/abs/2003.00295, has 10,000 words, 500 tags and 342,477 clients.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl


class Sizes(NamedTuple):
    """How large the language is.

    Attributes:
      num_words: V.
      num_tags: K.
      num_clients: N.
      per_client: questions of each.
      length: words of a question.
      signs: words that go with a tag.
    """

    num_words: int = 2000
    num_tags: int = 100
    num_clients: int = 500
    per_client: int = 40
    length: int = 30
    signs: int = 8


def questions(sizes: Sizes, num_clients: int, seed: int) -> fl.Population:
    """Clients who each write of a few tags.

    A client prefers tags by a Dirichlet draw around their shares in the whole; a question has one to three of them, and
    one in six of its words is a sign of its tags, the others whatever is common.

    Args:
      sizes: of the language, which is the same for every seed.
      num_clients: how many to invent.
      seed: of the clients.

    Returns:
      a Population with x uint8 `[n, V]`, counts of words, and y uint8 `[n, K]`, 1 for its tags.
    """
    language, rng = np.random.default_rng(0), np.random.default_rng([1, seed])
    common = _zipf(sizes.num_words)
    shares = _zipf(sizes.num_tags)
    signs = np.stack([language.permutation(sizes.num_words)[: sizes.signs] for _ in range(sizes.num_tags)])
    n = num_clients * sizes.per_client
    x, y = np.zeros((n, sizes.num_words), np.uint8), np.zeros((n, sizes.num_tags), np.uint8)
    for client in range(num_clients):
        preferred = rng.dirichlet(10.0 * shares + 1e-3)
        for row in range(client * sizes.per_client, (client + 1) * sizes.per_client):
            tags = rng.choice(sizes.num_tags, rng.integers(1, 4), p=preferred)
            y[row, tags] = 1
            telling = signs[rng.choice(tags, sizes.length // 6), rng.integers(0, sizes.signs, sizes.length // 6)]
            filling = rng.choice(sizes.num_words, sizes.length - len(telling), p=common)
            np.add.at(x[row], np.concatenate([telling, filling]), 1)
    return fl.Population.from_arrays({"x": x, "y": y}, client_ids=np.arange(n) // sizes.per_client)


def _zipf(size: int) -> np.ndarray:
    weights = 1.0 / np.arange(1, size + 1)
    return weights / weights.sum()


def model(sizes: Sizes) -> fl.models.Model:
    """Logistic regression on the shares of words."""

    def apply(params: Any, x: jax.Array) -> jax.Array:
        counts = x.astype(jnp.float32)
        return counts / counts.sum(-1, keepdims=True) @ params["kernel"] + params["bias"][None, :]

    def init(key: jax.Array) -> Any:
        del key
        return {"kernel": jnp.zeros((sizes.num_words, sizes.num_tags)), "bias": jnp.zeros(sizes.num_tags)}

    return fl.models.from_functions(init, apply, name="tags", input_shape=(sizes.num_words,))


def recall_at_5(logits: jax.Array, y: jax.Array) -> jax.Array:
    """The share of each question's tags among the five that are ranked first, mean over questions.

    Args:
      logits: float32 `[n, K]`.
      y: `[n, K]`, 1 for a question's tags.

    Returns:
      float32 `[]`.

    Example:
      >>> logits = jnp.array([[9.0, 8.0, 7.0, 6.0, 5.0, 4.0]])
      >>> float(recall_at_5(logits, jnp.array([[1, 0, 0, 0, 0, 1]])))
      0.5
    """
    _, first = jax.lax.top_k(logits, 5)
    found = jnp.take_along_axis(y, first, axis=1).sum(1)
    return jnp.mean(found / jnp.maximum(y.sum(1), 1)).astype(jnp.float32)
