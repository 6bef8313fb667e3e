"""The laws of a sampler."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.testing.compare import assert_close, host

# Two-sided: a normal variable is beyond this with probability 2e-9.
_SIGMAS = 6.0


def check_sampler(
    sampler: fl.Sampler,
    num_clients: int,
    *,
    population: fl.Population | None = None,
    num_rounds: int = 200,
    seed: int = 0,
) -> None:
    """Holds a sampler to what `fl.Sampler` and `fl.Cohort` promise, and to its own accounting.

    Form: shapes and dtypes, distinct ids in range, spare slots in their documented form, work in (0, 1], no overflow
    and no scale that is not announced. Purity: the cohort is a function of key and round alone, with and without
    `jit`, in any order; with a `memory`, of the memory, which may go over the host in the middle of a run, and which
    learns random numbers for what clients tell. Accounting: size, separation, participations; for "poisson" and
    "without_replacement" (before dropout) every client's frequency, at six standard deviations, so that a right sampler
    is refused with probability below 2e-9 a client.

    Args:
      sampler: the Sampler to test.
      num_clients: N.
      population: what `sample` gets; N clients with one example each if None.
      num_rounds: rounds to draw, fewer if the sampler serves fewer.
      seed: of the sampling key.

    Raises:
      AssertionError: naming law, round and slot.

    Example:
      >>> check_sampler(fl.sampling.uniform(3), num_clients=10)
    """
    sampler.check(num_clients)
    if population is None:
        offsets = np.arange(num_clients + 1, dtype=np.int32)
        population = fl.Population({"x": np.zeros((num_clients,), np.float32)}, offsets, 1)
    data, rounds = population, num_rounds if sampler.num_rounds is None else min(num_rounds, sampler.num_rounds)
    key, what = jax.random.key(seed), f"sampler law, {sampler.name} on {num_clients} clients"
    if sampler.memory is None:
        draw = jax.jit(lambda numbers: jax.lax.map(lambda r: sampler.sample(key, r, data), numbers))
        numbers = jnp.arange(rounds, dtype=jnp.int32)
        drawn: Any = host(draw(numbers))
        backwards: Any = host(draw(numbers[::-1]))
        assert_close(jax.tree.map(lambda x: x[::-1], backwards), drawn, what=f"{what}: drawn in another order")
        last = sampler.sample(key, rounds - 1, data)
        assert_close(last, jax.tree.map(lambda x: x[-1], drawn), what=f"{what}: round {rounds - 1} without jit")
    else:
        drawn = _remembered(sampler, sampler.memory, key, data, rounds, what)
    _check_form(sampler, drawn, num_clients, what)
    _check_accounting(sampler, drawn, num_clients, what)


def _remembered(
    sampler: fl.Sampler, memory: fl.sampling.Memory, key: Any, data: fl.Population, rounds: int, what: str
) -> Any:
    """The cohorts of a sampler with a memory, whose second half comes twice: at once, and from a memory on the host."""
    sizes = jnp.asarray(data.num_examples, jnp.int32)
    begin = memory.init(fl.sampling.Setting(data.num_clients, sizes, 8, 8, None, 8))

    def one(state: Any, number: Any) -> Any:
        cohort, state = memory.sample(state, key, number, data)
        told = jax.random.exponential(jax.random.fold_in(key, number), cohort.ids.shape, jnp.float32)
        seen = fl.sampling.Seen(cohort, cohort.reported, sizes[cohort.ids], dict.fromkeys(memory.reads, told))
        return memory.learn(state, seen), cohort

    run = jax.jit(lambda state, numbers: jax.lax.scan(one, state, numbers))
    early, late = jnp.split(jnp.arange(max(2, rounds - rounds % 2), dtype=jnp.int32), 2)
    middle, first = run(begin, early)
    end, second = run(middle, late)
    again: Any = run(jax.tree.map(lambda leaf: jnp.array(np.array(leaf)), middle), late)
    assert_close(again, (end, second), what=f"{what}: from round {len(early)} on, its memory having been on the host")
    shapes = jax.eval_shape(lambda: sampler.sample(key, 0, data))
    if shapes != jax.eval_shape(lambda: jax.tree.map(lambda x: x[0], first)):
        raise AssertionError(f"{what}: `sample` gives a cohort of another form than that of its memory.")
    return jax.tree.map(lambda a, b: np.concatenate([np.asarray(a), np.asarray(b)]), first, second)


def _check_form(sampler: fl.Sampler, drawn: Any, num_clients: int, what: str) -> None:
    c = sampler.capacity
    form = {"ids": np.int32, "selected": bool, "reported": bool, "work": np.float32, "scale": np.float32}
    for name, dtype in form.items():
        array = getattr(drawn, name)
        if array.shape[1:] != (c,) or array.dtype != dtype:
            raise AssertionError(
                f"{what}: `{name}` is {array.dtype}{list(array.shape[1:])}; expected {np.dtype(dtype)}[{c}], the "
                "capacity."
            )
    ids, selected, spare = drawn.ids, drawn.selected, ~drawn.selected
    rules = {
        "an id is out of range": (ids < 0) | (ids >= num_clients),
        "a spare slot does not hold id 0, work 1 and scale 1": spare
        & ((ids != 0) | (drawn.work != 1) | (drawn.scale != 1)),
        "a client reports that was not selected": drawn.reported & spare,
        "work is outside (0, 1]": ~((drawn.work > 0) & (drawn.work <= 1)),
        "a scale is negative or not finite": ~((drawn.scale >= 0) & np.isfinite(drawn.scale)),
        "an id is selected twice": _repeated(ids, selected),
    }
    if not sampler.scaled:
        rules["a scale differs from 1 although `scaled` is False"] = drawn.scale != 1
    for text, broken in rules.items():
        if broken.any():
            r, slot = (int(i) for i in np.argwhere(broken)[0])
            row = jax.tree.map(lambda x, at=(r, slot): x[at].item(), drawn._replace(overflow=None))
            raise AssertionError(f"{what}: {text}: round {r}, slot {slot}: {row}.")
    if drawn.overflow.any() and not sampler.may_overflow:
        raise AssertionError(
            f"{what}: overflow in round {int(np.argmax(drawn.overflow))} although may_overflow is False."
        )


def _repeated(ids: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """Where a selected id was in an earlier selected slot of its round."""
    own = np.where(selected, ids, -1 - np.arange(ids.shape[1]))
    order = np.argsort(own, axis=1, kind="stable")
    ranked = np.take_along_axis(own, order, 1)
    twice = np.zeros_like(selected)
    np.put_along_axis(twice, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], 1)
    return twice


def _check_accounting(sampler: fl.Sampler, drawn: Any, num_clients: int, what: str) -> None:
    facts, num_rounds = sampler.accounting, len(drawn.ids)
    took = np.zeros((num_rounds, num_clients), bool)
    r, slot = np.nonzero(drawn.selected)
    took[r, drawn.ids[r, slot]] = True
    counts = took.sum(0)
    most = facts.participations(num_rounds)
    if counts.max(initial=0) > most:
        i = int(counts.argmax())
        raise AssertionError(
            f"{what}: client {i} takes part in {counts[i]} of {num_rounds} rounds; the accounting allows {most}."
        )
    last = np.full(num_clients, -num_clients - facts.min_separation)
    for number, row in enumerate(took):
        close = row & (number - last < facts.min_separation)
        if close.any():
            i = int(close.argmax())
            raise AssertionError(
                f"{what}: client {i} takes part in rounds {last[i]} and {number}; the accounting promises a separation "
                f"of {facts.min_separation}."
            )
        last[row] = number
    rate = facts.rate if facts.kind == "poisson" else None
    if facts.kind == "without_replacement" and facts.cohort_size == sampler.capacity:
        rate = sampler.capacity / num_clients
    if rate is None:
        return
    spread = _SIGMAS * math.sqrt(num_rounds * rate * (1 - rate)) + _SIGMAS
    i = int(np.abs(counts - num_rounds * rate).argmax())
    if abs(counts[i] - num_rounds * rate) > spread:
        raise AssertionError(
            f"{what}: client {i} takes part in {counts[i]} of {num_rounds} rounds; the accounting says {rate:.4g} a "
            f"round, {num_rounds * rate:.1f} plus or minus {spread:.1f} at six standard deviations."
        )
