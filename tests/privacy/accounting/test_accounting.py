"""Epsilon from composed runs: what is read off the program, which neighbors and theorems follow, and what is refused."""

import math
import warnings

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from private_runs import DELTA, N, mechanism, noised, poisson, run

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import epsilon, gaussian_epsilon, guarantee
from fedjaxlite.privacy.accounting import facts as facts_of
from fedjaxlite.privacy.accounting.backend import gaussian_epsilon as exact
from fedjaxlite.privacy.accounting.backend import loss_distribution
from fedjaxlite.privacy.central.adaptive_clip import adaptive_gaussian
from fedjaxlite.privacy.central.gaussian import gaussian
from fedjaxlite.privacy.central.laplace import laplace
from fedjaxlite.privacy.correlated.codecs import banded_gaussian, tree_gaussian
from fedjaxlite.privacy.distributed.discrete_accounting import skellam_rdp
from fedjaxlite.privacy.local.local_dp import local_gaussian, local_laplace
from fedjaxlite.privacy.mechanisms import Release


class TestFacts:
    def test_the_noise_multiplier_is_that_of_the_chain_whatever_the_clip_norm(self) -> None:
        for clip in (0.01, 1.0, 30.0):
            found = guarantee(run(fl.sampling.full(N), noised(1.3, clip)), N, num_rounds=7, delta=DELTA)
            assert found.event.noise_multiplier == pytest.approx(1.3, rel=1e-6)
            assert found.epsilon == found.eps_pld == pytest.approx(exact(1.3 / math.sqrt(7), DELTA), rel=1e-6)

    def test_a_population_may_stand_for_its_number_of_clients(self) -> None:
        people = helpers.one_value_each([0.0] * N)
        rounds = run(fl.sampling.full(N), noised())
        assert epsilon(rounds, people, num_rounds=3, delta=DELTA) == epsilon(rounds, N, num_rounds=3, delta=DELTA)

    def test_noise_on_several_releases_is_one_release_of_a_longer_vector(self) -> None:
        """Scalars beside the update are part of the same Gaussian, whose noise multiplier is the user's."""
        algorithm = helpers.sender(
            helpers.first_value,
            scalars=lambda data: {"a": jnp.float32(1), "b": jnp.float32(2)},
            scalar_bounds={"a": 1.0, "b": 8.0},
        )
        rounds = run(fl.sampling.full(N), noised(2.0, 0.5), algorithm=algorithm)
        wire = rounds.wire(jnp.float32(0), helpers.one_value_each([0.0] * N))
        assert len(wire.mechanisms[0].releases) == 3
        assert guarantee(rounds, N, num_rounds=1, delta=DELTA).event.noise_multiplier == pytest.approx(2.0)

    def test_the_clip_bit_is_counted(self) -> None:
        """Andrew et al. (2021): z = 1, m = 100, sigma_b = 5, so the update's own noise is 1.0050378."""
        rounds = run(fl.sampling.full(N), adaptive_gaussian(noise_multiplier=1.0))
        facts = facts_of.read(rounds, N)
        assert [release.sensitivity for release in facts.mechanism.releases] == [None, 0.5]
        value = facts.mechanism.releases[0]
        assert value.std / facts.sensitivity == pytest.approx(1.0050378, rel=1e-6)
        assert facts_of.noise_multiplier(facts) == pytest.approx(1.0, rel=1e-6)

    def test_the_sensitivity_is_read_behind_the_last_codec(self) -> None:
        """Rounding to 255 levels in 10^4 entries lengthens an update by sqrt(10^4) / 127: epsilon grows accordingly."""
        people = helpers.one_value_each([0.0] * N)
        algorithm = helpers.sender(lambda data: jnp.zeros((10_000,)))
        rounds = run(fl.sampling.full(N), noised(2.0), fl.quantize(bits=8), algorithm=algorithm)
        params = jnp.zeros((10_000,))
        found = guarantee(rounds, people, num_rounds=1, delta=DELTA, params=params)
        assert found.event.noise_multiplier == pytest.approx(2.0 / (1 + 100 / 127), rel=1e-4)
        with pytest.raises(ValueError, match="depend on the number of parameters, .* Pass params="):
            epsilon(rounds, people, num_rounds=1, delta=DELTA)

    def test_params_need_a_population(self) -> None:
        with pytest.raises(TypeError, match="`params` was given beside the number 100; expected a Population with it"):
            epsilon(run(poisson(), noised()), N, num_rounds=1, delta=DELTA, params=jnp.float32(0))

    def test_a_tree_of_clip_norms_needs_params(self) -> None:
        clip = {"a": 3.0, "b": 4.0}
        algorithm = helpers.sender(lambda data: {"a": jnp.zeros((2,)), "b": jnp.zeros((3,))})
        rounds = run(fl.sampling.full(N), noised(2.0, clip), algorithm=algorithm)
        people, params = helpers.one_value_each([0.0] * N), {"a": jnp.zeros((2,)), "b": jnp.zeros((3,))}
        found = guarantee(rounds, people, num_rounds=1, delta=DELTA, params=params)
        assert found.event.noise_multiplier == pytest.approx(2.0)
        with pytest.raises(ValueError, match=r"(?s)cannot be built without the model: .* pass params="):
            epsilon(rounds, people, num_rounds=1, delta=DELTA)

    def test_a_chain_without_a_mechanism_has_no_epsilon(self) -> None:
        with pytest.raises(ValueError, match="holds no mechanism of differential privacy, so there is no epsilon"):
            epsilon(run(poisson(), fl.clip_by_global_norm(1.0)), N, num_rounds=1, delta=DELTA)

    def test_two_mechanisms_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"holds 2 mechanisms \(made_up, made_up\); .* Keep one of them"):
            epsilon(run(poisson(), mechanism(), mechanism()), N, num_rounds=1, delta=DELTA)

    def test_noise_on_something_without_a_bound_is_refused(self) -> None:
        codec = mechanism(releases=(Release(1.0),))
        with pytest.raises(ValueError, match="nothing at the end of the chain bounds what one client of the made_up"):
            epsilon(run(poisson(), codec), N, num_rounds=1, delta=DELTA)

    def test_no_noise_is_an_infinite_epsilon_with_or_without_a_clip(self) -> None:
        for clip in (1.0, math.inf):
            found = guarantee(run(poisson(), noised(0.0, clip)), N, num_rounds=1, delta=DELTA)
            assert found.epsilon == found.eps_pld == found.eps_rdp == math.inf

    def test_traced_noise_is_refused(self) -> None:
        with pytest.raises(TypeError, match="is traced, and an epsilon is computed from concrete numbers"):
            jax.jit(lambda z: epsilon(run(poisson(), noised(z)), N, num_rounds=1, delta=DELTA))(1.0)

    @pytest.mark.parametrize(
        ("rounds", "population", "options", "error", "text"),
        [
            ("no rounds", N, {}, TypeError, "`rounds` is a str; expected what fl.rounds"),
            (None, 2.5, {}, TypeError, "`population` is 2.5; expected a Population, or the number of its clients"),
            (None, 0, {}, ValueError, "`population` is 0; expected an int of at least 1"),
            (None, N, {"num_rounds": 0}, ValueError, "`num_rounds` is 0; expected an int of at least 1"),
            (None, N, {"delta": 0.0}, ValueError, "`delta` is 0.0; expected a finite number above 0"),
            (None, N, {"delta": 1.0}, ValueError, r"`delta` is 1.0; expected a number in \(0, 1\)"),
            (None, N, {"delta": "small"}, TypeError, "`delta` is 'small'; expected a finite number above 0"),
            (None, 10**6, {}, ValueError, "draws 100000 a round on average and more than 60 with probability"),
        ],
    )
    def test_arguments_out_of_range_are_refused(self, rounds, population, options, error, text) -> None:
        rounds = run(poisson(), noised()) if rounds is None else rounds
        with pytest.raises(error, match=text):
            epsilon(rounds, population, **{"num_rounds": 1, "delta": DELTA, **options})

    @pytest.mark.parametrize("call", [epsilon, guarantee])
    def test_a_delta_of_one_over_the_number_of_clients_is_warned_of(self, call) -> None:
        rounds = run(fl.sampling.full(N), noised())
        with pytest.warns(UserWarning, match=r"`delta` is 0.01 for 100 clients; take less than 1/100 = 0.01"):
            call(rounds, N, num_rounds=1, delta=0.01)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call(rounds, N, num_rounds=1, delta=0.0099)


class TestSamplers:
    def test_poisson_sampling_is_amplified_for_neighbors_that_add_or_remove(self) -> None:
        event = guarantee(run(poisson(), noised()), N, num_rounds=50, delta=DELTA).event
        assert (event.relation, event.amplification, event.rate, event.compositions) == (
            *("add_or_remove", "poisson"),
            *(0.1, 50),
        )

    def test_everyone_in_every_round_is_one_release_with_less_noise(self) -> None:
        found = guarantee(run(fl.sampling.full(N), noised(20.0)), N, num_rounds=400, delta=DELTA)
        assert found.eps_pld == pytest.approx(4.37718, rel=1e-5)  # z = 20 for 400 rounds is z = 1 for one
        assert found.eps_rdp == pytest.approx(4.728507, rel=1e-5)
        assert (found.event.relation, found.event.amplification) == ("add_or_remove", "none")

    def test_poisson_sampling_at_rate_one_is_everyone(self) -> None:
        found = guarantee(run(poisson(1.0, N), noised(20.0)), N, num_rounds=400, delta=DELTA)
        assert found.eps_pld == pytest.approx(4.37718, rel=1e-5)
        assert (found.event.relation, found.event.amplification) == ("zero_out", "none")

    @pytest.mark.parametrize(
        ("n", "size", "rounds", "delta", "want"),
        [(1000, 16, 128, 1e-6, 15.96), (3400, 100, 1000, 1e-5, 100.4)],
    )
    def test_a_fixed_cohort_replaces_a_client_with_twice_the_sensitivity(self, n, size, rounds, delta, want) -> None:
        """dp_accounting takes 2.646 for the first where its user does not halve the noise multiplier."""
        composed = run(fl.sampling.uniform(size), noised(1.0), over=size)
        found = guarantee(composed, n, num_rounds=rounds, delta=delta)
        assert found.eps_rdp == pytest.approx(want, rel=5e-4)
        assert found.event.relation == "replace_one"
        assert (found.event.amplification, found.event.cohort) == ("without_replacement", (size, n))
        assert found.event.noise_multiplier == pytest.approx(0.5)
        assert found.eps_pld == pytest.approx(exact(0.5 / math.sqrt(rounds), delta))  # without amplification
        assert found.epsilon == min(found.eps_pld, found.eps_rdp)

    def test_a_fixed_cohort_of_everyone_is_the_exact_replace_one_figure(self) -> None:
        """PLD at REPLACE_ONE gives 1.9931 for z = 4; Rényi divergences without the doubling would give 1.0126."""
        found = guarantee(run(fl.sampling.uniform(N), noised(4.0)), N, num_rounds=1, delta=DELTA)
        assert found.eps_pld == pytest.approx(1.9931, rel=1e-4)
        assert found.epsilon <= found.eps_rdp
        assert found.eps_rdp > 1.9931

    def test_the_smaller_of_two_valid_figures_is_taken(self) -> None:
        """With much noise the amplified bound of a fixed cohort is loose by its factor of 2, and can be the larger."""
        composed = run(fl.sampling.uniform(90), noised(30.0))
        found = guarantee(composed, N, num_rounds=1, delta=DELTA)
        assert found.eps_pld < found.eps_rdp
        assert found.epsilon == found.eps_pld

    def test_the_accounting_library_still_ignores_the_relation(self) -> None:
        """A canary: once this fails, upstream doubles the sensitivity itself, and `renyi_of_fixed_size` must not."""
        import dp_accounting as dp

        found = {}
        for relation in (dp.NeighboringRelation.REPLACE_ONE, dp.NeighboringRelation.ADD_OR_REMOVE_ONE):
            accountant = dp.rdp.RdpAccountant(neighboring_relation=relation)
            accountant.compose(dp.GaussianDpEvent(4.0))
            found[relation] = accountant.get_epsilon(1e-5)
        assert found[dp.NeighboringRelation.REPLACE_ONE] == found[dp.NeighboringRelation.ADD_OR_REMOVE_ONE]
        assert found[dp.NeighboringRelation.REPLACE_ONE] == pytest.approx(1.0126, abs=1e-4)

    @pytest.mark.parametrize(
        ("sampler", "present", "relation", "factor"),
        [
            (fl.sampling.cyclic(10, 10), 5, "zero_out", 1),
            (fl.sampling.replay(np.arange(N).reshape(50, 2)), 1, "zero_out", 1),
            (fl.sampling.available(10, np.ones((3, N), bool)), 50, "zero_out", 1),
            (fl.sampling.available(10, np.ones((3, N), bool), over_selection=1.3), 50, "zero_out", 2),
            (fl.sampling.weighted(10, np.ones(N), replacement=False), 50, "zero_out", 2),
            (fl.sampling.with_deadline(poisson(), reports=10), 50, "zero_out", 2),
            (fl.sampling.with_deadline(fl.sampling.full(N), reports=50), 50, "zero_out", 2),
            (fl.sampling.with_deadline(fl.sampling.uniform(20), reports=10), 50, "replace_one", 2),
            # Who is slow then depends on who is there: a client more or less changes the work of another.
            (fl.sampling.with_stragglers(fl.sampling.full(N), 0.5, 0.1, exact=True), 50, "zero_out", 1),
            (fl.sampling.with_stragglers(poisson(), 0.5, 0.1, exact=True), 50, "zero_out", 2),
            (fl.sampling.with_stragglers(fl.sampling.uniform(10), 0.5, 0.1, exact=True), 50, "replace_one", 2),
        ],
        ids=lambda value: value.name if isinstance(value, fl.Sampler) else None,
    )
    def test_a_sampler_without_a_theorem_gets_no_amplification(self, sampler, present, relation, factor) -> None:
        """Where one client's data can decide about another's place, the sum changes by two clips."""
        found = guarantee(run(sampler, noised(8.0)), N, num_rounds=50, delta=DELTA)
        assert (found.event.amplification, found.event.relation) == ("none", relation)
        assert found.event.participations == present
        assert found.eps_pld == pytest.approx(exact(8.0 / factor / math.sqrt(present), DELTA), rel=1e-6)
        assert found.eps_rdp > found.eps_pld

    def test_dropout_keeps_the_theorem(self) -> None:
        found = guarantee(run(fl.sampling.with_dropout(poisson(), 0.3), noised()), N, num_rounds=50, delta=DELTA)
        assert found.event.amplification == "poisson"

    def test_more_rounds_than_the_sampler_knows_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"`num_rounds` is 3, but replay\(2 rounds\) knows 2 rounds"):
            epsilon(run(fl.sampling.replay([[0], [1]]), noised()), N, num_rounds=3, delta=DELTA)


class TestCutCohorts:
    def test_cuts_are_part_of_delta(self) -> None:
        """delta of the mechanism and (1 + e^eps) T p together are what was asked for; capacity costs nothing else."""
        rounds = run(fl.sampling.poisson(0.1, capacity=25, max_overflow=1e-3), noised(2.0))
        found = guarantee(rounds, N, num_rounds=20, delta=1e-3)
        chance = fl.sampling.overflow_probability(N + 1, 0.1, 25)
        assert found.event.overflow == chance
        cuts = 20 * (1 + math.exp(found.epsilon)) * chance
        own = float(loss_distribution("gaussian", 2.0, 0.1, 20).get_delta_for_epsilon(found.epsilon))
        assert cuts > 1e-4
        assert own + cuts == pytest.approx(1e-3, rel=1e-4)
        assert found.epsilon > epsilon(run(poisson(), noised(2.0)), N, num_rounds=20, delta=1e-3)

    def test_cuts_that_cost_more_than_delta_are_refused_with_a_capacity_that_suffices(self) -> None:
        rounds = run(fl.sampling.poisson(0.1, capacity=27), noised(2.0))
        with pytest.raises(ValueError, match=r"more clients than its capacity of 27 with .* Use capacity=") as caught:
            epsilon(rounds, N, num_rounds=200, delta=DELTA)
        enough = int(str(caught.value).split("capacity=")[1].split(",")[0])
        found = epsilon(run(poisson(capacity=enough), noised(2.0)), N, num_rounds=200, delta=DELTA)
        plain = gaussian_epsilon(noise_multiplier=2.0, rate=0.1, num_rounds=200, delta=DELTA)
        assert plain < found < plain * 1.01


class TestMechanisms:
    def test_laplace_noise_costs_no_delta(self) -> None:
        """Dwork et al. (2006): epsilon 1 / z a round, by basic composition; far less in many rounds, with a delta."""
        rounds = run(fl.sampling.full(N), laplace(clip_norm=2.0, noise_multiplier=4.0))
        assert guarantee(rounds, N, num_rounds=1, delta=1e-300).epsilon == pytest.approx(0.25, rel=1e-6)
        many = guarantee(rounds, N, num_rounds=100, delta=DELTA)
        assert many.epsilon < 0.5 * 100 / 4.0
        assert many.eps_pld < many.eps_rdp

    def test_laplace_noise_is_amplified_by_poisson_sampling(self) -> None:
        """Pure epsilon: ln(1 + q (e^eps - 1)) a round."""
        rounds = run(poisson(), laplace(clip_norm=2.0, noise_multiplier=1.0))
        found = guarantee(rounds, N, num_rounds=1, delta=1e-12)
        want = math.log1p(0.1 * math.expm1(1.0))
        assert want * 0.999 < found.epsilon <= want + 2e-4
        assert found.event.kind == "laplace"
        assert found.eps_rdp == math.inf

    def test_laplace_noise_of_a_fixed_cohort_has_no_theorem(self) -> None:
        rounds = run(fl.sampling.uniform(10), laplace(clip_norm=2.0, noise_multiplier=4.0))
        found = guarantee(rounds, N, num_rounds=1, delta=1e-12)
        assert found.epsilon == pytest.approx(0.5, rel=1e-6)
        assert (found.event.amplification, found.event.relation) == ("none", "replace_one")

    @pytest.mark.parametrize(("noise", "want"), [(1.13, 18.709610), (8.83, 1.773192)])
    def test_a_tree_in_which_everyone_takes_part_once(self, noise, want) -> None:
        """dp_accounting's SingleEpochTreeAggregationDpEvent over 1600 rounds, by Rényi divergences."""
        codec = tree_gaussian(clip_norm=1.0, noise_multiplier=noise, num_rounds=1600)
        once = fl.sampling.replay(np.arange(1600)[:, None])
        rounds = fl.rounds(
            helpers.sender(helpers.first_value), sampler=once, aggregator=fl.chain(fl.mean(over=1), codec)
        )
        found = guarantee(rounds, 1600, num_rounds=1600, delta=1e-6)
        assert found.eps_rdp == pytest.approx(want, rel=1e-6)
        assert found.eps_pld < found.eps_rdp
        assert (found.event.compositions, found.event.participations) == (1, 1)
        assert found.event.noise_multiplier == pytest.approx(noise / math.sqrt(11))

    def test_correlated_noise_is_not_amplified(self) -> None:
        codec = tree_gaussian(clip_norm=1.0, noise_multiplier=7.0, num_rounds=8)
        found = guarantee(run(poisson(), codec), N, num_rounds=8, delta=DELTA)
        assert (found.event.amplification, found.event.relation, found.event.participations) == ("none", "zero_out", 8)
        assert (7.0 / found.event.noise_multiplier) ** 2 == pytest.approx(8 + 4 * 4 + 2 * 16 + 64)

    def test_the_separation_of_a_sampler_is_what_a_tree_is_told(self) -> None:
        """Two of 40 rounds, 20 apart: in the first 32 they share the root (2^2) and no node of its five other levels."""
        codec = tree_gaussian(clip_norm=1.0, noise_multiplier=7.0, num_rounds=40)
        found = guarantee(run(fl.sampling.cyclic(1, 20), codec), N, num_rounds=40, delta=1e-10)
        assert found.event.participations == 2
        assert (7.0 / found.event.noise_multiplier) ** 2 == pytest.approx(2 * 5 + 4)

    def test_a_model_of_gboard_by_dp_ftrl(self) -> None:
        """z = 7, 2000 rounds, 6 participations 313 apart, delta 1e-10: rho 0.81 and epsilon 8.90 in its notebook."""
        codec = tree_gaussian(clip_norm=1.0, noise_multiplier=7.0, num_rounds=2000)
        seldom = fl.sampling.Accounting("replay", cohort_size=N, min_separation=313, max_participations=6)
        sampler = fl.sampling.full(N)._replace(accounting=seldom)
        found = guarantee(run(sampler, codec), N, num_rounds=2000, delta=1e-10)
        assert 1 / (2 * found.event.noise_multiplier**2) == pytest.approx(0.81, abs=0.005)
        assert found.eps_rdp == pytest.approx(8.90, abs=0.005)
        assert found.event.relation == "zero_out"
        assert found.epsilon == found.eps_pld < 8.6

    def test_a_banded_matrix_costs_what_its_participations_cost(self) -> None:
        """Columns of norm 1: a client in k rounds that are far enough apart costs k independent releases."""
        codec = banded_gaussian(clip_norm=1.0, noise_multiplier=8.0, num_rounds=50, bands=10)
        found = guarantee(run(fl.sampling.cyclic(10, 10), codec), N, num_rounds=50, delta=DELTA)
        assert found.eps_pld == pytest.approx(exact(8.0 / math.sqrt(5), DELTA), rel=1e-6)

    def test_more_rounds_than_the_mechanism_is_made_for_are_refused(self) -> None:
        codec = tree_gaussian(clip_norm=1.0, noise_multiplier=7.0, num_rounds=20)
        with pytest.raises(ValueError, match="`num_rounds` is 21, but the tree mechanism of the chain was made for 20"):
            epsilon(run(fl.sampling.full(N), codec), N, num_rounds=21, delta=DELTA)

    def test_renyi_curves_are_added_up(self) -> None:
        """Skellam, Agarwal et al. (2021): D2 = 20, d = 2^20, mu = 400; 4.76210 for one round at delta 1e-5."""
        codec = mechanism(options={"rdp": skellam_rdp(l2=20.0, l1=400.0, variance=400.0)})
        found = guarantee(run(poisson(), codec), N, num_rounds=1, delta=DELTA)
        assert found.epsilon == found.eps_rdp == pytest.approx(4.76210, rel=2e-3)
        assert found.eps_pld == math.inf
        # Clients bring the noise themselves, so no theorem of amplification is used.
        assert (found.event.amplification, found.event.participations) == ("none", 1)
        assert found.event.relation == "zero_out"
        twice = guarantee(run(poisson(), codec), N, num_rounds=2, delta=DELTA)
        assert found.epsilon < twice.epsilon < 2 * found.epsilon

    def test_renyi_curves_of_a_fixed_cohort_compare_with_a_client_who_sends_nothing(self) -> None:
        codec = mechanism(options={"rdp": skellam_rdp(l2=20.0, l1=400.0, variance=400.0)})
        found = guarantee(run(fl.sampling.uniform(10), codec), N, num_rounds=1, delta=DELTA)
        assert found.event.relation == "zero_out"
        for sampler in (fl.sampling.full(N), fl.sampling.uniform(60)):
            late = fl.sampling.with_deadline(sampler, reports=50)
            with pytest.raises(ValueError, match="no guarantee is known for made_up noise with .*, where one client's"):
                epsilon(run(late, codec), N, num_rounds=1, delta=DELTA)

    def test_noise_of_the_clients_own(self) -> None:
        """Each report is (1, 1e-6) by itself; four of them are a Gaussian of half the noise, exactly."""
        rounds = run(fl.sampling.cyclic(10, 10), local_gaussian(clip_norm=1.0, epsilon=1.0, delta=1e-6))
        once = guarantee(rounds, N, num_rounds=1, delta=1e-6)
        assert once.epsilon == pytest.approx(1.0, rel=1e-6)
        assert (once.event.relation, once.event.participations) == ("replace_one", 1)
        four = guarantee(rounds, N, num_rounds=40, delta=1e-6)
        assert four.epsilon == pytest.approx(exact(4.224679 / 2, 1e-6), rel=1e-5)
        pure = run(fl.sampling.cyclic(10, 10), local_laplace(clip_norm=1.0, epsilon=1.0))
        assert epsilon(pure, N, num_rounds=20, delta=1e-15) == pytest.approx(2.0, rel=1e-6)
        assert guarantee(pure, N, num_rounds=20, delta=1e-15).event.amplification == "none"

    def test_an_imagined_cohort_is_accounted_for_as_such(self) -> None:
        """pfl-research CIFAR10: 50 simulated clients have the noise of 1000 out of 1e6; z = 0.7138, epsilon 2."""
        codec = gaussian(clip_norm=0.4, noise_multiplier=0.7138, noise_cohort_size=1000)
        rounds = run(fl.sampling.poisson(0.05, capacity=200), codec, over=50)
        found = guarantee(rounds, 10**6, num_rounds=1500, delta=9e-7)
        assert found.extrapolated
        assert found.event.rate == 1e-3
        assert found.event.noise_multiplier == pytest.approx(0.7138)
        assert found.eps_rdp == pytest.approx(2.0, rel=0.01)
        with pytest.raises(ValueError, match="imagined cohort of 1000 clients, out of a population of 100"):
            epsilon(rounds, N, num_rounds=1, delta=DELTA)
        fixed = run(fl.sampling.uniform(50), codec, over=50)
        assert guarantee(fixed, 10**6, num_rounds=1, delta=9e-7).event.cohort == (1000, 10**6)


class TestMonotone:
    def test_epsilon_grows_with_rounds_and_falls_with_noise_and_delta(self) -> None:
        def at(noise=1.0, rounds=10, delta=DELTA):
            return guarantee(run(poisson(), noised(noise)), N, num_rounds=rounds, delta=delta)

        for better, worse in ((at(), at(rounds=11)), (at(noise=1.1), at()), (at(), at(delta=1e-7))):
            assert better.eps_pld < worse.eps_pld
            assert better.eps_rdp < worse.eps_rdp
            assert better.eps_pld < better.eps_rdp
