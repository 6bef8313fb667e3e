"""Pipelines under privacy: what they cost, that nothing is cut, and what noise does."""

import dataclasses
import itertools
import math
from functools import lru_cache

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pipelines import everyone, learner
from private_runs import DELTA, noised, run

import fedjaxlite as fl
from fedjaxlite import privacy
from fedjaxlite.preprocessing import clip_quantiles, impute, one_hot, pipeline, standardize, vocabulary
from fedjaxlite.privacy.accounting.backend import gaussian_epsilon as exact

N = 40
CLIENTS = {"per": "clients"}


def people(seed=0):
    """40 clients of up to 9 rows: an age between 20 and 90, a code, a hole here and there."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 10, N)
    owner = np.repeat(np.arange(N), sizes)
    age = np.clip(rng.normal(50 + 10 * rng.normal(size=N)[owner], 8), 20, 90)
    x = np.stack([age, rng.integers(0, 4, len(owner))], axis=1).astype(np.float32)
    x[rng.random(len(owner)) < 0.1, 0] = np.nan
    tokens = rng.integers(0, 6, (len(owner), 2)).astype(np.int32)
    features = {"x": x, "tokens": tokens}
    return fl.Population.from_arrays(features, client_ids=owner, check_finite=False)


PEOPLE = people()
STEPS = {
    "mean": (1, impute("x", columns=[0], bounds=(20, 90), **CLIENTS)),
    "median": (8, impute("x", by="median", columns=[0], bounds=(20, 90), num_rounds=8, **CLIENTS)),
    "most_frequent": (1, impute("x", by="most_frequent", columns=[1], codes=(0, 3), **CLIENTS)),
    "clip": (12, clip_quantiles("x", 0.1, 0.9, columns=[0], bounds=(20, 90), num_rounds=12, **CLIENTS)),
    "standardize": (1, standardize("x", bounds=[(20, 90), (0, 3)], **CLIENTS)),
    "one_hot": (1, one_hot("x", columns=[1], codes=(0, 3), min_share=0.1, **CLIENTS)),
    "vocabulary": (1, vocabulary("tokens", size=3, num_ids=6, min_share=0.05, **CLIENTS)),
    "by digits": (3, vocabulary("tokens", size=3, num_ids=2**20, min_share=0.05, heavy_hitters=True, **CLIENTS)),
}
"""Steps by name, and how many sums each makes under noise."""


def chain(codec, *behind):
    return fl.chain(fl.mean(over=N), codec, *behind)


def close(got, want, tolerance):
    for name in want:
        assert got[name] == pytest.approx(want[name], abs=tolerance), name


@pytest.mark.parametrize("name", STEPS)
def test_every_step_states_its_sums(name):
    """T releases of Gaussian noise z are one of z / sqrt(T)."""
    num_sums, step = STEPS[name]
    (made,) = pipeline(step).computations(chain(noised(4.0)))
    assert (made.name, made.num_sums) == (step.name, num_sums)
    assert privacy.epsilon(made, N, delta=DELTA) == pytest.approx(exact(4.0 / math.sqrt(num_sums), DELTA), rel=1e-6)


def test_a_pipeline_and_a_training_are_one_figure():
    steps = [step for _, step in STEPS.values()]
    fitted = pipeline(STEPS["clip"][1], STEPS["standardize"][1]).fit(
        PEOPLE, aggregator=chain(noised(30.0)), execution=helpers.ONE
    )
    rounds = run(fl.sampling.full(N), noised(8.0))
    both = privacy.epsilon([*fitted.computations, (rounds, 12)], PEOPLE, delta=DELTA)
    assert both == pytest.approx(exact(1 / math.sqrt(13 / 30.0**2 + 12 / 64), DELTA), rel=1e-6)
    assert "standardize('x')" in str(privacy.report([*fitted.computations, (rounds, 12)], PEOPLE, delta=DELTA))
    before = pipeline(*steps).computations(chain(noised(8.0)))
    want = exact(8.0 / math.sqrt(sum(count for count, _ in STEPS.values())), DELTA)
    assert privacy.epsilon(before, N, delta=DELTA) == pytest.approx(want, rel=1e-6)


def test_noise_is_calibrated_before_any_data_are_touched():
    made = pipeline(STEPS["clip"][1], STEPS["standardize"][1])
    z = privacy.calibrate(lambda z: made.computations(chain(noised(z))), N, epsilon=1.0, delta=1e-6)
    assert z == pytest.approx(math.sqrt(13) * 4.224679, rel=1e-4)


def test_without_noise_there_is_no_figure():
    fitted = pipeline(standardize("x")).fit(PEOPLE, execution=helpers.ONE)
    with pytest.raises(ValueError, match=r"the aggregator of standardize\('x'\) holds no mechanism of differential"):
        privacy.epsilon(fitted.computations, PEOPLE, delta=DELTA)
    silent = pipeline(STEPS["standardize"][1]).computations(chain(noised(0.0)))
    assert privacy.epsilon(silent, N, delta=DELTA) == math.inf


@lru_cache(maxsize=8)
def without_limit(name):
    return learner(STEPS[name][1])(PEOPLE)


LIMITS = {
    "clip of 1": lambda: chain(privacy.gaussian(clip_norm=1.0, noise_multiplier=0.0)),
    "clip of 0.01": lambda: chain(privacy.gaussian(clip_norm=0.01, noise_multiplier=0.0)),
    "in L1": lambda: chain(privacy.laplace(clip_norm=0.3, noise_multiplier=0.0)),
    "by entries": lambda: chain(fl.clip_by_value(0.2)),
    "another denominator": lambda: fl.chain(fl.mean(over=7.0), fl.clip_by_global_norm(2.0)),
}


CUT = itertools.product(LIMITS, ["standardize", "clip", "one_hot"])


@pytest.mark.parametrize(("limit", "name"), helpers.some_often(CUT, 7))
def test_nothing_is_cut_whatever_the_clip_norm_is(limit, name):
    """The same numbers as without a limit: messages are scaled to what passes."""
    step = STEPS[name][1]
    got = learner(step, aggregator=LIMITS[limit]())(PEOPLE)
    close(got, without_limit(name), 70 / 2**12 if name == "clip" else 1e-3)


@pytest.mark.parametrize(
    ("name", "norm"),
    helpers.some_often(
        [
            *((name, "l2") for name in ("mean", "median", "standardize", "one_hot", "vocabulary")),
            *((name, "l1") for name in ("median", "standardize", "vocabulary")),
            ("standardize", "linf"),
        ],
        4,
    ),
)
def test_a_client_sends_no_more_than_passes_and_some_that_much(name, norm):
    """Clients whose values lie at the ends of their bounds send the longest vectors there are."""
    ends = np.tile(np.float32([[20, 0], [90, 3]]), (4, 1))
    features = {"x": ends, "tokens": np.full((8, 2), 3, np.int32)}
    data = fl.Population.from_arrays(features, client_ids=np.arange(8))
    order, sent = {"l2": 2, "l1": 1, "linf": np.inf}[norm], []

    def note(length):
        sent.append(float(length))
        return np.float32(length)

    def encode(state, own, message, client):
        entries = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(message.value)])
        length = jax.pure_callback(
            note, jax.ShapeDtypeStruct((), jnp.float32), jnp.linalg.norm(entries, order), vmap_method="sequential"
        )
        return message._replace(value=jax.tree.map(lambda leaf: leaf + 0.0 * length, message.value)), own

    init = lambda wire: ((), wire._replace(bounds=wire.bounds._replace(**{norm: 0.37})))  # noqa: E731
    learner(STEPS[name][1], aggregator=fl.chain(fl.mean(), fl.Aggregator(init, encode, name="watch")))(data)
    assert len(sent) >= 8
    assert 0.369 < max(sent) < 0.37


WIRES = {
    "integers": lambda: fl.chain(fl.mean(over=N), fl.clip_by_value(1.0), fl.quantize(bits=16)),
    "a secure sum": lambda: fl.chain(fl.mean(over=N), fl.clip_by_global_norm(1.0), privacy.secure_sum(bits=16)),
    "noise of the clients' own": lambda: fl.chain(
        fl.mean(over=N), privacy.skellam(clip_norm=1.0, noise_multiplier=0.01, bits=20, min_survivors=N)
    ),
}


@pytest.mark.parametrize("wire", helpers.some_often(WIRES, 3))
def test_integers_and_masks_on_the_wire(wire):
    (made,) = pipeline(STEPS["standardize"][1]).computations(WIRES[wire](), helpers.ONE)
    got = made(PEOPLE, everyone(PEOPLE), jax.random.key(0), noise_key=jax.random.key(1))  # the same in every run
    close(got, without_limit("standardize"), 0.05)


def test_noise_is_as_large_as_it_is_said_to_be():
    """Of 60 fits, the mean's error against z sqrt(3) / N of half the width, to four standard errors (9 %)."""
    step, z = standardize("x", columns=[0], bounds=(20, 90), **CLIENTS), 0.5
    (made,) = pipeline(step).computations(chain(noised(z)), helpers.ONE)
    want = learner(step)(PEOPLE)["mean"][0]
    cohort, errors = everyone(PEOPLE), []
    for seed in range(60):
        numbers = made(PEOPLE, cohort, jax.random.key(0), noise_key=jax.random.key(seed))
        errors.append(numbers["mean"][0] - want)
    # The count's noise moves the mean too, by the mean's own share of half the width.
    share = (want - 55) / 35
    expected = 35 * z * math.sqrt(3) / N * math.sqrt(1 + share**2)
    assert np.std(errors) == pytest.approx(expected, rel=0.37)
    assert abs(np.mean(errors)) < 4 * expected / math.sqrt(60)


def test_noise_that_drowns_everything_leaves_numbers_that_can_be():
    step = standardize("x", bounds=[(20, 90), (0, 3)], **CLIENTS)
    (made,) = pipeline(step).computations(chain(noised(1000.0)), helpers.ONE)
    for seed in range(8):
        numbers = made(PEOPLE, everyone(PEOPLE), jax.random.key(0), noise_key=jax.random.key(seed))
        assert (numbers["mean"] >= [20, 0]).all()
        assert (numbers["mean"] <= [90, 3]).all()
        assert (numbers["deviation"] >= [0.35 - 1e-9, 0.015 - 1e-9]).all()
        assert (numbers["deviation"] <= [35 + 1e-9, 1.5 + 1e-9]).all()
    clip = STEPS["clip"][1]
    (made,) = pipeline(clip).computations(chain(noised(1000.0)), helpers.ONE)
    numbers = made(PEOPLE, everyone(PEOPLE), jax.random.key(0), noise_key=jax.random.key(3))
    assert 20 <= numbers["low"][0] <= numbers["high"][0] <= 90


def test_every_sum_and_every_step_has_noise_of_its_own():
    """Where noise is all there is: the same one in every round would take a bisection straight to an end."""
    (made,) = pipeline(STEPS["median"][1]).computations(chain(noised(1e4)), helpers.ONE)
    found = [
        made(PEOPLE, everyone(PEOPLE), jax.random.key(0), noise_key=jax.random.key(seed))["fill"][0]
        for seed in range(6)
    ]
    inside = [20 + 70 / 2**8 < fill < 90 - 70 / 2**8 for fill in found]
    assert any(inside), found
    step = standardize("x", columns=[0], bounds=(20, 90), **CLIENTS)
    options = {"aggregator": chain(noised(1e4)), "execution": helpers.ONE}
    both = pipeline(step, step)
    twice = (both.fit(PEOPLE, **options, noise_key=jax.random.key(seed)).numbers for seed in (1, 0, 2))
    assert any(one["mean"] != pytest.approx(two["mean"], rel=1e-2) for one, two in twice)


def test_noise_comes_from_a_key_of_ones_own_or_from_nobody_knows_where():
    made = pipeline(STEPS["mean"][1])

    def fit(noise_key):
        options = {"aggregator": chain(noised(1.0)), "execution": helpers.ONE, "noise_key": noise_key}
        return made.fit(PEOPLE, **options).numbers[0]["fill"]

    one, same, other = (fit(jax.random.key(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(fit(None), fit(None))
    keys = jax.tree.map(lambda keys: keys[0], fl.noise_keys(2))
    assert np.array_equal(fit(dataclasses.replace(keys, key=jax.random.key(1))), one)
    with pytest.raises(TypeError, match=r"`noise_key` is key<fry>\[2\]; expected one random key"):
        fit(fl.noise_keys(2))


@pytest.mark.parametrize(
    ("step", "aggregator", "text"),
    [
        (
            standardize("x"),
            noised(1.0),
            r"chain\(mean, gaussian\) adds noise, and what one client sends for standardize",
        ),
        (standardize("x"), noised(1.0), r"Pass bounds=\(low, high\), in the units .* and per='clients'"),
        (standardize("x", bounds=(0, 1)), noised(1.0), "has no bound. Pass per='clients', so that a client with many"),
        (standardize("x", per="clients"), fl.clip_by_global_norm(1.0), r"clip_by_global_norm\) clips, and what one"),
        (clip_quantiles("x"), noised(1.0), r"for clip_quantiles\('x', 0.01, 0.99\) has no bound. Pass bounds="),
        (one_hot("x", codes=(0, 3)), noised(1.0), r"for one_hot\('x'\) has no bound. Pass per='clients'"),
        (one_hot("x", codes=(0, 3), per="clients"), noised(1.0), r"Give one_hot\('x'\) a `min_share` above 0"),
        (vocabulary("tokens", size=2, num_ids=6, per="clients"), noised(1.0), "a `min_share` above 0"),
    ],
)
def test_what_has_no_sensitivity_is_refused_before_any_data_are_touched(step, aggregator, text):
    with pytest.raises(ValueError, match=text):
        pipeline(step).computations(chain(aggregator))
