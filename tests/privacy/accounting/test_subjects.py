"""What is released of one population, together: runs, computations of federated sums, and both as one figure."""

import math
from typing import Any

import dp_accounting as dp
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from private_runs import DELTA, N, mechanism, noised, poisson, run

import fedjaxlite as fl
from fedjaxlite import privacy
from fedjaxlite.algorithms import analytics, k_means
from fedjaxlite.privacy.accounting.backend import gaussian_epsilon as exact
from fedjaxlite.privacy.central.gaussian import gaussian
from fedjaxlite.privacy.central.laplace import laplace
from fedjaxlite.privacy.correlated.codecs import tree_gaussian
from fedjaxlite.privacy.local.local_dp import local_gaussian, local_laplace


def chain(codec: fl.Aggregator, *behind: fl.Aggregator) -> fl.Aggregator:
    return fl.chain(fl.mean(over=N), codec, *behind)


def mean_of(noise: float = 4.0) -> fl.Computation:
    return analytics.federated_mean(per="clients", aggregator=chain(noised(noise)), execution=helpers.ONE)


def pld(*events: Any) -> float:
    """Epsilon by dp_accounting itself, from its own events."""
    accountant = dp.pld.PLDAccountant()
    for event, count in events:
        accountant.compose(event, count)
    return float(accountant.get_epsilon(DELTA))


STATISTICS = {
    "federated_mean": (1, lambda a: analytics.federated_mean(aggregator=a)),
    "federated_variance": (2, lambda a: analytics.federated_variance(aggregator=a)),
    "federated_histogram": (1, lambda a: analytics.federated_histogram([0, 1, 2], aggregator=a)),
    "federated_quantiles": (
        9,
        lambda a: analytics.federated_quantiles([0.5], low=0, high=1, num_rounds=9, aggregator=a),
    ),
    "heavy_hitters": (5, lambda a: analytics.heavy_hitters(threshold=0.5, alphabet=3, length=5, aggregator=a)),
}


class TestComputations:
    @pytest.mark.parametrize("name", STATISTICS)
    def test_every_statistic_states_its_sums(self, name: str) -> None:
        """T releases of Gaussian noise z are one of z / sqrt(T)."""
        sums, make = STATISTICS[name]
        computation = make(chain(noised(4.0)))
        assert (computation.name, computation.num_sums) == (name, sums)
        found = privacy.guarantee(computation, N, delta=DELTA)
        assert found.epsilon == pytest.approx(exact(4.0 / math.sqrt(sums), DELTA), rel=1e-6)
        assert (found.event.relation, found.event.amplification) == ("zero_out", "none")
        three = privacy.epsilon(computation, N, num_rounds=3, delta=DELTA)
        assert three == pytest.approx(exact(4.0 / math.sqrt(3 * sums), DELTA), rel=1e-6)

    def test_a_sum_of_ones_own(self) -> None:
        call = fl.federated_sum(lambda shared, data: fl.ClientOutput(jnp.zeros(3)), aggregator=chain(noised(2.0)))
        assert privacy.epsilon(call, N, delta=DELTA) == pytest.approx(exact(2.0, DELTA), rel=1e-6)

    def test_noise_that_depends_on_shapes_needs_them(self) -> None:
        """Rounding to 255 levels in 2 x 50 entries (sums and counts) lengthens a message by sqrt(100) / 127."""
        people = fl.Population.from_arrays({"x": np.zeros((N, 50), np.float32)}, client_ids=np.arange(N))
        run_ = analytics.federated_mean(aggregator=chain(noised(2.0), fl.quantize(bits=8)), execution=helpers.ONE)
        found = privacy.guarantee(run_, people, delta=DELTA, params=())
        assert found.event.noise_multiplier == pytest.approx(2.0 / (1 + 10 / 127), rel=1e-4)
        with pytest.raises(ValueError, match="depend on the number of parameters, .* Pass params="):
            privacy.epsilon(run_, people, delta=DELTA)

    def test_a_mechanism_begins_anew_in_every_sum(self) -> None:
        """The first round of a tree of noise, nine times; also of a mechanism that is made for a single round."""
        tree = tree_gaussian(clip_norm=1.0, noise_multiplier=6.0, num_rounds=1)
        once = privacy.guarantee(STATISTICS["federated_mean"][1](chain(tree)), N, delta=DELTA)
        nine = privacy.guarantee(STATISTICS["federated_quantiles"][1](chain(tree)), N, delta=DELTA)
        assert (once.event.compositions, nine.event.compositions) == (1, 9)
        assert nine.event.noise_multiplier == once.event.noise_multiplier

    def test_other_mechanisms(self) -> None:
        quantiles = STATISTICS["federated_quantiles"][1]
        pure = privacy.epsilon(quantiles(chain(laplace(clip_norm=1.0, noise_multiplier=30.0))), N, delta=1e-12)
        assert pure == pytest.approx(9 / 30.0, rel=1e-3)
        own = privacy.guarantee(
            quantiles(fl.chain(fl.mean(), local_laplace(clip_norm=1.0, epsilon=0.1))), N, delta=1e-12
        )
        assert own.epsilon == pytest.approx(0.9, rel=1e-6)
        assert own.event.relation == "replace_one"

    def test_calibration_and_the_number_of_calls(self) -> None:
        z = privacy.calibrate(lambda z: mean_of(z), N, epsilon=1.0, delta=1e-6)
        assert z == pytest.approx(4.224679, rel=1e-4)
        assert privacy.max_rounds(mean_of(20.0), N, epsilon=4.3772, delta=1e-5) == 400

    def test_without_noise_there_is_no_figure(self) -> None:
        with pytest.raises(
            ValueError, match="the aggregator of federated_mean holds no mechanism of differential privacy"
        ):
            privacy.epsilon(analytics.federated_mean(), N, delta=DELTA)
        with pytest.raises(ValueError, match="the local training of federated_mean states no guarantee for single"):
            privacy.epsilon(mean_of(), N, delta=DELTA, unit="example")

    def test_k_means_is_accounted_for_as_the_rounds_that_it_is(self) -> None:
        people = fl.Population.from_arrays({"x": np.zeros((N, 2), np.float32)}, client_ids=np.arange(N))
        rounds = fl.rounds(k_means(), sampler=fl.sampling.full(N), aggregator=chain(noised(4.0)), execution=helpers.ONE)
        assert privacy.epsilon(rounds, people, num_rounds=4, delta=DELTA) == pytest.approx(exact(2.0, DELTA), rel=1e-6)


class TestTogether:
    def test_gaussians_are_one_release_of_a_longer_vector(self) -> None:
        found = privacy.guarantee([mean_of(4.0), (run(fl.sampling.full(N), noised(8.0)), 12)], N, delta=DELTA)
        assert found.epsilon == pytest.approx(exact(1 / math.sqrt(1 / 16 + 12 / 64), DELTA), rel=1e-6)
        assert (len(found.events), found.num_rounds) == (2, 13)

    def test_a_statistic_before_a_sampled_run(self) -> None:
        found = privacy.guarantee([(mean_of(6.0), 2), (run(poisson(), noised(1.5)), 30)], N, delta=DELTA)
        sampled = dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(1.5))
        want = pld((dp.GaussianDpEvent(6.0), 2), (sampled, 30))
        assert found.eps_pld == pytest.approx(want, rel=2e-3)  # cutting cohorts costs a little delta
        assert found.eps_pld > want * (1 - 1e-6)
        assert found.epsilon <= found.eps_rdp < 1.5 * found.eps_pld

    def test_together_is_more_than_each_and_less_than_both(self) -> None:
        kinds = {
            "poisson": (run(poisson(), noised(1.5)), 30),
            "laplace": (run(fl.sampling.full(N), laplace(clip_norm=1.0, noise_multiplier=20.0)), 10),
            "fixed": (run(fl.sampling.uniform(10), noised(4.0)), 10),
            "local": (run(fl.sampling.cyclic(10, 10), local_gaussian(clip_norm=1.0, epsilon=1.0, delta=1e-7)), 10),
            "discrete": (
                run(fl.sampling.full(N), mechanism(options={"rdp": lambda orders: np.asarray(orders) / 200})),
                3,
            ),
        }
        for name, pair in kinds.items():
            alone = privacy.epsilon(pair[0], N, num_rounds=pair[1], delta=DELTA)
            statistic = privacy.epsilon(mean_of(6.0), N, delta=DELTA)
            both = privacy.epsilon([mean_of(6.0), pair], N, delta=DELTA)
            # Of a client that is replaced, a statistic tells twice.
            factor = 2 if name in ("fixed", "local") else 1
            half = privacy.epsilon(pair[0], N, num_rounds=pair[1], delta=DELTA / 2) + exact(6.0 / factor, DELTA / 2)
            assert max(alone, statistic) < both < half * (1 + 1e-6), name

    def test_the_relation_is_one_that_all_have(self) -> None:
        found = privacy.guarantee([mean_of(), (run(poisson(), noised()), 3)], N, delta=DELTA)
        text = str(privacy.report([mean_of(), (run(poisson(), noised()), 3)], N, delta=DELTA))
        assert {event.relation for event in found.events} == {"zero_out", "add_or_remove"}
        assert "Neighbors (zero_out)" in text

    def test_a_state_may_stand_beside_its_rounds(self) -> None:
        people = helpers.one_value_each([0.0] * N)
        first, second = (run(fl.sampling.full(N), noised(z)) for z in (2.0, 8.0))
        state = first.init(jnp.float32(0), people, key=jax.random.key(0))
        state, _ = first.steps(state, people, 2)
        state = second.go_on(state, people)
        found = privacy.guarantee([mean_of(4.0), (second, 6, state)], people, delta=DELTA)
        assert found.epsilon == pytest.approx(exact(1 / math.sqrt(1 / 16 + 2 / 4 + 4 / 64), DELTA), rel=1e-6)

    def test_calibration_of_both(self) -> None:
        make = lambda z: [mean_of(z), (run(fl.sampling.full(N), noised(z)), 3)]  # noqa: E731
        assert privacy.calibrate(make, N, epsilon=1.0, delta=1e-6) == pytest.approx(2 * 4.224679, rel=1e-4)

    @pytest.mark.parametrize(
        ("given", "options", "error", "text"),
        [
            ([], {}, TypeError, "`rounds` is a list; expected what fl.rounds"),
            (["x"], {}, TypeError, r"`rounds\[0\]` is a str; expected \(rounds, num_rounds\), a computation"),
            ([3, 4], {}, TypeError, r"`rounds\[0\]` is a int; expected"),
            (None, {"num_rounds": None}, TypeError, "`num_rounds` is None; expected an int of at least 1"),
        ],
    )
    def test_what_is_no_subject_is_refused(self, given: Any, options: Any, error: type[Exception], text: str) -> None:
        given = run(poisson(), noised()) if given is None else given
        with pytest.raises(error, match=text):
            privacy.epsilon(given, N, delta=DELTA, **options)

    def test_sequences_that_leave_something_open_are_refused(self) -> None:
        rounds = run(poisson(), noised())
        with pytest.raises(TypeError, match=r"`rounds\[1\]` is rounds without a number of them"):
            privacy.epsilon([mean_of(), rounds], N, delta=DELTA)
        with pytest.raises(ValueError, match="`num_rounds` was given beside a sequence; expected None"):
            privacy.epsilon([mean_of()], N, num_rounds=3, delta=DELTA)
        with pytest.raises(ValueError, match=r"`rounds\[0\]\[1\]` is 0; expected an int of at least 1"):
            privacy.epsilon([(rounds, 0)], N, delta=DELTA)
        with pytest.raises(ValueError, match="the aggregator of federated_mean holds no mechanism"):
            privacy.epsilon([analytics.federated_mean(), (rounds, 3)], N, delta=DELTA)
        with pytest.raises(ValueError, match="`params` was given with several runs or computations"):
            privacy.epsilon([mean_of(), (rounds, 3)], N, delta=DELTA, params=())
        with pytest.raises(TypeError, match="`state` was given with federated_mean, which keeps none"):
            privacy.epsilon(mean_of(), N, delta=DELTA, state="state")


class TestPages:
    def test_of_a_computation(self) -> None:
        found = privacy.report(STATISTICS["federated_quantiles"][1](chain(noised(4.0))), N, delta=DELTA)
        text = " ".join(str(found).split())
        assert text.startswith("Differential privacy of 1 call of federated_quantiles (9 sums each) epsilon")
        for claim in (
            "noise multiplier 4 over the sensitivity to one client added, all releases of a sum together; 9 sums",
            "a cohort of the caller's of 100 clients. No theorem of amplification by sampling is used",
            "a client counts in every sum. Cohorts are the caller's; they must not depend on the clients' data.",
            "From the operating system's entropy in every call, unless it was given a noise_key.",
            "released The results, and what is computed from them",
        ):
            assert claim in text, claim

    def test_of_both(self) -> None:
        found = privacy.report([mean_of(), (run(fl.sampling.full(N), noised(8.0)), 12)], N, delta=DELTA)
        text = " ".join(str(found).split())
        assert "Differential privacy of 1 call of federated_mean and 12 rounds of" in text
        assert "Federated_mean: gaussian, noise multiplier 4" in text
        assert "and the results of the computations" in text


def test_a_gaussian_codec_is_not_needed_twice() -> None:
    """One codec may serve the run and the statistics: it holds no state of its own."""
    codec = gaussian(clip_norm=1.0, noise_multiplier=4.0)
    shared = analytics.federated_mean(aggregator=chain(codec))
    both = privacy.epsilon([shared, (run(fl.sampling.full(N), codec), 1)], N, delta=DELTA)
    assert both == pytest.approx(exact(4.0 / math.sqrt(2), DELTA), rel=1e-6)
