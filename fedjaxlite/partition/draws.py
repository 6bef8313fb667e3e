"""Random proportions and sizes on the host, safe at any concentration."""

import heapq

import numpy as np


def dirichlet(rng: np.random.Generator, alpha: float, size: int) -> np.ndarray:
    """One draw of the symmetric Dirichlet(alpha, ..., alpha), float64 `[size]`.

    Drawn in logarithms: log Gamma(a) = log Gamma(a + 1) + log(U) / a. A plain ratio of Gamma draws is 0 / 0 at small
    concentrations, where every draw underflows.
    """
    with np.errstate(over="ignore"):
        logs = np.log(rng.standard_gamma(alpha + 1.0, size)) - rng.standard_exponential(size) / alpha
    logs = np.maximum(logs, -1e300)
    shares = np.exp(logs - logs.max())
    return shares / shares.sum()


def rounded(shares: np.ndarray, total: int) -> np.ndarray:
    """Integers `[size]` in proportion to `shares` that sum to `total` (largest remainder; ties to the first)."""
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(np.int64)
    missing = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return counts


def by_class(rng: np.random.Generator, codes: np.ndarray) -> np.ndarray:
    """`[n]` example indices sorted by class, in random order within each."""
    order = rng.permutation(len(codes))
    return order[np.argsort(codes[order], kind="stable")]


def even_sizes(total: int, parts: int) -> np.ndarray:
    """`[parts]` sizes that sum to `total` and differ by at most one, larger ones first."""
    sizes = np.full(parts, total // parts)
    sizes[: total % parts] += 1
    return sizes


def fill_up(owner: np.ndarray, num_clients: int, min_size: int, rng: np.random.Generator) -> np.ndarray:
    """Owners `[n]` in which every client has `min_size` examples.

    Clients that are short are filled up in order; each example is a random one of whichever client is largest then. One
    pass, so it ends whatever the draw was; owners of the rest are untouched.
    """
    sizes = np.bincount(owner, minlength=num_clients)
    short = np.flatnonzero(sizes < min_size)
    if not short.size:
        return owner
    owner = owner.copy()
    rows = by_class(rng, owner)
    ends = np.cumsum(sizes)
    largest = [(-int(size), int(client)) for client, size in enumerate(sizes) if size > min_size]
    heapq.heapify(largest)
    for client in short:
        for _ in range(min_size - int(sizes[client])):
            size, donor = heapq.heappop(largest)
            ends[donor] -= 1
            owner[rows[ends[donor]]] = client
            if -size - 1 > min_size:
                heapq.heappush(largest, (size + 1, donor))
    return owner
