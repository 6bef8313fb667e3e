"""Label skew: clients whose mixes of classes differ."""

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.partition import draws
from fedjaxlite.partition.basic import check_min_size
from fedjaxlite.partition.partitioner import LEFT_OUT, Features, Partitioner, check_enough, class_codes


def dirichlet(num_clients: int, *, alpha: float, min_size: int = 1, label: str = "y", seed: int = 0) -> Partitioner:
    """Each class is divided over the clients by a draw of Dirichlet(alpha): small alpha, strong skew.

    Sizes differ too. A client that is left with fewer than `min_size` examples is filled up with random examples of
    whichever client is largest, in one deterministic pass: nothing is drawn again until it fits, so any alpha ends.

    With `min_size=0` this has the law of Flower's `DirichletPartitioner(self_balancing=False, min_partition_size=0)`,
    not its draws. Flower differs in `min_partition_size`, 10 by default: it draws everything again until no client is
    smaller, and gives up after some tries. `self_balancing=True`, where a client above the mean size gets nothing more,
    is another law.

    Args:
      num_clients: N.
      alpha: concentration per client, above 0; 100 is near IID, 0.1 gives most clients a few classes.
      min_size: int of at least 0; 0 leaves the draw as it is and allows empty clients.
      label: name of a feature `[n]` of classes.
      seed: int of at least 0.

    Returns:
      A `Partitioner`.

    Raises:
      ValueError: arguments out of range; when applied, no such feature or too few examples.

    Guarantees:
      Every example has exactly one owner, no client has fewer than `min_size`, whatever alpha: no proportion
      is ever NaN.

    Reference:
      Yurochkin et al. (2019), Bayesian nonparametric federated learning of neural networks.
      https://arxiv.org/abs/1905.12022. Hsu, Qi, Brown (2019), Measuring the effects of non-identical data distribution
      for federated visual classification. https://arxiv.org/abs/1909.06335 (their clients of fixed size are
      `dirichlet_fixed_size`).

    Example:
      >>> import numpy as np
      >>> import fedjaxlite as fl
      >>> owners = fl.partition.dirichlet(5, alpha=0.1, seed=0)({"y": np.arange(100) % 10})
      >>> owners.shape, int(np.bincount(owners, minlength=5).min()) >= 1
      ((100,), True)
    """
    num_clients = checks.positive_int(num_clients=num_clients)
    alpha = checks.concrete(alpha=checks.positive(alpha=alpha))
    check_min_size(min_size)
    host_arrays.generator(seed)

    def assign(features: Features) -> np.ndarray:
        classes, codes = class_codes(features, label, "dirichlet")
        check_enough("dirichlet", num_clients, min_size, len(codes))
        rng = host_arrays.generator(seed)
        owner = np.empty(len(codes), np.int64)
        for rows in _rows_of_classes(rng, codes, len(classes)):
            cuts = np.floor(np.cumsum(draws.dirichlet(rng, alpha, num_clients))[:-1] * len(rows))
            owner[rows] = np.searchsorted(cuts, np.arange(len(rows)), side="right")
        return draws.fill_up(owner, num_clients, min_size, rng)

    params = {"num_clients": num_clients, "alpha": alpha, "min_size": min_size, "label": label, "seed": seed}
    return Partitioner("dirichlet", params, assign, num_clients, allow_empty=min_size == 0)


def dirichlet_fixed_size(
    num_clients: int, *, alpha: float, examples_per_client: int | None = None, label: str = "y", seed: int = 0
) -> Partitioner:
    """Clients of one size, each with a class mix drawn from Dirichlet(alpha).

    Clients are served in random order and draw without replacement. Where a class has run out, a client's share of it
    goes to the classes that are left, in proportion to its own mix (to what is left, where its mix gives them nothing).

    Flower's `InnerDirichletPartitioner` draws one example at a time, each for a random client that is not full, so that
    a class runs out for everybody at once. Here it runs out for those who are served later: the first keep their mix
    whole. The fewer examples are left out, the more the two differ, and clients hold fewer classes here.

    Args:
      num_clients: N.
      alpha: concentration per class, above 0. Hsu et al. write the concentration alpha * prior: for C balanced classes
        their alpha is C times this one.
      examples_per_client: m. Owners are -1 for the n - N * m examples that are left out; None uses all examples, and
        the sizes are then equal to within one.
      label: name of a feature `[n]` of classes.
      seed: int of at least 0.

    Returns:
      A `Partitioner`.

    Raises:
      ValueError: arguments out of range; when applied, no such feature or too few examples.

    Guarantees:
      No example has two owners, sizes are as asked, and no proportion is NaN, whatever alpha.

    Reference:
      Hsu, Qi, Brown (2019), Measuring the effects of non-identical data distribution for federated visual
      classification. https://arxiv.org/abs/1909.06335

    Example:
      >>> import numpy as np
      >>> import fedjaxlite as fl
      >>> partition = fl.partition.dirichlet_fixed_size(4, alpha=0.1, examples_per_client=20)
      >>> np.bincount(partition({"y": np.arange(100) % 10}) + 1).tolist()      # 20 are left out
      [20, 20, 20, 20, 20]
    """
    num_clients = checks.positive_int(num_clients=num_clients)
    alpha = checks.concrete(alpha=checks.positive(alpha=alpha))
    host_arrays.generator(seed)
    if examples_per_client is not None:
        examples_per_client = checks.positive_int(examples_per_client=examples_per_client)

    def assign(features: Features) -> np.ndarray:
        classes, codes = class_codes(features, label, "dirichlet_fixed_size")
        check_enough("dirichlet_fixed_size", num_clients, examples_per_client or 1, len(codes))
        rng = host_arrays.generator(seed)
        rows = _rows_of_classes(rng, codes, len(classes))
        left = np.array([len(r) for r in rows])
        sizes = draws.even_sizes(len(codes), num_clients)
        if examples_per_client is not None:
            sizes[:] = examples_per_client
        owner = np.full(len(codes), LEFT_OUT)
        for client in rng.permutation(num_clients):
            counts = _draw_counts(rng, draws.dirichlet(rng, alpha, len(classes)), left, int(sizes[client]))
            for c in np.flatnonzero(counts):
                owner[rows[c][left[c] - counts[c] : left[c]]] = client
            left -= counts
        return owner

    params = {
        "num_clients": num_clients,
        "alpha": alpha,
        "examples_per_client": examples_per_client,
        "label": label,
        "seed": seed,
    }
    return Partitioner("dirichlet_fixed_size", params, assign, num_clients)


def label_shards(num_clients: int, *, shards_per_client: int = 2, label: str = "y", seed: int = 0) -> Partitioner:
    """The pathological split: sorted by label, cut into equal shards, a few random shards a client.

    Within a class examples are in random order before shards are cut. Flower's `ShardPartitioner` keeps their stored
    order, and its shards have one size, floor(n / (N * s)): what is left over belongs to nobody, and may be whole
    shards. Where N * s divides n, the counts of classes have the same law.

    Args:
      num_clients: N.
      shards_per_client: s; there are N * s shards, of sizes equal to within one.
      label: name of a feature `[n]` of classes.
      seed: int of at least 0.

    Returns:
      A `Partitioner`.

    Raises:
      ValueError: arguments below 1; when applied, no such feature or fewer examples than shards.

    Guarantees:
      Every example has exactly one owner; no client is empty.

    Reference:
      McMahan et al. (2017), Communication-efficient learning of deep networks from decentralized data.
      https://arxiv.org/abs/1602.05629 (MNIST: 100 clients, 2 shards of 300 each).

    Example:
      >>> import numpy as np
      >>> import fedjaxlite as fl
      >>> y = np.repeat(np.arange(10), 60)
      >>> owners = fl.partition.label_shards(10, shards_per_client=2)({"y": y})
      >>> max(len(set(y[owners == i].tolist())) for i in range(10))
      2
    """
    num_clients, shards_per_client = checks.positive_int(num_clients=num_clients, shards_per_client=shards_per_client)
    host_arrays.generator(seed)

    def assign(features: Features) -> np.ndarray:
        _, codes = class_codes(features, label, "label_shards")
        check_enough("label_shards", num_clients, shards_per_client, len(codes))
        rng = host_arrays.generator(seed)
        count = num_clients * shards_per_client
        shard = np.repeat(np.arange(count), draws.even_sizes(len(codes), count))
        owner = np.empty(len(codes), np.int64)
        owner[draws.by_class(rng, codes)] = (rng.permutation(count) // shards_per_client)[shard]
        return owner

    params = {"num_clients": num_clients, "shards_per_client": shards_per_client, "label": label, "seed": seed}
    return Partitioner("label_shards", params, assign, num_clients)


def k_classes(num_clients: int, *, k: int, label: str = "y", seed: int = 0) -> Partitioner:
    """Every client has exactly k classes, and a class is divided equally among the clients that have it.

    Each client takes the k classes that the fewest clients have so far, ties at random: how many clients share a class
    differs by at most one, and every class is used.

    Flower's `PathologicalPartitioner` draws each client's classes on its own (class_assignment_mode="random"): how many
    clients share a class varies, and classes that nobody drew are left out. Its "deterministic" mode gives client i the
    classes i to i + k - 1, counted around, which are always neighbors; "first-deterministic" does so with the first
    class alone. Its parts of a class are consecutive in the stored order; here they are random.

    Args:
      num_clients: N.
      k: classes of each client.
      label: name of a feature `[n]` of classes.
      seed: int of at least 0.

    Returns:
      A `Partitioner`.

    Raises:
      ValueError: arguments below 1; when applied: fewer than k classes, too few clients to use every class, or a class
        with fewer examples than clients that share it.

    Guarantees:
      Every example has exactly one owner; every client has exactly k classes.

    Reference:
      Li, Diao, Chen, He (2022), Federated learning on non-IID data silos. https://arxiv.org/abs/2102.02079 (#C=k).

    Example:
      >>> import numpy as np
      >>> import fedjaxlite as fl
      >>> y = np.arange(200) % 10
      >>> owners = fl.partition.k_classes(10, k=3)({"y": y})
      >>> {len(set(y[owners == i].tolist())) for i in range(10)}
      {3}
    """
    num_clients, k = checks.positive_int(num_clients=num_clients, k=k)
    host_arrays.generator(seed)

    def assign(features: Features) -> np.ndarray:
        classes, codes = class_codes(features, label, "k_classes")
        if k > len(classes):
            raise ValueError(f"`k` is {k}, but feature {label!r} has {len(classes)} classes; expected at most as many.")
        check_enough("k_classes", num_clients, k, len(codes))
        if num_clients * k < len(classes):
            raise ValueError(
                f"num_clients={num_clients} with k={k} use at most {num_clients * k} of the {len(classes)} classes; "
                "ask for more clients or a larger k, or leave those classes out first."
            )
        rng = host_arrays.generator(seed)
        holds = _balanced_choice(rng, num_clients, len(classes), k)
        owner = np.empty(len(codes), np.int64)
        for c, rows in enumerate(_rows_of_classes(rng, codes, len(classes))):
            sharing = rng.permutation(np.flatnonzero(holds[:, c]))
            if len(rows) < len(sharing):
                raise ValueError(
                    f"class {classes[c]!s} has {len(rows)} examples for the {len(sharing)} clients that share it; ask "
                    "for fewer clients, or a smaller k."
                )
            owner[rows] = np.repeat(sharing, draws.even_sizes(len(rows), len(sharing)))
        return owner

    params = {"num_clients": num_clients, "k": k, "label": label, "seed": seed}
    return Partitioner("k_classes", params, assign, num_clients)


def _rows_of_classes(rng: np.random.Generator, codes: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """For each class its rows, in random order."""
    ends = np.cumsum(np.bincount(codes, minlength=num_classes))
    return np.split(draws.by_class(rng, codes), ends[:-1])


def _draw_counts(rng: np.random.Generator, mix: np.ndarray, left: np.ndarray, size: int) -> np.ndarray:
    """`[C]` how many of each class a client gets: multinomial in its mix, never more than are left."""
    counts = np.zeros_like(left)
    while (missing := size - int(counts.sum())) > 0:
        room = left - counts
        weights = np.where(room > 0, mix, 0.0)
        if weights.sum() <= 0:
            weights = room.astype(np.float64)
        counts += np.minimum(rng.multinomial(missing, weights / weights.sum()), room)
    return counts


def _balanced_choice(rng: np.random.Generator, num_clients: int, num_classes: int, k: int) -> np.ndarray:
    """Which classes each client holds, bool `[N, C]`, k classes a client, spread evenly over the classes."""
    used = np.zeros(num_classes, np.int64)
    holds = np.zeros((num_clients, num_classes), bool)
    for client in range(num_clients):
        chosen = np.lexsort((rng.random(num_classes), used))[:k]
        holds[client, chosen] = True
        used[chosen] += 1
    return holds
