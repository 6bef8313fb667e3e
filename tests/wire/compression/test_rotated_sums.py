"""THC and QUIC-FL: the errors of their tables, bias, and sums that are exact."""

import itertools
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rotated_codecs import build, check_norms, check_refusals, check_scalars, check_sums, clipped, decoded, normal
from scipy import stats

import fedjaxlite as fl
from fedjaxlite.wire.compression.rotated.quic_fl import quic_fl, steps_of
from fedjaxlite.wire.compression.rotated.side_list import SideList, capacity, put_in, side_list
from fedjaxlite.wire.compression.rotated.thc import best_values, thc


class TestTHC:
    def test_values_are_the_best_of_all(self) -> None:
        """Every symmetric table of three bits with granularity 13, in float64 by quadrature."""
        reach = 2.8
        y = np.linspace(-reach, reach, 20_001)
        density = stats.norm.pdf(y)

        def cost(values: Any) -> float:
            places = np.array(values) * reach / 13
            low = places[np.clip(np.searchsorted(places, y) - 1, 0, 6)]
            high = places[np.clip(np.searchsorted(places, y), 1, 7)]
            return float(((high - y) * (y - low) * density).sum())

        halves = [half for half in itertools.combinations(range(1, 14, 2), 4) if half[-1] == 13]
        best = min((tuple(-v for v in reversed(half)) + half for half in halves), key=cost)
        assert best_values(3, 13, reach) == best

    @pytest.mark.parametrize(
        ("bits", "granularity", "variance"),
        helpers.some_often(
            [
                (1, None, 8.5967),
                (2, None, 0.59997),
                (3, None, 0.09284),
                (4, None, 0.02256),
                (4, 15, 0.02837),
                (2, 3, 0.71398),
            ],
            4,
        ),
    )
    def test_the_error_is_the_tables(self, bits: int, granularity: Any, variance: float) -> None:
        """Variance and squared bias over B^2, by 300 draws: 6 standard errors, and 2 % for a size that is finite.

        For a vector of normal entries, and for one of two entries.
        """
        x = normal(2000) if granularity is None else np.eye(2000, dtype=np.float32)[[5, 900]].T @ np.float32([1, 0.5])
        x = x / np.linalg.norm(x) * 3
        chain, state, _ = build(clipped(thc(bits=bits, granularity=granularity), norm=3.0), x)
        errors = np.sum((decoded(chain, state, x, range(300), turn=True) - x) ** 2, axis=1) / 9
        assert abs(errors.mean() - variance - 2.81e-4) < 6 * errors.std() / np.sqrt(300) + 0.02 * variance + 3e-4

    def test_the_bias_is_that_of_cutting(self) -> None:
        """2 ((1 + t^2) Q(t) - t f(t)) at p = .1, with eight bits, whose rounding is as good as none; 6 standard errors."""
        x = normal(2000) / np.float32(np.sqrt(2000))
        chain, state, _ = build(clipped(thc(bits=8, clamped=0.1), norm=float(np.linalg.norm(x))), x)
        t = stats.norm.isf(0.05)
        want = 2 * ((1 + t * t) * stats.norm.sf(t) - t * stats.norm.pdf(t))
        errors = np.sum((decoded(chain, state, x, range(300), turn=True) - x) ** 2, axis=1) / np.sum(x**2)
        assert abs(errors.mean() - want) < 6 * errors.std() / np.sqrt(300) + 0.01 * want

    @pytest.mark.parametrize(
        "bits",
        [pytest.param(4, marks=pytest.mark.whole), *(pytest.param(bits, marks=pytest.mark.slow) for bits in (1, 2, 8))],
    )
    def test_sums_are_exact_and_the_same_behind_a_mask(self, bits: int) -> None:
        check_sums(thc(bits=bits))

    @pytest.mark.slow  # tests/privacy/test_compression.py searches every day
    def test_norms_stay_within_the_bound(self) -> None:
        check_norms([thc(bits=1, clamped=0.3), thc(bits=4)])

    def test_scalars_are_as_fine_as_their_sum_allows(self) -> None:
        check_scalars(thc(bits=2))

    def test_wrong_arguments_and_wires(self) -> None:
        for make, text in (
            (lambda: thc(bits=9), r"`bits` is 9; expected 1 to 8. For more, take fl.quantize"),
            (
                lambda: thc(bits=4, granularity=14),
                r"`granularity` is 14 with 4 bits; expected 15 for equal steps, or more",
            ),
            (
                lambda: thc(bits=5, granularity=60),
                r"`granularity` is 60 with 5 bits; expected 31 .* a table has up to 4",
            ),
            (lambda: thc(bits=4, clamped=0.7), r"`clamped` is 0.7; expected a number from 1e-30 to 0.5"),
            (lambda: quic_fl(bits=5), r"`bits` is 5; expected one of 1, 2, 3, 4"),
        ):
            with pytest.raises(ValueError, match=text):
                make()
        check_refusals(thc(bits=4), 31)


class TestQuicFL:
    ERROR = {1: 1.4872, 2: 0.21596, 3: 0.04372, 4: 0.00976}

    @pytest.mark.parametrize("bits", [1, 2, 3, 4])
    def test_the_table_is_unbiased_and_has_the_error_that_is_said(self, bits: int) -> None:
        """By quadrature over y and over both coins, h and the client's, in float64."""
        steps = steps_of(bits)
        assert steps.reach == pytest.approx(stats.norm.isf(1 / 1024), abs=4e-4)
        y = np.linspace(-steps.reach, steps.reach, 4001)
        up = np.clip((y[:, None, None] - steps.begins) / steps.heights, 0, 1)  # P(code > i), given h
        values = steps.values / 256
        assert (np.diff(values, axis=1) > 0).all()
        np.testing.assert_allclose((values[:, 0] + (up * np.diff(values, axis=1)).sum(-1)).mean(1), y, atol=1e-9)
        square = (values[:, 0] ** 2 + (up * np.diff(values**2, axis=1)).sum(-1)).mean(1)
        error = ((square - y**2) * stats.norm.pdf(y)).sum() * (y[1] - y[0])
        assert error == pytest.approx(self.ERROR[bits], abs=2e-5 + 2e-4 * self.ERROR[bits])
        probable = np.concatenate([1 - up[..., :1], -np.diff(up, axis=-1), up[..., -1:]], axis=-1)
        far = np.where(probable > 1e-12, np.abs(values - y[:, None, None]), 0)
        assert far.max() <= steps.error + 1e-9

    @pytest.mark.parametrize("bits", [pytest.param(1, marks=pytest.mark.slow), 4])
    def test_messages_have_that_error_and_no_bias(self, bits: int) -> None:
        """6 standard errors of 300 rotations, and 1 %; then errors of 1,500 messages along 20 directions, each client's
        independent of the others': 5 standard errors, a false alarm once in 90,000."""
        x = normal(1000)
        x = x / np.linalg.norm(x) * 2
        chain, state, _ = build(clipped(quic_fl(bits=bits)), x)
        errors = np.sum((decoded(chain, state, x, range(300), turn=True) - x) ** 2, axis=1) / 4
        assert abs(errors.mean() - self.ERROR[bits]) < 6 * errors.std() / np.sqrt(300) + 0.01 * self.ERROR[bits]
        ways = np.random.default_rng(1).normal(size=(1000, 20))
        ways[:, 0] = x
        along = (decoded(chain, state, x, range(1500)) - x) @ ways
        assert (np.abs(along.mean(0)) < 5 * along.std(0) / np.sqrt(1500)).all()

    @pytest.mark.whole
    def test_entries_beyond_the_table_come_back_exactly(self) -> None:
        """To a unit of 1/256, by mean; what is beyond 8 is cut, and what finds no room is at the table's end."""
        kind = SideList(3.0, 1 / 512, 1 / 256, 2048)
        y = jnp.zeros(3000).at[jnp.array([0, 7, 2999])].set(jnp.float32([-3.5, 4.123, 9.0]))
        put = lambda key: put_in(kind, side_list(kind, y, key), jnp.full(3000, 5, jnp.int32))  # noqa: E731
        found = np.asarray(jax.jit(jax.vmap(put))(jax.random.split(jax.random.key(0), 2000)))
        assert (np.delete(found, [0, 7, 2999], axis=1) == 5).all()
        assert [set(found[:, i]) for i in (0, 2999, 7)] == [{-896}, {2048}, {1055, 1056}]
        assert abs(found[:, 7].mean() - 4.123 * 256) < 6 * 0.5 / np.sqrt(2000)
        room = capacity(kind, 3000)
        crowd = put_in(kind, side_list(kind, jnp.full(3000, 4.0), jax.random.key(0)), jnp.full(3000, 5, jnp.int32))
        assert np.flatnonzero(crowd == 1024).tolist() == list(range(room))
        assert (crowd[room:] == 5).all()
        assert stats.binom.sf(room, 3000, 1 / 512) < 1e-8

    @pytest.mark.parametrize("bits", [pytest.param(bits, marks=pytest.mark.slow) for bits in (1, 3)])
    def test_sums_are_exact_and_the_same_behind_a_mask(self, bits: int) -> None:
        check_sums(quic_fl(bits=bits))

    @pytest.mark.slow  # tests/privacy/test_compression.py searches every day
    def test_norms_stay_within_the_bound(self) -> None:
        check_norms([quic_fl(bits=1), quic_fl(bits=4)])

    def test_wires_it_refuses(self) -> None:
        check_refusals(quic_fl(bits=2), 2506)


@pytest.mark.slow  # tests/privacy/test_compression.py has a round of each every day
@pytest.mark.parametrize("codec", [thc(bits=4), quic_fl(bits=2)], ids=["thc", "quic_fl"])
def test_rounds_behind_a_mask_have_the_same_parameters_to_the_bit(codec: fl.Aggregator) -> None:
    def client_update(shared: Any, state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        vector = jax.random.normal(key, (300,))
        return fl.ClientOutput({"b": vector[:5], "w": vector}, data.num_examples, client_state=state)

    algorithm = helpers.sender(lambda data: 0)._replace(
        client_update=client_update,
        server_update=lambda params, aggregate, key: jax.tree.map(jnp.add, params, aggregate.value),
    )
    people = helpers.one_value_each([1.0] * 6, sizes=[1, 2, 3, 4, 5, 6])
    found = []
    for masks in ((), (fl.privacy.mask(),)):
        chain = fl.chain(fl.weighted_mean(weight_cap=10), fl.clip_by_global_norm(5.0), codec, *masks)
        params = {"b": jnp.zeros(5), "w": jnp.zeros(300)}
        run, state, _ = helpers.one_run(algorithm, people, params, sampler=fl.sampling.uniform(4), aggregator=chain)
        found.append(run.params(state))
    assert float(jnp.abs(found[0]["w"]).max()) > 0.1
    jax.tree.map(np.testing.assert_array_equal, *found)
