"""What masks cost: generators beside the host's ciphers, a whole masked sum, and a round that leaves masks out.

`python -m fedjaxlite.benchmarks.secure_aggregation --out DIR` prints and writes it; `--size small` is a quick look. The
host's ciphers are those of `cryptography`.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.benchmarks import contenders, machine
from fedjaxlite.benchmarks.timing import ratios, spread, take_turns
from fedjaxlite.benchmarks.workloads import WORKLOADS
from fedjaxlite.privacy.masking.masks import add_masks
from fedjaxlite.privacy.masking.roster import Masks
from fedjaxlite.privacy.masking.secure_sum import secure_sum


class Size(NamedTuple):
    """How much is measured.

    Attributes:
      num_words: D, entries of an update.
      num_clients: n, in one sum.
      neighbors: k of the rings; n or more is everybody.
      num_masks: what the generators add up in one call.
      round_turns: how often the sums with masks are timed, which take minutes.
    """

    num_words: int
    num_clients: int
    neighbors: tuple[int, ...]
    num_masks: int
    round_turns: int


SIZES = {
    "full": Size(1_663_370, 100, (22, 32, 58, 100), 32, 2),
    "small": Size(200_000, 20, (8, 20), 16, 3),
    "tiny": Size(1000, 4, (2, 4), 3, 1),
}


def main(out: Path | None = None, turns: int = 7, size: str = "full") -> dict[str, Any]:
    """Measures everything, prints it, and writes secure_aggregation.json where asked to.

    Args:
      out: a folder, made where it is missing.
      turns: how often what takes little time is timed.
      size: "full", "small" or "tiny" (for tests).

    Returns:
      what secure_aggregation.json holds.
    """
    fl.checks.one_of(tuple(SIZES), size=size)
    fl.checks.positive_int(turns=turns)
    chosen = SIZES[size]
    found: dict[str, Any] = {"machine": machine.describe(), "size": size, "turns": turns}
    found |= {**chosen._asdict(), "neighbors": list(chosen.neighbors)}
    found["generators"] = generators(chosen, turns)
    found["sums"] = sums(chosen, turns)
    found["training"] = training(size, turns)
    found["machine"]["load_average_at_the_end"] = machine.load_average()
    print(table(found))
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / "secure_aggregation.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def generators(size: Size, turns: int) -> dict[str, Any]:
    """Seconds a mask, when several are added up: JAX on one device, and the host's ciphers on one core."""
    count, num_words = size.num_masks, size.num_words
    keys = np.random.default_rng(0).integers(0, 2**32, (count, 8), np.uint32)
    masks = Masks(jnp.asarray(keys), jnp.ones((count,), jnp.uint32), jnp.int32(count))
    add = jax.jit(add_masks)
    zeros = jnp.zeros((num_words,), jnp.uint32)
    runs: dict[str, Callable[[], Any]] = {
        "JAX ChaCha20": lambda: add(zeros, masks),
        "JAX ChaCha20, one mask": lambda: add(zeros, masks._replace(number=jnp.int32(1))),
        "host ChaCha20": _on_host("ChaCha20", keys, num_words),
        "host AES-256-CTR": _on_host("AES", keys, num_words),
    }
    take_turns(runs, 1)
    made = {name: 1 if name.endswith("one mask") else count for name in runs}
    return {
        name: spread([seconds / made[name] for seconds in times])._asdict()
        for name, times in take_turns(runs, turns).items()
    }


def _on_host(name: str, keys: np.ndarray, num_words: int) -> Callable[[], Any]:
    """Adds up keystreams of a cipher of `cryptography`, in place."""
    from cryptography.hazmat.primitives.ciphers import Cipher, modes
    from cryptography.hazmat.primitives.ciphers import algorithms as ciphers

    zeros, stream = bytes(4 * num_words), bytearray(4 * num_words + 16)  # `update_into` wants room for one more block
    words = np.frombuffer(stream, np.uint32, num_words)

    def run() -> np.ndarray:
        total = np.zeros(num_words, np.uint32)
        for key in keys:
            cipher = (
                Cipher(ciphers.AES256(key.tobytes()), modes.CTR(bytes(16)))
                if name == "AES"
                else Cipher(ciphers.ChaCha20(key.tobytes(), bytes(16)), mode=None)
            )
            cipher.encryptor().update_into(zeros, stream)
            np.add(total, words, out=total)
        return total

    return run


def sums(size: Size, turns: int) -> dict[str, Any]:
    """Seconds of one sum of updates that cost nothing to make: quantized, masked, summed and unmasked.

    With a tenth of the clients leaving after the keys were shared; so their masks have to be taken off too.
    """
    n = size.num_clients
    people = fl.Population.from_arrays({"x": np.ones(n, np.float32)}, client_ids=np.arange(n))
    everyone = fl.sampling.cohort(jnp.arange(n, dtype=jnp.int32), jnp.ones((n,), bool))
    most = everyone._replace(reported=jnp.arange(n) >= n // 10)
    update = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, size.num_words).astype(np.float32))

    def program(*codecs: fl.Aggregator) -> Callable[[fl.Cohort], Any]:
        chain = fl.chain(fl.mean(), fl.clip_by_value(1.0), *codecs)
        call = fl.federated_sum(_send, aggregator=chain, execution=fl.Execution(lanes=1))
        return lambda who: call(update, people, who, key=jax.random.key(0))[0].value

    quick = {"plain": program(fl.quantize(bits=16)), "algebraic": program(secure_sum(masking="algebraic"))}
    masked = {_graph(k, n): program(secure_sum(neighbors=k)) for k in size.neighbors}
    found = _timed(quick, everyone, turns, "")
    found |= _timed(masked, everyone, size.round_turns, "")
    found |= _timed({name: masked[name] for name in list(masked)[:1]}, most, size.round_turns, ", a tenth leaves")
    return found


def _send(update: jax.Array, data: fl.ClientData) -> fl.ClientOutput:
    x = data.features["x"][data.offset]
    return fl.ClientOutput({"update": update * x}, jnp.int32(1))


def _graph(k: int, n: int) -> str:
    return f"{k} neighbors" if k < n - 1 else f"all {n - 1} others"


def _timed(
    programs: dict[str, Callable[[fl.Cohort], Any]], who: fl.Cohort, turns: int, note: str
) -> dict[str, dict[str, float]]:
    runs = {name + note: lambda run=run: run(who) for name, run in programs.items()}
    take_turns(runs, 1)
    return {name: spread(times)._asdict() for name, times in take_turns(runs, turns).items()}


def training(size: str, turns: int) -> dict[str, Any]:
    """The time of a round of training (W1) with masks left out, over that of the same round merely quantized."""
    problem = WORKLOADS["w1"].build(size)
    setting = contenders.Setting(1, jax.device_count())
    population = contenders.placements(problem.population)(setting.devices)
    head = (fl.mean(), fl.clip_by_global_norm(1.0))
    codecs: dict[str, Sequence[fl.Aggregator]] = {
        "float": (),
        "quantized": (fl.quantize(bits=16),),
        "algebraic": (secure_sum(bits=16, masking="algebraic", min_survivors=2),),
    }
    runs = {name: contenders.ours(problem, setting, population, fl.chain(*head, *codecs[name])) for name in codecs}
    take_turns(runs, 1)
    times = take_turns(runs, turns)
    return {
        "seconds": {name: spread(values)._asdict() for name, values in times.items()},
        "algebraic over quantized": ratios(times["algebraic"], times["quantized"])._asdict(),
        "quantized over float": ratios(times["quantized"], times["float"])._asdict(),
    }


def table(found: dict[str, Any]) -> str:
    """What was measured, as text."""
    words, on = found["num_words"], found["machine"]
    lines = [f"masks of {words:,} words ({4e-6 * words:.2f} MB)", _row("generator", "ms a mask", "masks/s", "GB/s")]
    for name, time in found["generators"].items():
        middle = time["median"]
        lines.append(_row(name, f"{1e3 * middle:.2f}", f"{1 / middle:,.0f}", f"{4e-9 * words / middle:.2f}"))
    lines += ["", f"one sum of {found['num_clients']} updates", _row("masks", "seconds", "low", "high")]
    for name, time in found["sums"].items():
        lines.append(_row(name, *(f"{time[key]:.3g}" for key in ("median", "low", "high"))))
    lines += ["", "a round of training (W1)", _row("times", "median", "low", "high")]
    for name in ("algebraic over quantized", "quantized over float"):
        lines.append(_row(name, *(f"{found['training'][name][key]:.3f}" for key in ("median", "low", "high"))))
    lines.append("")
    lines.append(f"{on['cpu']}, {on['cores']} cores, {len(on['devices'])} {on['backend']} devices; {on['date']}")
    return "\n".join(lines)


def _row(name: str, *cells: str) -> str:
    return f"{name:<36}" + "".join(f"{cell:>12}" for cell in cells)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m fedjaxlite.benchmarks.secure_aggregation", description=__doc__)
    parser.add_argument("--out", type=Path, default=None, help="folder for secure_aggregation.json")
    parser.add_argument("--size", choices=tuple(SIZES), default="full")
    parser.add_argument("--turns", type=int, default=7, help="how often what takes little time is timed")
    given = parser.parse_args()
    fl.use_cpu_cores()
    main(given.out, given.turns, given.size)
