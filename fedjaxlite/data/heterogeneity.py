"""How unlike the clients are: sizes, label mixes, distances between them; as numbers, as text, as a picture."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.client_report import gini
from fedjaxlite.data.on_disk import reading
from fedjaxlite.data.population import Population

if TYPE_CHECKING:
    pass


class Heterogeneity(NamedTuple):
    """Statistics of a population; printing it gives a report.

    The distances compare each client's label distribution with the whole population's. Both lie in [0, 1]: 0 is IID.
    A client with no labels has NaN, and is in no mean.

    Attributes:
      num_clients: N.
      num_examples: the total.
      size_min: examples of the smallest client; likewise `size_median`, `size_mean`, `size_max`.
      size_gini: 0 where all clients have equal sizes, towards 1 where one client has everything.
      classes: `[C]` the labels that occur, ascending.
      label_histograms: int64 `[N, C]`, labels of each client.
      total_variation: float64 `[N]`, half the L1 distance; mean and `_weighted` mean (by labels held) below.
      jensen_shannon: float64 `[N]`, the divergence in bits.
      total_variation_mean: over clients, each counting once.
      total_variation_weighted: over clients, each counting by its number of labels.
      jensen_shannon_mean: over clients, each counting once.
      jensen_shannon_weighted: over clients, each counting by its number of labels.
      classes_per_client: float, the mean number of classes that a client holds.
    """

    num_clients: int
    num_examples: int
    size_min: int
    size_median: float
    size_mean: float
    size_max: int
    size_gini: float
    classes: np.ndarray
    label_histograms: np.ndarray
    total_variation: np.ndarray
    jensen_shannon: np.ndarray
    total_variation_mean: float
    total_variation_weighted: float
    jensen_shannon_mean: float
    jensen_shannon_weighted: float
    classes_per_client: float

    def __str__(self) -> str:
        classes = len(self.classes)
        return "\n".join(
            [
                f"{self.num_clients} clients, {self.num_examples} examples, {classes} classes",
                f"  examples a client       min {self.size_min}, median {self.size_median:g}, "
                f"mean {self.size_mean:.1f}, max {self.size_max}; Gini {self.size_gini:.3f}",
                f"  classes a client        mean {self.classes_per_client:.2f} of {classes}",
                f"  label distance to all   total variation {self.total_variation_mean:.3f} "
                f"(weighted by size {self.total_variation_weighted:.3f})",
                f"                          Jensen-Shannon  {self.jensen_shannon_mean:.3f} bits "
                f"(weighted by size {self.jensen_shannon_weighted:.3f})",
            ]
        )


def heterogeneity(population: Population, *, label: str = "y", ignored_ids: tuple[int, ...] = ()) -> Heterogeneity:
    """Measures how much the clients of a population differ in size and in labels.

    Args:
      population: N clients.
      label: name of an integer feature, `[n]` or `[n, ...]`; every entry of a sequence counts.
      ignored_ids: labels that are none, such as the 0 that pads the sequences of "shakespeare".

    Returns:
      A `Heterogeneity`.

    Raises:
      TypeError: the labels are no integers. ValueError: there is no such feature, or no label at all.

    Reference:
      Total variation is half the "earth mover's distance" of Zhao et al. (2018), Federated learning with non-IID data.
      https://arxiv.org/abs/1806.00582. Lin (1991), Divergence measures based on the Shannon entropy.
      https://doi.org/10.1109/18.61115

    Example:
      >>> import fedjaxlite as fl
      >>> population = fl.Population.from_arrays({"y": [0, 0, 1, 1]}, client_ids=["a", "a", "b", "b"])
      >>> print(fl.heterogeneity(population))
      2 clients, 4 examples, 2 classes
        examples a client       min 2, median 2, mean 2.0, max 2; Gini 0.000
        classes a client        mean 1.00 of 2
        label distance to all   total variation 0.500 (weighted by size 0.500)
                                Jensen-Shannon  0.311 bits (weighted by size 0.311)
    """
    classes, histograms = _label_histograms(population, label, ignored_ids)
    sizes = np.diff(np.asarray(population.offsets, np.int64))
    held = histograms.sum(axis=1)
    with np.errstate(invalid="ignore"):
        mixes = histograms / held[:, None]
    whole = histograms.sum(axis=0) / held.sum()
    variation = 0.5 * np.abs(mixes - whole).sum(axis=1)
    divergence = _jensen_shannon(mixes, whole)
    some = held > 0
    weights = held[some] / held.sum()
    return Heterogeneity(
        num_clients=len(sizes),
        num_examples=int(sizes.sum()),
        size_min=int(sizes.min()),
        size_median=float(np.median(sizes)),
        size_mean=float(sizes.mean()),
        size_max=int(sizes.max()),
        size_gini=gini(sizes),
        classes=classes,
        label_histograms=histograms,
        total_variation=variation,
        jensen_shannon=divergence,
        total_variation_mean=float(variation[some].mean()),
        total_variation_weighted=float(weights @ variation[some]),
        jensen_shannon_mean=float(divergence[some].mean()),
        jensen_shannon_weighted=float(weights @ divergence[some]),
        classes_per_client=float((histograms[some] > 0).sum(axis=1).mean()),
    )


def _label_histograms(
    population: Population, label: str, ignored_ids: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    checks.one_instance(Population, "a Population", population=population)
    label = checks.text("It names a feature.", label=label)
    if checks.is_traced(population):
        raise TypeError("`population` is traced; expected a Population on the host. Measure it outside of jit.")
    ignored = checks.as_array("ignored_ids", ignored_ids, "a tuple of ints")
    if ignored.ndim != 1 or (ignored.size and ignored.dtype.kind not in "iu"):
        raise TypeError(f"`ignored_ids` is {checks.shown(ignored_ids)}; expected a tuple of ints, such as (0,).")
    if label not in population.features:
        raise ValueError(f"there is no feature {label!r} among {sorted(population.features)}; pass label=.")
    labels = population.features[label]
    if labels.dtype.kind not in "iub":
        raise TypeError(f"feature {label!r} has dtype {labels.dtype}; expected integer labels: bin it first.")
    if population.on_disk:
        return _counted_on_disk(population, label, ignored)
    labels = np.asarray(labels)
    owner = np.repeat(np.arange(population.num_clients), np.diff(np.asarray(population.offsets, np.int64)))
    labels, owner = _real(labels, owner, ignored)
    _check_some(labels.size)
    classes, codes = np.unique(labels, return_inverse=True)
    count = population.num_clients * len(classes)
    flat = np.bincount(owner * len(classes) + codes.ravel(), minlength=count)
    return classes, flat.reshape(population.num_clients, len(classes))


def _real(labels: np.ndarray, owner: np.ndarray, ignored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels that count and the client of each, flat."""
    owner = np.broadcast_to(owner.reshape(-1, *[1] * (labels.ndim - 1)), labels.shape)
    if ignored.size:
        real = ~np.isin(labels, ignored)
        return labels[real], owner[real]
    return labels.ravel(), owner.ravel()


def _check_some(count: int) -> None:
    if not count:
        raise ValueError("the population holds no labels but those of `ignored_ids`; expected at least one.")


def _counted_on_disk(population: Population, label: str, ignored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two passes over the labels, block by block: which there are, and how many each client has of each."""
    found = [np.zeros(0, population.features[label].dtype)]
    for _, block in reading.column_blocks(population, label):
        found = [np.unique(np.concatenate([*found, np.unique(block)]))]
    classes = found[0][~np.isin(found[0], ignored)]
    _check_some(classes.size)
    counts = np.zeros(population.num_clients * len(classes), np.int64)
    for start, block in reading.column_blocks(population, label):
        rows = np.arange(start, start + len(block))
        labels, owner = _real(block, np.searchsorted(population.offsets, rows, side="right") - 1, ignored)
        # Of a stretch of clients, so that a block costs what it holds.
        first = int(owner[0]) if owner.size else 0
        flat = np.bincount((owner - first) * len(classes) + np.searchsorted(classes, labels))
        counts[first * len(classes) : first * len(classes) + len(flat)] += flat
    return classes, counts.reshape(population.num_clients, len(classes))


def _jensen_shannon(mixes: np.ndarray, whole: np.ndarray) -> np.ndarray:
    middle = 0.5 * (mixes + whole)
    return 0.5 * (_divergence(mixes, middle) + _divergence(np.broadcast_to(whole, mixes.shape), middle))


def _divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of each row, in bits; 0 log 0 is 0."""
    ratio = np.divide(p, q, out=np.ones_like(q), where=p != 0)
    return np.maximum((p * np.log2(ratio)).sum(axis=1), 0.0)
