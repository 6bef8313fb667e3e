"""Federated LoRA of a small transformer: the server trains a language model on public text, clients adapt it.

The text is the standard library's own. The public text, on which the base is warm-started, is the documentation of
the built-in types; each client has the source code of one module. The base is then frozen, and clients train
low-rank adapters of it by FedAvg, which is all that crosses the wire.

    python examples/lora_transformer.py
    python examples/lora_transformer.py --smoke    # quick, with sizes that learn next to nothing
"""

import argparse
import builtins
import importlib
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.algorithms import lora
from fedjaxlite.algorithms.pieces.leaves import by_name

VOCABULARY = 97  # 0 pads, 1 is the end of a line, the rest is printable ASCII
MODULES = ("argparse", "ast", "calendar", "configparser", "csv", "difflib", "fractions", "functools", "heapq")
MODULES += ("optparse", "queue", "shlex", "statistics", "string", "textwrap", "zipapp")


class Settings(NamedTuple):
    """The sizes of a run.

    Attributes:
      width: features of a token.
      layers: blocks of the transformer.
      heads: attention heads in each.
      length: T, characters of an example.
      windows: the most examples of a client.
      clients: how many there are, at most one a module.
      warm_steps: steps of the server on the public text.
      num_rounds: rounds of federated training.
      cohort: clients in a round.
      rank: r of the adapters.
      alpha: their scale.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    length: int = 64
    windows: int = 64
    clients: int = len(MODULES)
    warm_steps: int = 300
    num_rounds: int = 20
    cohort: int = 4
    rank: int = 4
    alpha: float = 8.0


SMOKE = Settings(16, 1, 2, 16, 6, 3, warm_steps=2, num_rounds=1, cohort=2, rank=2)


class Block(nnx.Module):
    """Causal attention and a wide layer, each on normalized features and added to what came in."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.norm_1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention_in = nnx.Linear(width, 3 * width, rngs=rngs)
        self.attention_out = nnx.Linear(width, width, rngs=rngs)
        self.norm_2 = nnx.LayerNorm(width, rngs=rngs)
        self.wide_in = nnx.Linear(width, 4 * width, rngs=rngs)
        self.wide_out = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, T, width]` to the same."""
        batch, length, width = x.shape
        parts = self.attention_in(self.norm_1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]
        attended = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(attended.reshape(batch, length, width))
        return x + self.wide_out(nnx.gelu(self.wide_in(self.norm_2(x))))


class Transformer(nnx.Module):
    """Characters `[B, T]` to the logits of the next ones `[B, T, VOCABULARY]`."""

    def __init__(self, settings: Settings, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Embed(VOCABULARY, settings.width, rngs=rngs)
        self.position = nnx.Embed(settings.length, settings.width, rngs=rngs)
        self.blocks = nnx.List([Block(settings.width, settings.heads, rngs) for _ in range(settings.layers)])
        self.norm = nnx.LayerNorm(settings.width, rngs=rngs)
        self.head = nnx.Linear(settings.width, VOCABULARY, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of every next character."""
        places = jnp.arange(x.shape[1], dtype=jnp.int32)
        hidden = self.embedding(x) + self.position(places)[None]
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


def public_text() -> str:
    """The documentation of the built-in functions, types and their methods."""
    parts = []
    for name in sorted(vars(builtins)):
        thing = getattr(builtins, name)
        parts.append(inspect.getdoc(thing) or "")
        if isinstance(thing, type) and not issubclass(thing, BaseException):
            parts += [inspect.getdoc(member) or "" for _, member in sorted(vars(thing).items())]
    return "\n".join(dict.fromkeys(parts))


def examples_of(text: str, length: int, most: int | None = None) -> dict[str, np.ndarray]:
    """Windows of a text: `{"x": [n, T], "y": [n, T]}` of int32, y one character ahead."""
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int32)
    ids = np.where(codes >= 32, codes - 30, 1)
    n = (len(ids) - 1) // length if most is None else min(most, (len(ids) - 1) // length)
    return {"x": ids[: n * length].reshape(n, length), "y": ids[1 : n * length + 1].reshape(n, length)}


def clients(settings: Settings) -> fl.Population:
    """One client a module, with windows of its source code."""
    parts = [
        examples_of(inspect.getsource(importlib.import_module(name)), settings.length, settings.windows)
        for name in MODULES[: settings.clients]
    ]
    owner = np.repeat(np.arange(len(parts)), [len(part["x"]) for part in parts])
    return fl.Population.from_arrays(
        {name: np.concatenate([part[name] for part in parts]) for name in ("x", "y")}, owner
    )


def run(settings: Settings, seed: int = 0, execution: fl.Execution | None = None) -> dict[str, float]:
    """Warm start, then federated LoRA.

    Args:
      settings: the sizes.
      seed: of everything drawn.
      execution: lanes and devices; None leaves the choice to the library.

    Returns:
      dict of floats: mean losses per character on the clients' text, "untrained", "before" and "after" the rounds; and
      bytes of a client and round, "lora_up", "lora_down", "full_up" and "full_down".
    """
    keys = jax.random.split(jax.random.key(seed), 4)
    model = fl.models.from_nnx(lambda rngs: Transformer(settings, rngs), name="transformer")
    loss = fl.losses.sequence_cross_entropy(model)
    people, public = clients(settings), examples_of(public_text(), settings.length)
    untrained = jax.jit(model.init)(keys[0])
    warm = fl.warm_start(
        loss, untrained, public, optimizer=optax.adam(3e-3), steps=settings.warm_steps, batch_size=32, key=keys[1]
    )

    adapters = lora.init(warm.params, rank=settings.rank, where=_kernels, key=keys[2])
    start = lora.Adapted(warm.params, adapters)

    def fed_avg(loss: Any) -> fl.Algorithm:
        return algorithms.fed_avg(loss, client_optimizer=optax.adam(3e-3), batch_size=16, epochs=1)

    options: dict[str, Any] = {
        "sampler": fl.sampling.uniform(min(settings.cohort, people.num_clients)),
        "aggregator": fl.weighted_mean(),
        "execution": fl.Execution() if execution is None else execution,
    }
    rounds = fl.rounds(lora.federated(fed_avg, loss, alpha=settings.alpha), **options)
    state = rounds.init(start, people, key=keys[3])
    state, _ = rounds.steps(state, people, settings.num_rounds)

    evaluate = fl.evaluate(loss, people)
    merged = lora.merge(state.params.base, state.params.adapters, alpha=settings.alpha)
    thin = rounds.traffic(start, people)
    full = fl.rounds(fed_avg(loss), **options).traffic(warm.params, people)
    return {
        "untrained": float(evaluate(untrained)["loss"]),
        "before": float(evaluate(warm.params)["loss"]),
        "after": float(evaluate(merged)["loss"]),
        "lora_up": thin.up,
        "lora_down": thin.down,
        "full_up": full.up,
        "full_down": full.down,
    }


def _kernels(path: tuple[Any, ...], leaf: Any) -> bool:
    return by_name("blocks")(path, leaf) and path[-1] == "kernel"


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Runs the example and prints what it gave."""
    parser = argparse.ArgumentParser(description="Federated LoRA of a small transformer.")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, for a test that it runs")
    parser.add_argument("--rounds", type=int, help="rounds of federated training")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    settings = SMOKE if given.smoke else Settings()
    settings = settings if given.rounds is None else settings._replace(num_rounds=given.rounds)
    got = run(settings, given.seed, fl.Execution(lanes=1, devices=1) if given.smoke else None)
    lines = [
        f"loss on the clients' text, in nats a character, of {settings.clients} clients:",
        f"  untrained                {got['untrained']:.3f}",
        f"  after the warm start     {got['before']:.3f}",
        f"  after {settings.num_rounds:3} rounds of LoRA  {got['after']:.3f}",
        "bytes of one client in one round, up and down:",
        f"  LoRA of rank {settings.rank}           {got['lora_up']:,} and {got['lora_down']:,}",
        f"  the whole model          {got['full_up']:,} and {got['full_down']:,}",
    ]
    print("\n".join(lines))
    return got


if __name__ == "__main__":
    main()
