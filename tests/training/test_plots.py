"""Figures: what is drawn is what was given, it can be read without color, and bad input is refused by name."""

import io
import pickle

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

import fedjaxlite as fl
from fedjaxlite.data.client_report import ClientReport
from fedjaxlite.observers import History
from fedjaxlite.reproduce import seeds
from fedjaxlite.training import curves

plots = fl.plots
NAN = float("nan")


def records(values, **others):
    """Records of rounds 1, 2, ...; None in `values` is a round without an evaluation."""
    made = []
    for i, value in enumerate(values):
        record = {"round": i + 1, "bytes_up": 100, "bytes_down": 200, "seconds": 0.5, "loss": 1.0, **others}
        made.append(record if value is None else {**record, "test_accuracy": value})
    return made


def points(line):
    return line.get_xydata().tolist()


def legend_of(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def edges(band):
    """The lower and the upper edge of a band, `[T]` each, by ascending x."""
    vertices = band.get_paths()[0].vertices
    xs = np.unique(vertices[:, 0])
    return np.array([[f(vertices[vertices[:, 0] == x, 1]) for x in xs] for f in (np.min, np.max)])


def assert_looks_differ(axis):
    looks = [(line.get_linestyle(), str(line._dash_pattern), line.get_marker()) for line in axis.lines]
    assert len(set(looks)) == len(looks)


def test_a_curve_goes_through_the_rounds_that_were_evaluated():
    axis = plots.curves({"a": records([None, 0.5, None, 0.75])}).axes[0]
    assert points(axis.lines[0]) == [[2, 0.5], [4, 0.75]]
    assert (axis.get_xlabel(), axis.get_ylabel(), legend_of(axis)) == ("round", "test accuracy", ["a"])
    assert len(axis.collections) == 0


@pytest.mark.parametrize("bad", [NAN, float("inf"), None])
def test_a_value_that_is_not_finite_breaks_the_line(bad):
    run = records([0.1, 0.2, 0.3, 0.4])
    run[2]["test_accuracy"] = bad
    line = plots.curves(run).axes[0].lines[0]
    assert np.array_equal(line.get_ydata(), [0.1, 0.2, NAN, 0.4], equal_nan=True)
    assert 3 in line.get_markevery()  # a point without neighbors is seen by its marker alone


def test_costs_are_summed_over_all_rounds_before():
    runs = {"a": records([None, 0.5, None, 0.75])}
    axis = plots.accuracy_against_bytes(runs).axes[0]
    assert points(axis.lines[0]) == [[600, 0.5], [1200, 0.75]]
    axis.figure.canvas.draw()
    assert axis.get_xlabel() == "sent so far, up and down, by all clients"
    assert {tick.get_text().split()[-1] for tick in axis.get_xticklabels()} <= {"B", "kB"}
    assert points(plots.curves(runs, over="seconds").axes[0].lines[0]) == [[1.0, 0.5], [2.0, 0.75]]


def test_a_band_is_the_95_percent_interval_over_seeds():
    values = np.random.default_rng(0).normal(size=(4, 5))
    axis = plots.curves({"array": values, "records": [records(list(row)) for row in values]}).axes[0]
    assert legend_of(axis) == ["array (4 seeds)", "records (4 seeds)"]
    assert axis.get_legend().get_title().get_text() == "mean and 95 % interval"
    half = stats.t(3).ppf(0.975) * values.std(axis=0, ddof=1) / 2
    for line, band in zip(axis.lines, axis.collections, strict=True):
        assert line.get_ydata() == pytest.approx(values.mean(axis=0))
        assert edges(band) == pytest.approx(np.stack([values.mean(axis=0) - half, values.mean(axis=0) + half]))
    expected = [seeds.interval(column) for column in values.T]
    assert half == pytest.approx([interval.half for interval in expected])


def test_seeds_of_different_lengths_are_averaged_where_all_measured():
    axis = plots.curves({"a": [records([0.1, 0.2, 0.3]), records([0.3, None, 0.5, 0.9])]}).axes[0]
    assert points(axis.lines[0]) == [[1, pytest.approx(0.2)], [3, pytest.approx(0.4)]]
    axis = plots.curves({"a": [np.array([1.0, 2.0, 3.0]), np.array([3.0, 4.0])]}).axes[0]
    assert points(axis.lines[0]) == [[1, 2], [2, 3]]
    with pytest.raises(ValueError, match="the 2 seeds of run 'a' have 'test_accuracy' in no round together"):
        plots.curves({"a": [records([0.1, None]), records([None, 0.2])]})


def test_bytes_are_means_over_seeds_too():
    runs = {"a": [records([0.5]), records([0.7], bytes_up=300)]}
    assert points(plots.accuracy_against_bytes(runs).axes[0].lines[0]) == [[400, pytest.approx(0.6)]]
    for over, bytes_ in (("bytes_up", 200), ("bytes_down", 200)):
        assert points(plots.accuracy_against_bytes(runs, over=over).axes[0].lines[0]) == [[bytes_, pytest.approx(0.6)]]
    with pytest.raises(ValueError, match="`over` is 'seconds'; expected one of 'bytes', 'bytes_up', 'bytes_down'"):
        plots.accuracy_against_bytes(runs, over="seconds")


def test_histories_arrays_and_single_runs_are_runs():
    run = records([0.5, 0.6])
    expected = [[1, 0.5], [2, 0.6]]
    history = History(None, run)
    for given in (run, history, {"a": history}, [0.5, 0.6], jax.numpy.array([0.5, 0.6]), [history]):
        assert points(plots.curves(given).axes[0].lines[0]) == [[x, pytest.approx(y)] for x, y in expected]
    assert plots.curves(run).axes[0].get_legend() is None
    assert points(plots.curves({"a": [0.5, 0.6]}, every=10).axes[0].lines[0]) == [[10, 0.5], [20, 0.6]]


def test_up_to_64_lines_differ_without_color_and_a_second_call_goes_on():
    runs = {f"run {i}": np.arange(3.0) + i for i in range(64)}
    axis = plots.curves(runs).axes[0]
    assert len(axis.lines) == 64
    assert_looks_differ(axis)
    axis = plots.curves({"a": [1.0, 2.0]}).axes[0]
    assert plots.curves({"b": [[2.0, 3.0], [3.0, 4.0]]}, axes=axis) is axis.figure
    plots.curves({"c": [3.0, 4.0]}, axes=axis)
    assert_looks_differ(axis)
    assert legend_of(axis) == ["a", "b (2 seeds)", "c"]
    assert axis.get_legend().get_title().get_text() == "mean and 95 % interval"


def test_a_run_that_diverged_is_named_and_the_others_are_drawn():
    axis = plots.curves({"good": [0.5, 0.6], "bad": [NAN, NAN]}).axes[0]
    assert legend_of(axis) == ["good", "bad (never finite)"]
    with pytest.raises(ValueError, match="'test_accuracy' is finite in no round of any run"):
        plots.curves({"bad": [NAN, NAN]})


@pytest.mark.parametrize(
    ("runs", "options", "error", "text"),
    [
        ({}, {}, ValueError, "`runs` is empty; expected at least one entry"),
        ({"a": []}, {}, ValueError, "run 'a' has no records; train at least one round"),
        ({"a": [records([0.1]), []]}, {}, ValueError, "seed 1 of run 'a' has no records"),
        (
            {"a": records([0.1])},
            {"metric": "acc"},
            ValueError,
            "no record of run 'a' has 'acc'; they have 'bytes_up', 'bytes_down', 'seconds', 'loss', 'test_accuracy'. "
            "Pass one of them as metric=",
        ),
        (
            {"a": [{"round": 1, "test_accuracy": 0.5}]},
            {"over": "bytes"},
            ValueError,
            "record 0 of run 'a' has no 'bytes_up', only 'round', 'test_accuracy'",
        ),
        (
            {"a": records([0.1, 0.2]) + records([0.3])},
            {},
            ValueError,
            "record 2 of run 'a' is of round 1, after one of round 2; expected ascending rounds: pass the seeds",
        ),
        ({"a": [{"test_accuracy": 0.5}]}, {}, ValueError, "record 0 of run 'a' has no 'round'"),
        ({"a": records(["high"])}, {}, TypeError, "'test_accuracy' of run 'a' is 'high'; expected a number"),
        ({"a": records([0.1])}, {"over": "epochs"}, ValueError, "`over` is 'epochs'; expected one of 'round', 'bytes'"),
        ({"a": [0.1]}, {"over": "bytes"}, ValueError, "run 'a' is an array, which holds no bytes"),
        ({"a": np.ones((2, 3, 4))}, {}, ValueError, r"run 'a' is an array of shape \[2, 3, 4\]; expected \[rounds\]"),
        ({"a": 0.5}, {}, ValueError, r"run 'a' is an array of shape \[\]"),
        ({"a": "records.jsonl"}, {}, TypeError, "run 'a' is a str that is neither records nor numbers"),
        ({"a": [0.1]}, {"every": 0}, ValueError, "`every` is 0"),
        ({"a": [0.1]}, {"axes": "left"}, TypeError, "`axes` is a str; expected one matplotlib Axes"),
    ],
)
def test_bad_runs_are_refused(runs, options, error, text):
    with pytest.raises(error, match=text):
        plots.curves(runs, **options)


def test_clients_are_sorted_and_summed_up():
    report = ClientReport(np.array([1, 2, 0, 3]), {"accuracy": np.array([0.9, 0.5, NAN, 0.7])})
    axis = plots.clients({"a": report, "b": np.linspace(0.2, 1, 20)}).axes[0]
    assert points(axis.lines[0]) == [[pytest.approx(x), y] for x, y in [(100 / 6, 0.5), (50, 0.7), (500 / 6, 0.9)]]
    summary = ClientReport(np.ones(20), {"accuracy": np.linspace(0.2, 1, 20)}).summary()
    assert legend_of(axis) == [
        "a\nmean 0.7, worst tenth 0.5\n1 of 4 without a value",
        f"b\nmean {summary['accuracy_mean']:.3g}, worst tenth {summary['accuracy_worst10']:.3g}",
    ]
    assert axis.get_ylabel() == "accuracy of a client"
    assert "[%]" in axis.get_xlabel()
    assert_looks_differ(axis)


@pytest.mark.parametrize(
    ("metric", "better", "text"),
    [
        ("absolute_error", {}, "worst tenth 20"),
        ("mae", {"mae": "lower"}, "worst tenth 20"),
        ("mae", {"mae": "higher"}, "worst tenth 1"),
        ("mae", {}, "lowest tenth 1, highest 20"),
    ],
)
def test_the_worst_tenth_is_told_where_it_is_known(metric, better, text):
    report = ClientReport(np.ones(10), {metric: np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 20])}, better)
    (told,) = legend_of(plots.clients({"a": report}, metric=metric).axes[0])
    assert " ".join(told.split()) == f"a mean 6.5, {text}"  # long lines are broken


def test_bars_count_clients_side_by_side():
    given = {"a": np.array([0.05, 0.06, 0.95, 0.15]), "b": np.array([0.5, 1.0])}
    axis = plots.clients(given, kind="histogram").axes[0]
    heights = [[bar.get_height() for bar in group] for group in axis.containers]
    assert heights[0] == pytest.approx([50, 25, 0, 0, 0, 0, 0, 0, 0, 25])
    assert heights[1] == pytest.approx([0, 0, 0, 0, 0, 50, 0, 0, 0, 50])
    assert len({group[0].get_hatch() for group in axis.containers}) == 2
    left, right = (group[5] for group in axis.containers)
    assert 0.5 < left.get_x() < left.get_x() + left.get_width() == pytest.approx(right.get_x())
    assert right.get_x() + right.get_width() < 0.6
    axis = plots.clients({"loss": [3.0, 3.0]}, metric="loss", kind="histogram").axes[0]
    assert sum(bar.get_height() for bar in axis.containers[0]) == pytest.approx(100)


def test_bad_reports_are_refused():
    report = ClientReport(np.ones(2), {"loss": np.ones(2)})
    with pytest.raises(ValueError, match=r"`reports\['a'\]` has no 'accuracy'; it has 'loss'"):
        plots.clients({"a": report})
    with pytest.raises(ValueError, match=r"`reports\['a'\]` has shape \[2, 2\]; expected one value a client, \[N\]"):
        plots.clients({"a": np.ones((2, 2))})
    with pytest.raises(ValueError, match="`reports` has no finite 'accuracy' among 2 clients"):
        plots.clients([NAN, NAN])
    with pytest.raises(TypeError, match="`reports` is a str"):
        plots.clients("a")
    with pytest.raises(ValueError, match="`kind` is 'pie'; expected one of 'sorted', 'histogram', 'named'"):
        plots.clients([0.5], kind="pie")


def test_the_partition_is_drawn_into_given_axes():
    people = fl.Population.from_arrays({"y": [0, 0, 1, 1, 1]}, client_ids=[0, 0, 0, 1, 1])
    both = plots.partition(people).axes
    assert [bar.get_height() for bar in both[0].patches] == [3, 2]
    assert both[1].collections[0].get_offsets().astype(int).tolist() == [[0, 0], [0, 1], [1, 1]]
    figure, axes = plt.subplots(1, 2, layout="constrained")
    try:
        assert plots.partition(people, axes=axes[0]) is figure
        assert axes[0].collections[0].get_offsets().astype(int).tolist() == [[0, 0], [0, 1], [1, 1]]
        assert "2 clients" in axes[0].get_title()
        plots.partition(people, axes=axes)
        assert [bar.get_height() for bar in axes[0].patches] == [3, 2]
    finally:
        plt.close(figure)
    with pytest.raises(TypeError, match=r"`axes` is .*; expected one matplotlib Axes, or two"):
        plots.partition(people, axes=(1, 2, 3))


def test_epsilon_and_the_budget_are_drawn():
    runs = {"z = 1": [{"round": 1, "epsilon": 0.5}, {"round": 2}, {"round": 3, "epsilon": 0.9}]}
    axis = plots.epsilon(runs, budget=2.0).axes[0]
    assert points(axis.lines[0]) == [[1, 0.5], [3, 0.9]]
    assert list(axis.lines[1].get_ydata()) == [2, 2]
    assert legend_of(axis) == ["z = 1", "budget 2"]
    assert axis.get_ylim()[0] == 0
    with pytest.raises(ValueError, match=r"has 'epsilon'; they have .*observers=\[privacy.running_epsilon"):
        plots.epsilon({"a": records([0.1])})
    with pytest.raises(ValueError, match="`budget` is 0"):
        plots.epsilon(runs, budget=0)


def error_bars(axis):
    """The ends of all error bars, `[E, 2]`."""
    return np.concatenate([np.array(c.get_segments())[:, :, 1] for c in axis.collections])


def test_accuracy_stands_at_the_logarithm_of_epsilon():
    values = np.array([[0.9, 0.5, 0.7], [0.8, 0.6, 0.6]])
    figure = plots.accuracy_against_epsilon({"seeds": values, "one": [0.9, 0.4, 0.8]}, [float("inf"), 1, 8])
    axis = figure.axes[0]
    ticks = [(tick, text.get_text()) for tick, text in zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)]
    assert ticks == [(0, "1"), (3, "8"), (pytest.approx(4.2), "no noise")]
    assert axis.lines[0].get_ydata() == pytest.approx([0.55, 0.65, NAN, 0.85], nan_ok=True)
    assert axis.lines[0].get_xdata()[:2].tolist() == [0, 3]
    half = stats.t(1).ppf(0.975) * values.std(axis=0, ddof=1) / np.sqrt(2)
    expected = np.stack([values.mean(0) - half, values.mean(0) + half], axis=1)[[1, 2, 0]]
    assert error_bars(axis) == pytest.approx(expected)
    assert legend_of(axis) == ["seeds", "one"]


def test_intervals_of_the_tables_are_drawn():
    row = [seeds.interval([1.0, 2.0, 3.0]), seeds.interval([4.0, 6.0])]
    for given in (row, [interval._asdict() for interval in row]):
        axis = plots.accuracy_against_epsilon({"a": given}, (1, 2)).axes[0]
        assert points(axis.lines[0]) == [[0, 2], [1, 5]]
        assert error_bars(axis) == pytest.approx(np.array([[v.mean - v.half, v.mean + v.half] for v in row]))
    axis = plots.accuracy_against_epsilon({"a": [seeds.interval([1.0])]}, [float("inf")]).axes[0]
    assert len(axis.collections) == 0
    assert axis.get_legend().get_title().get_text() == ""


@pytest.mark.parametrize(
    ("rows", "epsilons", "error", "text"),
    [
        ({}, [1], ValueError, "`rows` is empty"),
        ({"a": [1, 2]}, [1, 2, 4], ValueError, r"`rows\['a'\]` has 2 values for 3 epsilons"),
        ({"a": np.ones((2, 2, 2))}, [1, 2], ValueError, r"`rows\['a'\]` has shape \[2, 2, 2\]; expected \[2\]"),
        ({"a": "high"}, [1], TypeError, r"`rows\['a'\]` is 'high'; expected 1 numbers or intervals"),
        ({"a": [1]}, [], ValueError, r"`epsilons` has shape \[0\]"),
        ({"a": [1, 2]}, [0, 1], ValueError, r"`epsilons` is \[0.0, 1.0\]; expected distinct numbers above 0"),
        ({"a": [1, 2]}, [1, 1], ValueError, "expected distinct numbers above 0"),
    ],
)
def test_bad_rows_are_refused(rows, epsilons, error, text):
    with pytest.raises(error, match=text):
        plots.accuracy_against_epsilon(rows, epsilons)


def test_pictures_are_drawn_in_rows_of_given_axes():
    original = np.random.default_rng(0).uniform(size=(2, 4, 4)).astype(np.float32)
    figure, axes = plt.subplots(2, 2)
    try:
        plots.reconstructions({"original": original, "found": original[:1, ..., None]}, axes=axes)
        drawn = [axis.images[0].get_array() for axis in figure.axes]
        assert [np.allclose(a, b) for a, b in zip(drawn, [*original, original[0]], strict=True)] == [True] * 3
    finally:
        plt.close(figure)
    with pytest.raises(ValueError, match=r"`axes` has shape \[3\]; expected \[1, 2\], one for each picture"):
        plots.reconstructions({"a": original}, axes=[1, 2, 3])
    with pytest.raises(ValueError, match=r"`bounds` is \(1, 0\); expected \(black, white\)"):
        plots.reconstructions({"a": original}, bounds=(1, 0))
    with pytest.raises(ValueError, match="`captions` has the rows 'b', but the pictures are those of 'a'"):
        plots.reconstructions({"a": original}, captions={"b": ["x"]})


def shown(figure):
    """{label: [[round, client], ...]} of the dots, and the counts above."""
    counts, dots = figure.axes
    return {line.get_label(): points(line) for line in dots.lines}, [
        p.get_data().values.tolist() for p in counts.patches
    ]


def test_who_took_part_is_drawn_from_infos_cohorts_and_ids():
    ids = np.array([[2, 0, -1], [1, 2, 3]])
    in_sum = np.array([[True, False, False], [True, True, True]])
    expected = {"reported": [[1, 2], [2, 1], [2, 2], [2, 3]], "selected, did not report": [[1, 0]]}
    info = fl.PassInfo(0, 0, 0, 0, 0, {}, {"id": ids, "in_sum": in_sum})
    each = [fl.PassInfo(0, 0, 0, 0, 0, {}, {"id": i, "in_sum": s}) for i, s in zip(ids, in_sum, strict=True)]
    cohort = fl.Cohort(np.maximum(ids, 0), ids >= 0, in_sum, np.ones((2, 3)), np.ones((2, 3)), np.zeros(2))
    for given in (info, info.clients, each, cohort):
        figure = plots.participation(given, 5)
        assert shown(figure) == (expected, [[1, 3], [2, 3]])
        assert figure.axes[0].get_title() == "5 clients, of which 3 reported at least once"
    assert shown(plots.participation(ids, 5))[1] == [[2, 3]]
    assert shown(plots.participation([ids[0].tolist()], 5, first_round=7))[0] == {"reported": [[7, 2], [7, 0]]}


def test_a_samplers_cohorts_are_drawn():
    people = fl.Population.from_arrays({"y": np.arange(20)}, client_ids=np.arange(20) // 2)
    sampler = fl.sampling.uniform(4, dropout=0.5)
    draw = jax.vmap(lambda key, r: sampler.sample(key, r, people))
    cohorts = draw(jax.random.split(jax.random.key(0), 6), jax.numpy.arange(6))
    dots, counts = shown(plots.participation(cohorts, 10))
    assert counts[1] == [4] * 6
    assert sum(map(len, dots.values())) == 24
    assert len(dots["reported"]) == int((cohorts.selected & cohorts.reported).sum())


def test_bad_cohorts_are_refused():
    with pytest.raises(ValueError, match="`cohorts` holds client 5, but `num_clients` is 5"):
        plots.participation([[5]], 5)
    with pytest.raises(TypeError, match="`cohorts` is a ndarray of float64; expected infos, Cohorts, or ints"):
        plots.participation(np.ones((2, 3)), 5)
    with pytest.raises(ValueError, match=r"`cohorts` holds ids of shape \[2\]; expected \[rounds, K\]"):
        plots.participation(np.array([1, 2]), 5)
    with pytest.raises(TypeError, match="`cohorts` is a list of"):
        plots.participation([[1], [1, 2]], 5)
    with pytest.raises(TypeError, match="`cohorts` is a list of float64"):
        plots.participation([], 5)
    with pytest.raises(ValueError, match="`num_clients` is 0"):
        plots.participation([[0]], 0)


def test_rates_are_drawn_and_refused():
    axis = plots.roc({f"attack {i}": ([0.0, 0.5, 1.0], [0.0, 0.5 + i / 20, 1.0]) for i in range(8)}).axes[0]
    assert points(axis.lines[1]) == [[1e-4, 1e-4], [0.5, 0.5], [1, 1]]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert_looks_differ(axis)
    with pytest.raises(ValueError, match=r"`curves\['a'\]` has rates of shape \[2\] and \[3\]"):
        plots.roc({"a": ([0, 1], [0, 0.5, 1])})
    with pytest.raises(TypeError, match=r"`curves\['a'\]` is a int; expected \(fpr, tpr\)"):
        plots.roc({"a": 3})


def test_a_runs_curves_show_every_accuracy_and_loss(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *a, **k: drawn.append(figure))
    curves.plot(records([None, 0.5, 0.6], accuracy=0.3), tmp_path / "curves.png", title="run")
    axes = drawn[0].axes
    assert [axis.get_ylabel() for axis in axes] == ["accuracy", "", "loss", ""]
    assert [points(line) for line in axes[0].lines] == [[[2, 0.5], [3, 0.6]], [[1, 0.3], [2, 0.3], [3, 0.3]]]
    assert points(axes[1].lines[0]) == [[600, 0.5], [900, 0.6]]
    assert legend_of(axes[1]) == ["test accuracy", "accuracy (clients, in training)"]


def every_figure(**options):
    people = fl.Population.from_arrays({"y": [0, 1, 1]}, client_ids=[0, 0, 1])
    run = {"a run with a name that needs more than a single line of the legend": records([0.1, 0.2], epsilon=1.0)}
    return {
        "confusion": plots.confusion(
            [[3, 1], [0, 2]], **{name: value for name, value in options.items() if name != "legend"}
        ),
        "curves": plots.curves(run, title=12 * "a long title ", **options),
        "accuracy_against_bytes": plots.accuracy_against_bytes(run, **options),
        "accuracy_against_epsilon": plots.accuracy_against_epsilon({"a": [0.5, 0.7]}, [1, 2], **options),
        "backdoor": plots.backdoor(
            {"a": {"success": [0.1, 0.2], "accuracy": [0.9, 0.8]}}, images={"clean": np.ones((4, 4))}, **options
        ),
        "clients": plots.clients({"a": [0.5, 0.7]}, **options),
        "epsilon": plots.epsilon(run, **options),
        # this one, `confusion` and `reconstructions` never have a legend
        "heat_map": plots.heat_map(
            [[0.5, 0.7]],
            ["a row with a long name"],
            ["x", "y"],
            label="accuracy",
            ylabel="rule",
            **{name: value for name, value in options.items() if name != "legend"},
        ),
        "participation": plots.participation([[0, 1], [1, 2]], 3, **options),
        "partition": plots.partition(people, **options),
        "reconstructions": plots.reconstructions(
            {"original": np.ones((2, 4, 4))}, **{name: value for name, value in options.items() if name != "legend"}
        ),
        "reliability": plots.reliability({"a": [[3, 0.4, 0.5], [2, 0.9, 1.0]]}, **options),
        "roc": plots.roc({"a": ([0, 0.5, 1], [0, 0.7, 1])}, **options),
    }


def test_every_figure_is_complete_and_shows_in_a_notebook(tmp_path):
    before = plt.get_fignums()
    figures = every_figure()
    assert plt.get_fignums() == before
    assert sorted(figures) == sorted(plots.__all__)
    for name, figure in figures.items():
        png = figure._repr_png_()
        assert png.startswith(b"\x89PNG"), name
        whole = figure.bbox
        for axis in figure.axes:
            box = axis.get_tightbbox()
            assert min(box.x0 - whole.x0, whole.x1 - box.x1) >= 0, f"{name}: cut off on the left or the right"
            assert min(box.y0 - whole.y0, whole.y1 - box.y1) >= 0, f"{name}: cut off above or below"
            if name != "reconstructions":
                assert axis.get_ylabel()
            legend = axis.get_legend()
            assert legend is None or legend.get_window_extent().x0 >= axis.get_window_extent().x1, f"{name}: legend"


def test_legends_can_be_left_out_of_every_figure():
    drawn = every_figure(legend=False)
    for name, figure in every_figure().items():
        assert any(axis.get_legend() for axis in figure.axes) == (
            name not in ("reconstructions", "confusion", "heat_map")
        ), name
        assert not any(axis.get_legend() for axis in drawn[name].axes), name
        assert len(drawn[name].axes) == len(figure.axes)
    people = fl.Population.from_arrays({"y": [0, 0, 1, 1]}, client_ids=["a", "a", "b", "b"])
    assert not any(axis.get_legend() for axis in fl.plot_partition(people, legend=False).axes)
    assert any(axis.get_legend() for axis in fl.plot_partition(people).axes)
    axis = plots.curves({"a": [1.0, 2.0]}).axes[0]
    plots.curves({"b": [1.0, 2.0]}, legend=False, axes=axis)
    assert legend_of(axis) == ["a"]
    with pytest.raises(TypeError, match="`legend` is 'right'; expected True or False"):
        plots.curves({"a": [1.0]}, legend="right")


def test_a_figure_of_ones_own_shows_too():
    figure = Figure(figsize=(8, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    assert not hasattr(figure, "_repr_png_")
    assert plots.curves({"a": [0.1, 0.2]}, axes=left) is plots.clients([0.1, 0.2], axes=right) is figure
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_file_is_written(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    plots.curves({"a": [0.1, 0.2]}, path=path)
    assert path.read_bytes().startswith(b"\x89PNG")
    saved = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **k: saved.append((figure, path)))
    figures = every_figure(path=path)
    assert saved == [(figure, path) for figure in figures.values()]


def test_a_figure_survives_pickling():
    figure = pickle.loads(pickle.dumps(plots.curves({"a": [0.1, 0.2]})))
    buffer = io.BytesIO(figure._repr_png_())
    assert buffer.read(4) == b"\x89PNG"
