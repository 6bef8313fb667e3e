"""What a secure sum must not be built with: thresholds that keep no secret, sums that overflow, cohorts too small."""

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp

import fedjaxlite as fl
from fedjaxlite.privacy.secagg import graph
from fedjaxlite.privacy.secagg.parameters import Parameters
from fedjaxlite.privacy.secagg.traffic import traffic

_COMPLETE = 64


@lru_cache(maxsize=64)
def default_neighbors(capacity: int) -> int:
    """How many neighbors a client shares keys with, unless given.

    Everybody in up to 64 slots. In more, the fewest that keep a round private, connected and live where a tenth of the
    clients works with the server and another tenth leaves, by `secagg.graph.derive`.

    Args:
      capacity: int, the slots of a cohort.

    Returns:
      k.

    Example:
      >>> default_neighbors(10)
      9
      >>> 9 < default_neighbors(100) < default_neighbors(1000) < 100
      True
    """
    return capacity - 1 if capacity <= _COMPLETE else graph.derive(capacity, corrupt=0.1, dropout=0.1).neighbors


def default_min_survivors(capacity: int, most: int, colluders: int) -> int:
    """The fewest messages whose sum is opened, unless given: 8, or a majority of few slots, two of them honest."""
    return max(min(8, capacity // 2 + 1), _least_survivors(capacity, most, colluders))


def _least_survivors(capacity: int, most: int, colluders: int) -> int:
    # As many of the whole cohort collude as of one client's holders.
    return -(-colluders * capacity // (most + 1)) + 2


@lru_cache(maxsize=64)
def protocol_bytes(capacity: int, most: int) -> tuple[int, int]:
    """What one client sends and gets in a round beside its masked message and the model: keys, shares, signatures.

    Args:
      capacity: the slots of a cohort, all of them taken.
      most: k.

    Returns:
      `(up, down)` in bytes, by the formula of `secagg.traffic` for a server that may lie.

    Example:
      >>> protocol_bytes(10, 9)
      (1737, 3292)
    """
    least = (most + 1) // 2 + 1
    agreed = Parameters(capacity, 1, most, least, 0, 0, 2, "lying")
    found = traffic(agreed, capacity)
    return found.up - found.vector, found.down


class Numbers(NamedTuple):
    """The arguments of `mask`, as plain values."""

    neighbors: int | None
    threshold: int | None
    colluders: int
    masking: str
    min_survivors: int | None


def checked_numbers(
    neighbors: int | None, threshold: int | None, colluders: int, masking: str, min_survivors: int | None
) -> Numbers:
    """Refuses arguments of `mask` that fit no cohort."""
    masking = fl.checks.one_of(("faithful", "algebraic"), masking=masking)
    colluders = fl.checks.nonnegative_int(colluders=colluders)
    if threshold is not None:
        threshold = fl.checks.positive_int(threshold=threshold)
    if neighbors is not None:
        neighbors = int(fl.checks.positive_int(neighbors=neighbors))
        if neighbors % 2:
            raise ValueError(
                f"`neighbors` is {neighbors}; expected an even number, half of them on either side of a client on the "
                f"ring: {neighbors + 1}, or None for everybody."
            )
    if min_survivors is not None:
        min_survivors = fl.checks.positive_int(min_survivors=min_survivors)
    return Numbers(neighbors, threshold, colluders, masking, min_survivors)


def check_threshold(capacity: int, most: int, threshold: int | None, colluders: int) -> None:
    """The two rules that keep secrets, and the one that lets the server recover anything, with their numbers."""
    holders = most + 1
    t = (holders + colluders) // 2 + 1 if threshold is None else threshold
    least = max((holders + colluders) // 2 + 1, colluders + 1)
    if max(t, least) > holders:
        raise ValueError(
            f"`mask` could not recover anything: with {colluders} colluders, {max(t, least)} of {holders} holders "
            f"would be needed for a secret (k = {most} neighbors and the client itself; capacity {capacity}). Lower "
            "`threshold` or `colluders`, or take more neighbors."
        )
    if t <= colluders:
        raise ValueError(
            f"`threshold` is {t} with {colluders} colluders, who could recover secrets without anybody's help; "
            f"expected t > c. Take at least {least}."
        )
    if 2 * t <= holders + colluders:
        raise ValueError(
            f"`threshold` is {t} of {holders} holders with {colluders} colluders: a server that tells some that a "
            f"client left and others that it did not gets both of its secrets, since 2 t = {2 * t} <= N + c = "
            f"{holders + colluders}. Take at least {least}."
        )


def check_min_survivors(capacity: int, most: int, colluders: int, min_survivors: int | None) -> None:
    """Refuses a smallest sum that would be one honest message, or that no round can reach."""
    least = _least_survivors(capacity, most, colluders)
    fewest = default_min_survivors(capacity, most, colluders) if min_survivors is None else min_survivors
    if fewest < least:
        raise ValueError(
            f"`min_survivors` is {fewest} with {least - 2} colluders in the cohort; expected at least {least}: a sum "
            "with one honest message in it is that message."
        )
    if fewest > capacity:
        raise ValueError(
            f"`min_survivors` is {fewest} and the cohort has {capacity} slots, so every round would be refused. Lower "
            "it, or take more clients a round."
        )


def check_wire(wire: fl.Wire) -> None:
    """Refuses a wire whose messages cannot be masked, or whose sum could overflow."""
    if wire.masked:
        raise ValueError("`mask` stands behind another mask; one hides as much as two. Leave one out.")
    if wire.fold != "sum":
        raise ValueError(f"`mask` hides every message, and {wire.fold!r} needs to see them. Leave one of them out.")
    for path, leaf in jax.tree_util.tree_flatten_with_path((wire.value, wire.weight, dict(wire.scalars)))[0]:
        if wire.group != "mod32" or leaf.dtype != jnp.uint32:
            raise ValueError(
                f"`mask` needs integers mod 2^32 in uint32, got {leaf.dtype}{list(leaf.shape)} at "
                f"{fl.checks.path_str(path[1:])}; put fl.quantize(...) before it."
            )
    if wire.weight_cap is None:
        raise ValueError(
            "`mask` sums integer weights and needs a cap on them. Use fl.mean(), or "
            "fl.weighted_mean(weight_cap=...) with an algorithm that weighs by example counts."
        )
    if wire.capacity * wire.weight_cap > 2**31 - 1:
        raise ValueError(
            f"`mask` can overflow: capacity {wire.capacity} x weight cap {wire.weight_cap} = "
            f"{wire.capacity * wire.weight_cap}, more than 2^31 - 1. Lower the cap or the capacity."
        )
    if wire.capacity < 2:
        raise ValueError(
            f"`mask` hides messages in a sum, and the cohort has {wire.capacity} slot: the sum would be the message. "
            "Take more clients a round."
        )
