"""Rounds on a cohort that the host prepared give the numbers that they give on the whole population."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import testing

PEOPLE = helpers.regression((4, 9, 1, 6, 2, 30))
PARAMS = helpers.linear_params()


@pytest.mark.parametrize(
    ("algorithm", "execution"),
    [(helpers.fed_avg(), helpers.ONE), (helpers.local_momentum(), fl.Execution(lanes=2, devices=2))],
    ids=["stateless", "stateful"],
)
@pytest.mark.whole
def test_rounds_on_prepared_cohorts_equal_rounds_on_the_population(
    algorithm: fl.Algorithm, execution: fl.Execution
) -> None:
    sampler = testing.mixed_cohorts(6, 3)
    run = fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=execution)
    whole = streamed = run.init(PARAMS, PEOPLE, key=jax.random.key(0), noise_key=jax.random.key(1))
    for round_number in range(3):
        cohort = sampler.sample(streamed.keys.sample, round_number, PEOPLE)
        prepared = fl.prepare_cohort(PEOPLE, cohort, num_examples=60)
        assert prepared.population.features["x"].shape == (60, 3)
        for name in ("x", "y"):  # spare rows are never read
            spare = int(prepared.population.offsets[-1])
            prepared.population.features[name][spare:] = np.nan
        whole, info = run.step(whole, PEOPLE)
        streamed, streamed_info = run.step(streamed, prepared)
        testing.assert_close(streamed_info, info, what="infos", tolerance=testing.Tolerance())
    testing.assert_close(streamed, whole, what="states", tolerance=testing.Tolerance())


def test_a_prepared_cohort_holds_its_own_clients_in_cohort_order() -> None:
    people = helpers.one_value_each([1.0, 2.0, 3.0, 4.0], sizes=[2, 1, 3, 1])
    cohort = fl.sampling.cohort(jnp.int32([2, -1, 0]), jnp.array([True, False, True]))
    prepared = fl.prepare_cohort(people, cohort, num_examples=7)
    assert prepared.population.offsets.tolist() == [0, 3, 3, 5]
    assert prepared.population.features["x"].tolist() == [3, 3, 3, 1, 1, 0, 0]
    assert prepared.population.max_size == people.max_size  # static, so that rounds do not recompile
    assert prepared.cohort.ids.tolist() == [2, 0, 0]


def test_what_does_not_fit_is_refused() -> None:
    cohort = fl.sampling.full(6).sample(None, 0, PEOPLE)
    with pytest.raises(
        ValueError, match=r"`num_examples` is 51, and this cohort has 52. Raise it .* at most 6 x 30 here"
    ):
        fl.prepare_cohort(PEOPLE, cohort, num_examples=51)
    with pytest.raises(ValueError, match="`num_examples` is 0; expected an int of at least 1"):
        fl.prepare_cohort(PEOPLE, cohort, num_examples=0)


def test_it_works_on_memory_mapped_features(tmp_path: object) -> None:
    path = f"{tmp_path}/x.npy"
    np.save(path, np.asarray(PEOPLE.features["x"]))
    mapped = fl.Population({"x": np.load(path, mmap_mode="r")}, PEOPLE.offsets, PEOPLE.max_size)
    cohort = fl.sampling.cohort(jnp.int32([4, 0]), jnp.array([True, True]))
    prepared = fl.prepare_cohort(mapped, cohort, num_examples=6)
    np.testing.assert_array_equal(prepared.population.features["x"][:2], PEOPLE.client(4)["x"])
