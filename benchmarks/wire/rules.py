"""Memory of a rule that needs all messages side by side, on each of several devices: as compiled, and as it ran.

`python -m fedjaxlite.benchmarks.wire.rules --out DIR` prints and writes it: 100 clients of 10 million parameters on
four devices, which takes 5 GB; `--size small` is a quick look. Memory is told in models, 4 bytes a parameter:

    messages    K / D models on each device, which a rule by coordinates cannot do without
    it adds     all else that a round needs for a while: local training, trading, the rule, the server's step
    a mean's    what a plain mean needs for the same round, without any message side by side
"""

import argparse
import gc
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.benchmarks import machine, memory

SIZES = {"full": (100, 3163), "small": (100, 500), "tiny": (8, 64)}
"""Clients, and the side of the one square matrix that they train."""
PLAIN = "plain mean"


class Measured(NamedTuple):
    """One chain, on each device; in models, but for the seconds.

    Attributes:
      messages: those that it keeps.
      compiled_adds: temporary memory of the compiled round beside these; None where the backend does not tell.
      peak: the most that the process grew while a round ran, its share of one device; None where none was run.
      peak_adds: of this, what is not messages.
      seconds: of that round.
    """

    messages: int
    compiled_adds: float | None
    peak: float | None = None
    peak_adds: float | None = None
    seconds: float | None = None


def measure(rule: str, clients: int, side: int, devices: int, *, run: bool = True) -> Measured:
    """Measures a round.

    Args:
      rule: a name of `fl.robust` that needs no arguments, or `PLAIN` for a mean without messages side by side.
      clients: K, all of the population.
      side: of the matrix; the model has its square of parameters.
      devices: D.
      run: whether it is run too, and not only compiled.
    """
    chain = fl.mean() if rule == PLAIN else fl.chain(fl.mean(), getattr(fl.robust, rule)())
    composed = fl.rounds(
        algorithms.fed_avg(_loss, client_optimizer=optax.sgd(0.1), batch_size=1),
        sampler=fl.sampling.uniform(clients),
        aggregator=chain,
        execution=fl.Execution(lanes=1, devices=devices),
    )
    rows = np.random.default_rng(0).standard_normal((clients, side), dtype=np.float32)
    population = fl.Population.from_arrays({"x": rows}, client_ids=np.arange(clients))
    model, messages = 4 * side * side, 0 if rule == PLAIN else -(-clients // devices)
    make, key = lambda: {"w": jnp.zeros((side, side))}, jax.random.key(0)
    if not run:
        shapes = jax.eval_shape(lambda p: (composed.init(make(), p, key=key), p), population)
        return Measured(messages, _temporary(composed.lower(*shapes).compile(), model, messages))
    state = composed.init(make(), population, key=key)
    step = jax.jit(composed.step).lower(state, population).compile()
    gc.collect()
    memory.forget_peak()
    before, begin = memory.resident() or 0, time.perf_counter()
    jax.block_until_ready(step(state, population))
    seconds = time.perf_counter() - begin
    peak = (memory.resident_peak() - before) / devices / model
    return Measured(messages, _temporary(step, model, messages), peak, peak - messages, seconds)


def main(
    out: Path | None = None, size: str = "full", devices: int = 4, rules: Sequence[str] = ("median",), say: Any = print
) -> dict[str, Any]:
    """Measures, prints, and writes rules.json where asked to.

    Args:
      out: a folder, made where it is missing.
      size: "full", "small" or "tiny" (for tests).
      devices: D.
      rules: names of `fl.robust` that need no arguments.
      say: takes lines of text.

    Returns:
      what rules.json holds.
    """
    clients, side = SIZES[size]
    found: dict[str, Any] = {"machine": machine.describe(), "clients": clients, "parameters": side * side}
    found |= {"devices": devices, "rules": {}}
    say(f"{clients} clients, {side * side:,} parameters, {devices} devices; models on each device")
    for rule in (PLAIN, *rules):
        one = measure(rule, clients, side, devices)
        found["rules"][rule] = one._asdict()
        say(
            f"{rule:<14} {one.messages:>4} messages; beside them {_number(one.compiled_adds)} as compiled, "
            f"{_number(one.peak_adds)} as it ran; {one.seconds:.1f} s a round"
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "rules.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def _temporary(compiled: Any, model: int, messages: int) -> float | None:
    size = getattr(compiled.memory_analysis(), "temp_size_in_bytes", None)
    return None if size is None else size / model - messages


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _loss(params: Any, batch: Any, key: Any) -> jax.Array:
    del key
    return ((batch["x"] @ params["w"] - batch["x"]) ** 2).sum(-1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--size", choices=list(SIZES), default="full")
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--rule", action="append", default=[], help="of fl.robust; median by default")
    given = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", given.devices)  # more than there are cores, where it must be
    main(given.out, given.size, given.devices, given.rule or ("median",))
