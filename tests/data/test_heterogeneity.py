import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import heterogeneity, plot_partition


def population_of(histograms):
    """A population with these label counts [N, C]."""
    labels = [np.repeat(np.arange(len(row)), row) for row in histograms]
    return fl.Population.from_clients([{"y": y} for y in labels], allow_empty=True)


def test_values_by_hand():
    measured = heterogeneity(population_of([[6, 0], [1, 1], [0, 4]]))
    assert (measured.num_clients, measured.num_examples) == (3, 12)
    assert (measured.size_min, measured.size_median, measured.size_mean, measured.size_max) == (2, 4, 4, 6)
    # mean absolute difference of all pairs over twice the mean: (2 * (4 + 2 + 2) / 9) / 8
    assert measured.size_gini == pytest.approx(16 / 72)
    assert measured.classes.tolist() == [0, 1]
    assert measured.label_histograms.tolist() == [[6, 0], [1, 1], [0, 4]]
    whole = np.array([7, 5]) / 12
    assert measured.total_variation == pytest.approx([5 / 12, 1 / 12, 7 / 12])
    assert measured.total_variation_mean == pytest.approx(13 / 36)
    assert measured.total_variation_weighted == pytest.approx((6 * 5 + 2 * 1 + 4 * 7) / 144)
    assert measured.classes_per_client == pytest.approx(4 / 3)

    def kl(p, q):
        return sum(a * np.log2(a / b) for a, b in zip(p, q, strict=True) if a)

    for i, mix in enumerate(([1, 0], [0.5, 0.5], [0, 1])):
        middle = (np.array(mix) + whole) / 2
        assert measured.jensen_shannon[i] == pytest.approx((kl(mix, middle) + kl(whole, middle)) / 2)
    assert measured.jensen_shannon_weighted == pytest.approx(measured.jensen_shannon @ [6, 2, 4] / 12)


def test_ends_of_the_scale():
    same = heterogeneity(population_of([[3, 3], [5, 5]]))
    assert same.total_variation_mean == 0
    assert same.jensen_shannon_mean == 0
    apart = heterogeneity(population_of(np.eye(50, dtype=int)))
    assert apart.total_variation_mean == pytest.approx(0.98)
    assert 0.9 < apart.jensen_shannon_mean < 1
    assert apart.size_gini == 0
    one_has_all = heterogeneity(population_of([[1000, 0]] + [[0, 1]] * 99))
    assert one_has_all.size_gini > 0.85


def test_clients_without_labels_are_in_no_mean():
    measured = heterogeneity(population_of([[2, 2], [0, 0], [1, 1]]))
    assert np.isnan(measured.total_variation[1])
    assert measured.total_variation_mean == 0
    assert measured.jensen_shannon_weighted == 0
    assert measured.size_min == 0


def test_sequences_count_every_entry_but_the_ignored():
    clients = [{"y": [[1, 2, 0], [2, 2, 0]]}, {"y": [[1, 0, 0]]}]
    population = fl.Population.from_clients(clients)
    assert heterogeneity(population).label_histograms.tolist() == [[2, 1, 3], [2, 1, 0]]
    measured = heterogeneity(population, ignored_ids=(0,))
    assert measured.classes.tolist() == [1, 2]
    assert measured.label_histograms.tolist() == [[1, 3], [1, 0]]
    assert measured.size_max == 2


def test_report_reads_well():
    text = str(heterogeneity(population_of([[6, 0], [1, 1], [0, 4]])))
    assert text.splitlines()[0] == "3 clients, 12 examples, 2 classes"
    assert "min 2, median 4, mean 4.0, max 6; Gini 0.222" in text
    assert "total variation 0.361 (weighted by size 0.417)" in text


def test_errors():
    population = fl.Population.from_arrays({"x": [0.5], "y": [1]}, [0])
    with pytest.raises(ValueError, match=r"there is no feature 'z' among \['x', 'y'\]; pass label="):
        heterogeneity(population, label="z")
    with pytest.raises(TypeError, match="feature 'x' has dtype float32; expected integer labels"):
        heterogeneity(population, label="x")
    with pytest.raises(ValueError, match="the population holds no labels"):
        heterogeneity(population, ignored_ids=(1,))
    with pytest.raises(ValueError, match="`max_clients` is 0"):
        plot_partition(population, max_clients=0)


def test_plot_shows_every_count(tmp_path):
    histograms = np.array([[6, 0, 1], [1, 1, 0], [0, 4, 4]])
    figure = plot_partition(population_of(histograms), tmp_path / "partition.png")
    bars, bubbles = figure.axes
    assert [patch.get_height() for patch in bars.patches] == [7, 2, 8]
    drawn = bubbles.collections[0]
    places = [tuple(place) for place in drawn.get_offsets().astype(int).tolist()]
    assert places == [tuple(place) for place in np.argwhere(histograms).tolist()]
    areas = drawn.get_sizes() / drawn.get_sizes().max()
    assert areas == pytest.approx(histograms[histograms > 0] / 6)
    assert (bubbles.get_xlabel(), bubbles.get_ylabel(), bars.get_ylabel()) == ("client", "class (y)", "examples")
    assert (tmp_path / "partition.png").stat().st_size > 1000


def test_plot_is_limited_and_says_so():
    population = population_of(np.eye(80, 40, dtype=int) + 1).renamed([f"role {i}" for i in range(80)])
    figure = plot_partition(population, max_clients=30)
    bars, bubbles = figure.axes
    assert len(bars.patches) == 30
    assert "80 clients (first 30 shown)" in bars.get_title()
    assert bubbles.get_xticklabels()[0].get_text() == "role 0"
    assert len(bubbles.get_xticklabels()) <= 25
