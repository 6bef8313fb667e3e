"""The loop over a client's local steps: one number of trips for all lanes; what needs no model is drawn ahead.

A step consists of two halves. What follows from the client and the step alone (which rows, which mask, which key) is
drawn for a block of steps at once; what needs the carry (the model, the optimizer) goes one after the other.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks

PyTree = Any
Count = Callable[[Any, Any], Any]  # (num_examples, work) -> steps, int32
Draw = Callable[[jax.Array], PyTree]  # step -> what it needs beside the carry
Step = Callable[[jax.Array, PyTree, PyTree], PyTree]  # (step, drawn, carry) -> carry

# By these names a client's loop and its first half are found in the client's traced program.
LOCAL_STEPS, DRAWN = "fedjaxlite_local_steps", "fedjaxlite_drawn"
STEP_SCOPE = "local_step"
"""What operations of a local step are called by in compiled programs and profiles."""
_MOST_DRAWN = 64


class Block(NamedTuple):
    """How a loop is cut.

    Attributes:
      size: steps that are drawn together, at least 1.
      whole: whether every block runs all of its steps, so that the compiler knows how many: an accelerator's host does
        not look at the loop's condition then. Steps past a client's last leave its carry untouched.
      exact: whether no lane can have a step past its last, which then costs no check.
    """

    size: int
    whole: bool
    exact: bool


def block_of(
    platform: str | None, *, largest: int | None, mean: float | None, turns: float = 1.0, alone: bool = False
) -> Block:
    """How to cut a loop.

    Args:
      platform: where it runs: "cpu", "gpu", "tpu" ...
      largest: steps of the largest client; None where that is not known before the program runs.
      mean: steps of a client in the mean; None likewise.
      turns: clients that a lane trains one after the other.
      alone: whether one lane sets the number of trips.

    Returns:
      a Block. On a CPU, where a loop's condition costs nothing, no step is spare. Elsewhere blocks run whole: as long
      as a lane's clients stay within 3 % of the largest one, or 10 % of their steps, in spite of spare ones.
    """
    largest = largest or 1
    mean = min(max(mean or 1.0, 1.0), largest)
    if platform in ("cpu", None):
        return Block(min(_MOST_DRAWN, max(1, round(mean))), whole=False, exact=alone)
    room = max(1.03 * largest, 1.1 * turns * mean)

    def fits(size: int) -> bool:
        even = turns * (mean + size - 1)  # at most: a client's last block is whole too
        return -(-largest // size) * size <= 1.03 * largest and (even <= room or mean == largest)

    size = next(size for size in range(min(_MOST_DRAWN, largest), 0, -1) if fits(size))
    return Block(size, whole=True, exact=False)


def known_steps(count: Count, num_examples: int, work: float = 1.0) -> int | None:
    """The steps of such a client, where they follow from what is known while tracing; else None."""
    with jax.ensure_compile_time_eval():
        found = count(jnp.int32(num_examples), jnp.float32(work))
    return None if checks.is_traced(found) else int(found)


def in_blocks(draw: Draw, step: Step, carry: PyTree, *, first: Any, num_steps: Any, trips: Any, block: Block) -> PyTree:
    """Runs `trips` steps of a lane from its step `first` on; those past `num_steps` leave the carry untouched.

    Args:
      draw: the first half of a step.
      step: the second.
      carry: pytree of arrays.
      first: int32 scalar.
      num_steps: int32 scalar, the client's steps altogether.
      trips: an int, or an int32 scalar that all lanes share; a multiple of the block's size where blocks run whole.
      block: how the loop is cut.
    """
    size = block.size
    guarded = _guarded(step, None if block.exact else num_steps)

    def one_block(number: jax.Array, carry: PyTree) -> PyTree:
        begin = first + number * size
        indices = begin + jnp.arange(size, dtype=jnp.int32)
        drawn = jax.vmap(draw)(indices)
        if block.whole:
            return jax.lax.scan(lambda c, item: (guarded(*item, c), None), carry, (indices, drawn))[0]

        def one(place: jax.Array, carry: PyTree) -> PyTree:
            here = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, place, keepdims=False), drawn)
            return guarded(begin + place, here, carry)

        return jax.lax.fori_loop(0, jnp.minimum(size, trips - number * size), one, carry)

    if isinstance(trips, int) and trips == size:
        return one_block(jnp.int32(0), carry)
    if size == 1 and not block.whole:
        each = lambda i, c: guarded(first + i, draw(first + i), c)  # noqa: E731
        return jax.lax.fori_loop(jnp.int32(0), trips, each, carry)
    return jax.lax.fori_loop(jnp.int32(0), -(-trips // size), one_block, carry)


def _guarded(step: Step, num_steps: Any) -> Step:
    """A step that leaves the carry untouched from `num_steps` on."""

    def guarded(index: jax.Array, drawn: PyTree, carry: PyTree) -> PyTree:
        with jax.named_scope(STEP_SCOPE):
            new = step(index, drawn, carry)
        return new if num_steps is None else jax.tree.map(partial(jnp.where, index < num_steps), new, carry)

    return guarded


def run_steps(data: Any, count: Count, draw: Draw, step: Step, carry: PyTree) -> PyTree:
    """A client's local steps, in whatever form its wave asks for.

    Args:
      data: a ClientData.
      count: steps of a client of a size that does a share of its work.
      draw: the first half of a step.
      step: the second; its carry keeps structure, shapes and dtypes.
      carry: pytree of arrays.

    Returns:
      the last carry.
    """
    wave = data.wave
    num_steps = count(data.num_examples, data.work)
    carry = jax.tree.map(jnp.asarray, carry)
    template = jax.eval_shape(lambda: carry)

    def checked(index: jax.Array, drawn: PyTree, carry: PyTree) -> PyTree:
        new = step(jnp.asarray(index, jnp.int32), drawn, carry)  # a Python int where jit is disabled
        checks.same_structure(
            new,
            template,
            what="the carry that a local step returned",
            than="the carry it was given",
            remedy="Return a carry of the same structure, shapes and dtypes.",
        )
        return new

    if wave.taken_apart:
        return _as_marked(num_steps, draw, checked, carry)
    if wave.max_steps is not None:
        indices = jnp.arange(_static_trips(wave, count), dtype=jnp.int32)
        one = _guarded(checked, num_steps)
        return jax.lax.scan(lambda c, index: (one(index, draw(index), c), None), carry, indices)[0]
    trips = jnp.max(count(wave.num_examples, wave.work))
    largest, mean = (known_steps(count, size) for size in (wave.max_size, wave.mean_size))
    block = block_of(wave.platform, largest=largest, mean=mean, alone=wave.num_lanes == 1)
    return in_blocks(draw, checked, carry, first=0, num_steps=num_steps, trips=trips, block=block)


def _as_marked(num_steps: Any, draw: Draw, step: Step, carry: PyTree) -> PyTree:
    """One client's loop as it is read, with its halves by name: whoever runs it cuts it and puts it in lanes."""

    def drawn_by(index: jax.Array) -> PyTree:
        return draw(index)

    def loop(num_steps: jax.Array, carry: PyTree) -> PyTree:
        def one(state: tuple[jax.Array, PyTree]) -> tuple[jax.Array, PyTree]:
            index, carry = state
            return index + 1, step(index, jax.jit(drawn_by)(index), carry)

        return jax.lax.while_loop(lambda state: state[0] < num_steps, one, (jnp.int32(0), carry))[1]

    drawn_by.__name__, loop.__name__ = DRAWN, LOCAL_STEPS
    return jax.jit(loop)(jnp.asarray(num_steps, jnp.int32), carry)


def _static_trips(wave: Any, count: Count) -> int:
    needed = known_steps(count, wave.max_size)
    if needed is None:
        return int(wave.max_steps or 0)
    if needed > int(wave.max_steps or 0):
        raise ValueError(
            f"`Execution(max_steps={wave.max_steps})` is less than the {needed} local steps of the largest client "
            f"({wave.max_size} examples). Raise max_steps, or train fewer epochs."
        )
    return needed
