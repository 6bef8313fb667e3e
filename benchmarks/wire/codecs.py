"""Encode and read in GB/s, for every codec, beside the memory bandwidth that a copy of the same numbers reaches.

`python -m fedjaxlite.benchmarks.wire.codecs --out DIR` prints and writes it; `--size small` is a quick look.

GB/s are the update's own bytes, four an entry, over the time. A copy reads and writes each entry once, as does the best
codec that could be: encode reads the update and read writes it again, and what crosses between them is small. So a
codec's share of the bandwidth is the copy's time over its own.

A copy of 1.7 million numbers stays in a processor's caches, and one of 100 million goes to memory: shares of the first
are of the caches' bandwidth, and smaller.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import fedjaxlite as fl
from fedjaxlite import compression as wire
from fedjaxlite.benchmarks import machine
from fedjaxlite.benchmarks.timing import spread, take_turns


class Codec(NamedTuple):
    """What is measured.

    Attributes:
      make: the codecs behind a mean.
      elementwise: whether each entry is coded by itself, so that memory should be the limit.
    """

    make: Callable[[], tuple[fl.Aggregator, ...]]
    elementwise: bool = False


def _clipped(*codecs: fl.Aggregator) -> tuple[fl.Aggregator, ...]:
    return fl.clip_by_global_norm(1e4), *codecs


CODECS: dict[str, Codec] = {
    "bfloat16": Codec(lambda: (wire.narrow("bfloat16"),), True),
    "float8_e4m3fn": Codec(lambda: (wire.narrow("float8_e4m3fn"),), True),
    "float8_e5m2": Codec(lambda: (wire.narrow("float8_e5m2"),), True),
    "nf4": Codec(lambda: (wire.nf4(),), True),
    "natural": Codec(lambda: (wire.natural(),), True),
    "quantize:8": Codec(lambda: (fl.clip_by_value(4.0), fl.quantize(bits=8)), True),
    "qsgd:16": Codec(lambda: (wire.qsgd(levels=16),), True),
    "qsgd:1": Codec(lambda: (wire.qsgd(levels=1),), True),
    "k_level:16": Codec(lambda: (wire.k_level(levels=16),), True),
    "tern_grad": Codec(lambda: (wire.tern_grad(),), True),
    "sign": Codec(lambda: (wire.sign(),), True),
    "sign_vote": Codec(lambda: (wire.sign_vote(),), True),
    "noisy_sign": Codec(lambda: (wire.noisy_sign(1.0),), True),
    "drive": Codec(lambda: (wire.drive(),)),
    "eden:4": Codec(lambda: (wire.eden(bits=4),)),
    "rotated_k_level:16": Codec(lambda: (wire.rotated_k_level(levels=16),)),
    "thc:4": Codec(lambda: _clipped(wire.thc(bits=4))),
    "quic_fl:4": Codec(lambda: _clipped(wire.quic_fl(bits=4))),
    "rand_k:0.01": Codec(lambda: (wire.rand_k(fraction=0.01),)),
    "top_k:0.01": Codec(lambda: (wire.top_k(fraction=0.01),)),
    "error_feedback(top_k:0.01)": Codec(lambda: (wire.error_feedback(wire.top_k(fraction=0.01)),)),
    "count_sketch:1 %": Codec(lambda: (wire.count_sketch(columns=16_634),)),
    "power_sgd:4": Codec(lambda: (wire.power_sgd(rank=4),)),
}
SIZES = {"full": (1_663_370, 100_000_000), "small": (1_663_370,), "tiny": (4_096,)}
COPY = "copy"


class Measured(NamedTuple):
    """One codec at one size.

    Attributes:
      encode: GB/s of encode alone.
      both: GB/s of encode and read.
      share: of the copy's bandwidth that encode and read together reach.
      bits: bits an entry on the wire.
    """

    encode: float
    both: float
    share: float
    bits: float


def _runs(codec: Codec, update: jax.Array) -> tuple[dict[str, Callable[[], Any]], float]:
    chain = fl.chain(fl.mean(), *codec.make())
    state, _ = chain.init(fl.wire_of(update, capacity=2, num_clients=2, weight=1))
    everyone = fl.sampling.cohort(jnp.arange(2, dtype=jnp.int32), jnp.ones(2, bool))
    state = chain.begin(state, everyone, jax.random.key(1))
    own = chain.init_client(update)
    client = fl.ClientInfo(jnp.int32(0), jnp.float32(1), jax.random.key(2), jnp.bool_(True))

    @jax.jit
    def encode(update: jax.Array) -> Any:
        return chain.encode(state, own, fl.Message(update, jnp.float32(1), {}), client)[0]

    @jax.jit
    def read(message: fl.Message) -> Any:
        # What the server does alone with one message: read it, and decode what it read as a sum of one.
        return chain.decode(state, chain.read(state, message, client), jax.random.key(3))[0].value

    message = jax.block_until_ready(encode(update))
    bits = 8 * len(fl.message_to_bytes(message)) / update.size
    runs: dict[str, Callable[[], Any]] = {"encode": lambda: encode(update), "read": lambda: read(message)}
    for run in runs.values():
        jax.block_until_ready(run())
    return runs, bits


def measure(entries: int, names: Sequence[str], turns: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures the codecs of these names on an update of so many normal entries."""
    square = entries >= 10_000
    update = jax.random.normal(jax.random.key(0), (entries // 1000, 1000) if square else (entries,))
    copy = jax.jit(lambda x: x + jnp.float32(1))
    jax.block_until_ready(copy(update))
    found: dict[str, Any] = {}
    for name in names:
        runs, bits = _runs(CODECS[name], update)
        times = take_turns({COPY: lambda: copy(update), **runs}, turns)
        size = 4e-9 * update.size
        both = [a + b for a, b in zip(times["encode"], times["read"], strict=True)]
        share = spread([c / t for c, t in zip(times[COPY], both, strict=True)]).median
        one = Measured(size / spread(times["encode"]).median, size / spread(both).median, share, bits)
        found[name] = {**one._asdict(), "copy": 2 * size / spread(times[COPY]).median}
        say(
            f"{name:<28} {one.bits:>6.2f} bits  encode {one.encode:>7.3f} GB/s  encode and read {one.both:>7.3f} GB/s  "
            f"{one.share:>6.1%} of a copy{'' if CODECS[name].elementwise else '  (not elementwise)'}"
        )
    return found


def main(
    out: Path | None = None, turns: int = 5, size: str = "full", codecs: Sequence[str] = (), say: Any = print
) -> dict[str, Any]:
    """Measures, prints, and writes codecs.json where asked to.

    Args:
      out: a folder, made where it is missing.
      turns: how often each is timed.
      size: "full", "small" or "tiny" (for tests).
      codecs: names of `CODECS`; none are all.
      say: takes lines of text.

    Returns:
      what codecs.json holds.
    """
    found: dict[str, Any] = {"machine": machine.describe(), "sizes": {}}
    for entries in SIZES[size]:
        say(f"{entries:,} entries, float32")
        found["sizes"][str(entries)] = measure(entries, codecs or list(CODECS), turns, say)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "codecs.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--size", choices=list(SIZES), default="full")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--codec", action="append", default=[], choices=list(CODECS))
    given = parser.parse_args()
    main(given.out, given.turns, given.size, given.codec)
