"""What tables of papers count and measure: rounds to a target, intervals, seeds side by side, and data of their own."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.reproduce import figures, seeds, to_target
from fedjaxlite.reproduce.papers import ghosh2020, karimireddy2020, li2020
from fedjaxlite.reproduce.papers import reddi2021_tags as tags

PEOPLE = helpers.regression((4, 9, 1, 6, 2))


def test_rounds_to_a_target_are_counted_as_in_the_paper() -> None:
    curve = [0.1, 0.5, 0.4, 0.9]
    # Best so far: .1, .5, .5, .9 after rounds 1 to 4; .7 lies halfway between rounds 3 and 4.
    assert seeds.rounds_to(curve, 0.7, interpolate=True) == pytest.approx(3.5)
    assert seeds.rounds_to(curve, 0.7) == 4
    assert seeds.rounds_to(curve, 0.7, 2, interpolate=True) == pytest.approx(7.0)
    # Three quarters of the way from .1 in round 1 to .5 in round 2.
    assert seeds.rounds_to(curve, 0.4, interpolate=True) == pytest.approx(1.75)
    # What falls again was reached.
    assert seeds.rounds_to([0.2, 0.8, 0.1], 0.8, interpolate=True) == 2
    assert seeds.rounds_to([0.8, 0.1], 0.5, interpolate=True) == 1
    assert np.isnan(seeds.rounds_to(curve, 0.95, interpolate=True))
    assert seeds.rounds_to([0.1, float("nan"), 0.3], 0.2, interpolate=True) == pytest.approx(2.5)


def test_the_best_rate_is_that_with_which_most_seeds_arrive() -> None:
    curves = {0.1: [[0.2, 0.6], [0.6]], 0.3: [[0.7], [0.1, 0.1]], 1.0: [[0.1, 0.1], [0.1, 0.1]]}
    rate, rounds, text = to_target.best_rate(curves, 0.5)
    assert rate == 0.1
    assert rounds == [pytest.approx(1.75), 1.0]
    assert text == "0.1 of 3 (at the edge)"
    rate, rounds, text = to_target.best_rate({0.3: [[0.1]]}, 0.5)
    assert (rate, text) == (0.3, "0.3")
    assert np.isnan(rounds[0])
    found, rounds = karimireddy2020._best({0.1: np.array([[0.95], [0.1]]), 0.3: np.array([[0.1, 0.9], [0.9, 0.1]])})
    assert (found, rounds) == (0.3, [2.0, 1.0])


@pytest.mark.whole
def test_one_by_one_and_side_by_side_are_the_same_runs() -> None:
    """The two ways in which runs to a target are trained: on a CPU, and on an accelerator."""
    train, test = fl.datasets.load("digits", partition=fl.partition.iid(10, seed=0))
    model = fl.models.logistic(num_classes=10, input_shape=(8, 8, 1))
    evaluate = fl.evaluate(model, test)

    def make(rate: object) -> fl.Rounds:
        algorithm = algorithms.fed_avg(
            fl.losses.cross_entropy(model), client_optimizer=optax.sgd(rate), batch_size=50, epochs=1
        )
        return fl.rounds(algorithm, sampler=fl.sampling.uniform(3), aggregator=fl.weighted_mean(), execution=seeds.ONE)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        together = to_target._side_by_side(make, model, train, evaluate, (0.01, 0.5), 2, 0.7, 5)
        alone = {
            rate: to_target._one_by_one(make(rate), model, train, evaluate, rate, 2, 0.7, 5, None)
            for rate in (0.01, 0.5)
        }
    assert list(together) == list(alone) == [0.01, 0.5]
    for rate, curves in alone.items():
        assert [len(curve) for curve in together[rate]] == [len(curve) for curve in curves]
        for seed in range(2):
            np.testing.assert_allclose(together[rate][seed], curves[seed], atol=3e-3)  # one image of 359
    assert len(alone[0.5][0]) < 5  # the target ends a run
    assert alone[0.5][0] != alone[0.5][1]


@pytest.mark.whole
def test_runs_to_a_target_go_on_in_their_folder(tmp_path, monkeypatch) -> None:
    model = fl.models.logistic(num_classes=10, input_shape=(8, 8, 1))
    train, test = fl.datasets.load("digits", partition=fl.partition.iid(10, seed=0))
    algorithm = algorithms.fed_avg(
        fl.losses.cross_entropy(model), client_optimizer=optax.sgd(0.1), batch_size=50, epochs=1
    )
    made = fl.rounds(algorithm, sampler=fl.sampling.uniform(3), aggregator=fl.weighted_mean(), execution=seeds.ONE)
    arguments = (made, model, train, fl.evaluate(model, test), 0.1, 1, 2.0, 2, tmp_path)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        first = to_target._one_by_one(*arguments)
        monkeypatch.setattr(fl, "train", lambda *_, **__: pytest.fail("trained again"))
        assert to_target._one_by_one(*arguments) == first
    assert len(first[0]) == 2


@pytest.mark.whole
def test_seeds_side_by_side_are_the_runs_of_each() -> None:
    """Under hyperparameters that reach the run as tracers, and measured after every second round."""

    def make(rate: object) -> fl.Rounds:
        sampler = fl.sampling.uniform(4, dropout=0.5)
        return fl.rounds(helpers.fed_avg(rate), sampler=sampler, aggregator=fl.weighted_mean(), execution=seeds.ONE)

    init = lambda key: {"w": jax.random.normal(key, (3,)), "b": jnp.float32(0)}  # noqa: E731
    measure = lambda params, info: (params["w"].sum(), info.num_reported)  # noqa: E731
    play = seeds.player(make, init, num_rounds=4, every=2, measure=measure)
    states, (measured, reported) = play(0.02, PEOPLE, 2)
    assert measured.shape == reported.shape == (2, 2)
    run = make(0.02)
    for seed in range(2):
        first, sample, noise = jax.random.split(jax.random.key(seed), 3)
        state = run.init(init(first), PEOPLE, key=sample, noise_key=noise)
        for r in range(4):
            state, info = run.step(state, PEOPLE)
            if r % 2:
                assert reported[seed, r // 2] == info.num_reported
                np.testing.assert_allclose(measured[seed, r // 2], state.params["w"].sum(), rtol=1e-5, atol=1e-6)
        assert helpers.max_difference(seeds.of_seed(states, seed).params, state.params) < 1e-5
    with pytest.raises(ValueError, match="`num_rounds` is 5; expected a multiple of `every`, 2"):
        seeds.player(make, init, num_rounds=5, every=2)


def test_intervals_are_students() -> None:
    """Against the quantile of Student's t with four degrees of freedom, from a table: 2.776."""
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = seeds.interval(values)
    assert found.mean == 3.0
    assert found.half == pytest.approx(2.776 * np.std(values, ddof=1) / 5**0.5, rel=1e-3)
    assert np.isnan(seeds.interval([1.0]).half)


def test_similar_clients_are_dealt_and_the_others_sorted() -> None:
    y = np.random.default_rng(0).integers(0, 10, 1000)
    kinds = lambda owner: [len(np.unique(y[owner == client])) for client in range(20)]  # noqa: E731
    alike = karimireddy2020.similar(20, 1.0)({"y": y})
    unlike = karimireddy2020.similar(20, 0.0)({"y": y})
    assert np.bincount(alike).tolist() == np.bincount(unlike).tolist() == [50] * 20
    assert min(kinds(alike)) >= 8
    assert max(kinds(unlike)) <= 2


def test_purity_is_the_share_among_ones_own_kind() -> None:
    planted = np.array([0, 0, 1, 1, 2, 2])
    assert ghosh2020.purity(np.array([5, 5, 3, 3, 4, 4]), planted) == 1.0
    assert ghosh2020.purity(np.zeros(6, int), planted) == pytest.approx(1 / 3)


def test_invented_questions_tell_of_their_tags() -> None:
    """Words and tags are as unequal as in a language, clients differ, and a question's words point at its tags."""
    sizes = tags.Sizes(num_words=300, num_tags=20, num_clients=60, per_client=20)
    people = tags.questions(sizes, 60, 0)
    x, y = people.features["x"], people.features["y"]
    assert (x.shape, y.shape) == ((1200, 300), (1200, 20))
    assert set(np.unique(x.sum(1))) == {sizes.length}
    assert y.max() == 1
    assert y.sum(1).min() >= 1
    assert y.sum(1).max() <= 3
    words = np.sort(x.astype(int).sum(0))[::-1]
    assert words[:30].sum() > 4 * words[-150:].sum()
    other = tags.questions(sizes, 60, 1)
    assert not np.array_equal(x, other.features["x"])
    # The language is common to both: what words say of tags in one holds in the other.
    x, y = x.astype(float), y.astype(float)
    together, expected = x.T @ y, np.outer(x.sum(0), y.mean(0))
    said = np.log((together + 1) / (expected + 1))
    logits = other.features["x"] @ said + np.log(y.mean(0) + 1e-3)
    truth = jnp.asarray(other.features["y"])
    common = jnp.broadcast_to(jnp.asarray(y.mean(0), jnp.float32), truth.shape)
    assert tags.recall_at_5(jnp.asarray(logits, jnp.float32), truth) > tags.recall_at_5(common, truth) + 0.05


def test_rows_are_drawn_by_their_settings() -> None:
    rows = {"skewed: a": {"x": [1.0, 3.0]}, "skewed: b": {"x": 5.0}, "iid: a": {"x": [2.0, 2.0]}}
    figure = figures.points(figures.by_setting(rows), ("x",), xlabel="worth")
    assert [axes.get_title() for axes in figure.axes] == ["skewed", "iid"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["a", "b"]
    assert figure.axes[0].lines[0].get_xdata().tolist() == [2.0, 5.0]
    runs = {"skewed": {"a": np.array([[0.1, 0.3], [0.3, 0.5]])}, "iid": {"b": np.array([[0.5, 0.5]])}}
    figure = figures.panels(runs, metric="score", every=5)
    assert [axes.get_title() for axes in figure.axes] == ["skewed", "iid"]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), [[5, 0.2], [10, 0.4]])


def test_of_ten_devices_nine_are_stragglers_in_every_round_and_the_same_for_all_methods() -> None:
    met = fl.sampling.with_stragglers(fl.sampling.uniform(10), 0.9, 0.0, exact=True)
    kept = li2020.without_stragglers(met)
    people = fl.Population({}, jnp.arange(31), max_size=1)
    draw = jax.jit(jax.vmap(lambda r: [s.sample(jax.random.key(0), r, people) for s in (met, kept)]))
    partial, dropped = jax.tree.map(np.asarray, draw(jnp.arange(200, dtype=jnp.int32)))
    assert (dropped.reported.sum(1) == 1).all()
    assert ((partial.work < 1).sum(1) == 9).all()
    assert partial.reported.all()
    np.testing.assert_array_equal(dropped.reported, partial.work == 1)
    assert len(set(dropped.ids[dropped.reported])) == 30
