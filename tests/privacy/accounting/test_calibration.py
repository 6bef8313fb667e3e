"""The inverses of epsilon: how much noise, and how many rounds, for a budget."""

import importlib
import math

import pytest
from helpers import some_often
from private_runs import DELTA, N, noised, poisson, run

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import calibrate, epsilon, max_rounds, search
from fedjaxlite.privacy.correlated.codecs import tree_gaussian

calibrate_module = importlib.import_module("fedjaxlite.privacy.accounting.calibrate")  # the function has its name


class TestCalibration:
    def test_the_noise_of_a_short_run(self) -> None:
        make = lambda z: run(poisson(), noised(z))  # noqa: E731
        found = calibrate(make, N, epsilon=2.0, delta=DELTA, num_rounds=4)
        assert 2.0 * (1 - 1e-4) < epsilon(make(found), N, num_rounds=4, delta=DELTA) <= 2.0

    @pytest.mark.slow
    def test_the_noise_of_a_known_run(self) -> None:
        """jax_privacy: 9.66 for epsilon 1 of 512 rounds at rate 0.1, delta 1e-6; 9.66 itself gives 1.00021."""
        make = lambda z: run(poisson(), noised(z))  # noqa: E731
        found = calibrate(make, N, epsilon=1.0, delta=1e-6, num_rounds=512)
        assert found == pytest.approx(9.66, rel=5e-4)
        assert 1.0 - 1e-4 < epsilon(make(found), N, num_rounds=512, delta=1e-6) <= 1.0

    @pytest.mark.slow
    def test_the_noise_of_another_known_run(self) -> None:
        """Opacus: 1.2915 by PRV, whose epsilon is up to 0.01 above ours; q = 0.04, epsilon 8, 2000 rounds."""
        found = calibrate(lambda z: run(poisson(0.04), noised(z)), N, epsilon=8.0, delta=1e-5, num_rounds=2000)
        assert found == pytest.approx(1.290023, rel=1e-4)

    @pytest.mark.parametrize(
        ("rate", "budget", "num_rounds"),
        some_often([(0.1, 8.0, 20), (0.1, 1.0, 300), (0.1, 0.1, 50), (0.002, 0.3, 2000)], 4, first=2),
    )
    def test_few_figures_are_computed_in_full(self, monkeypatch, rate, budget, num_rounds) -> None:
        """One takes up to a second; those on coarser grids, which lead there, take next to nothing."""
        calls, figures = [], calibrate_module.figures
        monkeypatch.setattr(calibrate_module, "figures", lambda *args: calls.append(args) or figures(*args))
        make = lambda z: run(poisson(rate), noised(z))  # noqa: E731
        found = calibrate(make, N, epsilon=budget, delta=DELTA, num_rounds=num_rounds)
        assert len(calls) <= 4
        own = epsilon(make(found), N, num_rounds=num_rounds, delta=DELTA)
        assert own <= budget < epsilon(make(found * (1 - 2e-5)), N, num_rounds=num_rounds, delta=DELTA)

    def test_one_exact_release(self) -> None:
        make = lambda z: run(fl.sampling.full(N), noised(z))  # noqa: E731
        assert calibrate(make, N, epsilon=1.0, delta=1e-6, num_rounds=1) == pytest.approx(4.224679, rel=2e-5)
        few = calibrate(make, N, epsilon=1e4, delta=1e-6, num_rounds=1)
        assert 9.9e3 < epsilon(make(few), N, num_rounds=1, delta=1e-6) <= 1e4

    def test_the_most_rounds_of_a_known_run(self) -> None:
        """jax_privacy: 155 rounds for epsilon 2 at rate 0.1, z = 3, delta 1e-6."""
        rounds = run(poisson(), noised(3.0))
        assert max_rounds(rounds, N, epsilon=2.0, delta=1e-6, at_most=1000) == 155
        assert max_rounds(rounds, N, epsilon=2.0, delta=1e-6, at_most=100) == 100
        assert max_rounds(rounds, N, epsilon=0.01, delta=1e-6, at_most=100) == 0

    def test_rounds_end_where_the_mechanism_or_the_sampler_does(self) -> None:
        codec = tree_gaussian(clip_norm=1.0, noise_multiplier=1.0, num_rounds=20)
        assert max_rounds(run(fl.sampling.full(N), codec), N, epsilon=1e4, delta=DELTA) == 20
        assert max_rounds(run(fl.sampling.replay([[0], [1]]), noised()), N, epsilon=1e4, delta=DELTA) == 2

    def test_no_noise_is_enough_where_the_noise_is_not_used(self) -> None:
        with pytest.raises(
            ValueError, match="no noise multiplier up to 1.04858e[+]06 gives an epsilon of 0.1: .* uses"
        ):
            calibrate(lambda z: run(fl.sampling.full(N), noised(1.0)), N, epsilon=0.1, delta=1e-6, num_rounds=1)

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"epsilon": 0.0}, ValueError, "`epsilon` is 0.0; expected a finite number above 0. It is the budget"),
            ({"delta": 2.0}, ValueError, r"`delta` is 2.0; expected a number in \(0, 1\)"),
            ({"num_rounds": 0}, ValueError, "`num_rounds` is 0; expected an int of at least 1"),
            ({"make_rounds": 3}, TypeError, "`make_rounds` is 3; expected a function"),
            ({"make_rounds": lambda z: z}, TypeError, "`rounds` is a float; expected what fl.rounds"),
        ],
    )
    def test_arguments_out_of_range_are_refused(self, options, error, text) -> None:
        given = {"make_rounds": lambda z: run(poisson(), noised(z)), "epsilon": 1.0, "delta": 1e-6, "num_rounds": 5}
        given |= options
        with pytest.raises(error, match=text):
            calibrate(given.pop("make_rounds"), N, **given)

    def test_a_delta_that_is_too_large_is_warned_of_once(self) -> None:
        with pytest.warns(UserWarning, match="`delta` is 0.5 for 100 clients") as caught:
            calibrate(lambda z: run(fl.sampling.full(N), noised(z)), N, epsilon=1.0, delta=0.5, num_rounds=1)
        assert len(caught) == 1
        with pytest.warns(UserWarning, match="`delta` is 0.5 for 100 clients"):
            max_rounds(run(fl.sampling.full(N), noised()), N, epsilon=1.0, delta=0.5, at_most=2)


class TestSearch:
    @pytest.mark.parametrize("scale", [1e-4, 0.3, 1.0, 7.0, 1e4])
    @pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
    def test_noise_is_found_to_five_digits_on_the_safe_side_in_few_steps(self, scale, power) -> None:
        calls = []
        curve = lambda z: calls.append(z) or (scale / z) ** power  # noqa: E731
        found = search.least_noise(curve, 1.0)
        assert curve(found) <= 1.0
        assert found == pytest.approx(scale, rel=1e-5)
        assert len(calls) < 10 + abs(math.log2(scale))

    def test_noise_is_found_beside_infinite_and_zero_figures(self) -> None:
        wall = lambda z: math.inf if z < 3 else 0.0  # noqa: E731
        assert search.least_noise(wall, 1.0) == pytest.approx(3.0, rel=1e-5)
        assert search.least_noise(lambda z: 0.0, 1.0) < 1e-5

    @pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
    @pytest.mark.parametrize("off", [1.0, 1.0 + 1e-6, 1.3, 50.0, 0.01, math.inf, 0.0])
    def test_rough_curves_lead_and_never_decide(self, scale, off) -> None:
        calls = []
        curve = lambda z: calls.append(z) or (scale / z) ** 1.3  # noqa: E731
        found = search.least_noise(curve, 1.0, [(lambda z: off * (scale / z) ** 1.1, 1e-3)])
        assert curve(found) <= 1.0
        assert found == pytest.approx(scale, rel=1e-5)
        if 1.0 <= off <= 50:
            assert len(calls) < 6

    def test_noise_is_found_where_a_curve_bends_and_jumps(self) -> None:
        """Epsilon is linear in 1/z at much noise, square at little, and steps where accountants change."""
        for target in (1e-3, 0.2, 1.0, 9.0, 1e3):
            curve = lambda z: (1.0 if z > 2 else 1.5) * (0.7 / z + 0.5 / z**2)  # noqa: E731
            found = search.least_noise(curve, target)
            assert curve(found) <= target < curve(found * (1 - 1e-5))

    @pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
    def test_rounds_are_found_exactly_in_few_steps(self, power) -> None:
        for answer in (1, 2, 5, 777, 9_999, 10_000):
            calls = []
            curve = lambda t, calls=calls: calls.append(t) or 0.5 + float(t) ** power  # noqa: E731
            assert search.most_rounds(curve, curve(answer), 10_000) == answer
            assert len(calls) < 32
            calls.clear()
            assert search.most_rounds(curve, curve(answer), 10_000, max(1, int(0.8 * answer))) == answer
            assert len(calls) < 12

    def test_rounds_are_found_on_a_staircase(self) -> None:
        """A sampler of separation b counts a client once in b rounds."""
        for budget in range(1, 20):
            assert search.most_rounds(lambda t: float(-(-t // 7)), float(budget), 100) == min(7 * budget, 100)
