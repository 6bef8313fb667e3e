"""Top-k, rand-k, the count sketch and PowerSGD: exact values, what survives a sum, and bounds that hold."""

import itertools
import math
from functools import lru_cache
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import fedjaxlite as fl
from fedjaxlite import privacy
from fedjaxlite.wire.compression.fewer.count_sketch import count_sketch, sketch, unsketch
from fedjaxlite.wire.compression.fewer.power_sgd import Bases, factors, next_bases, power_sgd, product
from fedjaxlite.wire.compression.fewer.rand_k import rand_k
from fedjaxlite.wire.compression.fewer.top_k import largest, number_kept, top_k
from fedjaxlite.wire.packing.forms import num_bytes
from fedjaxlite.wire.packing.indices import indices_size

INFO = fl.ClientInfo(jnp.int32(0), jnp.float32(1), jax.random.key(0), jnp.bool_(True))
SAFE = {
    "rand_k": lambda: rand_k(fraction=0.3),
    "rand_k/biased": lambda: rand_k(fraction=0.3, unbiased=False),
    "count_sketch": lambda: count_sketch(columns=16),
    "power_sgd": lambda: power_sgd(rank=1),
}
ALL = {"top_k": lambda: top_k(fraction=0.3), **SAFE}
UPDATE = {"b": jnp.zeros((6,)), "w": jnp.zeros((10, 2, 3))}
PARTS = {"delta": UPDATE, "control": UPDATE}
NUMBER = sum(leaf.size for leaf in jax.tree.leaves(UPDATE))


def draw(seed: int, like: Any = UPDATE) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.float32(rng.standard_t(2, leaf.shape)), like)


def begun(codec: fl.Aggregator, template: Any = UPDATE, key: int = 0, **facts: Any) -> Any:
    state, _ = codec.init(fl.wire_of(template, capacity=4, **facts))
    return codec.begin(state, None, jax.random.key(key))


def summand(codec: fl.Aggregator, state: Any, value: Any) -> Any:
    message, _ = codec.encode(state, (), fl.Message(value, jnp.float32(1), {}), INFO)
    return codec.read(state, message, INFO._replace(key=None))


def decoded(codec: fl.Aggregator, state: Any, value: Any) -> Any:
    """What a message alone comes to at the server."""
    return codec.decode(state, summand(codec, state, value), None)[0].value


@lru_cache
def probe(name: str) -> Any:
    """The state of a seed, what is sent of an update, and what that is decoded to: compiled once."""
    codec = ALL[name]()

    def run(value: Any, seed: Any) -> Any:
        state = begun(codec, key=seed)
        return state, summand(codec, state, value).value, decoded(codec, state, value)

    return jax.jit(run)


NUMBERS = (1, 2, 30, 69, 70)


@jax.jit
def several_largest(x: Any) -> list[Any]:
    """Places of the largest entries, for several numbers of them in one program."""
    return [largest(x, number) for number in NUMBERS]


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


class TestAll:
    @pytest.mark.parametrize(("name", "parts"), helpers.some_often(itertools.product(ALL, (False, True)), 3))
    def test_messages_have_the_shapes_that_the_wire_says(self, name: str, parts: bool) -> None:
        """Also for a tree of weights, which stays a prefix of what is sent."""
        codec, template = ALL[name](), PARTS if parts else UPDATE
        weight = {"delta": 1, "control": 1} if parts else 1
        state, end = codec.init(fl.wire_of(template, capacity=4, weight=weight))

        def through(value: Any) -> tuple[fl.Message, Any]:
            message, _ = codec.encode(state, (), fl.Message(value, weight, {}), INFO)
            return message, codec.decode(state, codec.read(state, message, INFO), None)[0].value

        message, got = jax.eval_shape(through, template)
        shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), tree)  # noqa: E731
        assert shapes(message.value) == shapes(end.value)
        assert shapes(message.aside) == shapes(end.aside)
        assert num_bytes((message.value, message.aside)) < num_bytes(template)
        jax.tree.map(lambda weight, part: None, end.weight, end.value)
        assert shapes(got) == shapes(template)

    @pytest.mark.parametrize("name", ALL)
    def test_zero_is_zero(self, name: str) -> None:
        assert (flat(probe(name)(UPDATE, 0)[2]) == 0).all()

    @pytest.mark.parametrize("name", helpers.some_often(SAFE, 2))
    def test_decoding_a_sum_is_the_sum_of_decoding_each(self, name: str) -> None:
        codec = SAFE[name]()
        values, weights = [draw(i) for i in range(4)], np.float32([1.0, 3.0, 0.0, 2.5])
        each = [probe(name)(value, 0) for value in values]
        total = jax.tree.map(
            lambda *xs: sum(w * x for w, x in zip(weights, xs, strict=True)), *(sent for _, sent, _ in each)
        )
        want = sum(w * flat(got) for w, (*_, got) in zip(weights, each, strict=True))
        assert np.linalg.norm(want) > 1
        decode = jax.jit(lambda total: codec.decode(begun(codec), fl.Message(total, jnp.float32(1), {}), None)[0].value)
        np.testing.assert_allclose(flat(decode(total)), want, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("name", ALL)
    @settings(max_examples=25, deadline=None)
    @given(seed=st.integers(0, 2**31 - 1))
    def test_the_bounds_on_the_wire_hold(self, name: str, seed: int) -> None:
        """Of what is sent and of what is decoded, for updates of heavy tails, a few entries, or equal ones."""
        codec, rng = ALL[name](), np.random.default_rng(seed)
        sparse = np.where(rng.random(NUMBER) < 0.1, 1.0, 0.0)
        signs = rng.choice([-1.0, 1.0], NUMBER)
        x = (rng.standard_t(1, NUMBER), sparse, signs)[seed % 3].astype(np.float32)
        value = {"b": jnp.asarray(x[:6]), "w": jnp.asarray(x[6:]).reshape(10, 2, 3)}
        state, *both = probe(name)(value, seed)
        known = fl.Bounds(l2=float(np.linalg.norm(x)), linf=float(np.abs(x).max()), l1=float(np.abs(x).sum()))
        for given_bounds in (known, fl.Bounds(l2=known.l2), fl.Bounds(linf=known.linf), fl.Bounds(l1=known.l1)):
            bounds = codec.prepare(state, given_bounds)[1]
            for found in map(flat, both):
                slack = 1 + 1e-5
                assert bounds.l2 is None or np.linalg.norm(found) <= slack * bounds.l2
                assert bounds.linf is None or np.abs(found).max() <= slack * bounds.linf
                assert bounds.l1 is None or np.abs(found).sum() <= slack * bounds.l1

    @pytest.mark.parametrize("name", SAFE)
    def test_decoding_lengthens_nothing(self, name: str) -> None:
        """Whatever is added to the sum: noise and rounding grow no more than the norm on the wire says."""
        codec = SAFE[name]()
        noise = draw(8, jax.eval_shape(probe(name), UPDATE, 5)[1])

        @jax.jit
        def decode(noise: Any) -> Any:
            return codec.decode(begun(codec, key=5), fl.Message(noise, jnp.float32(1), {}), None)[0].value

        got = flat(decode(noise))
        assert np.linalg.norm(got) <= np.linalg.norm(flat(noise)) * (1 + 1e-5)

    @pytest.mark.parametrize("name", ALL)
    def test_bounds_may_be_traced(self, name: str) -> None:
        codec = ALL[name]()
        state = begun(codec)
        want = codec.prepare(state, fl.Bounds(l2=2.0, linf=1.5))[1]
        got = jax.jit(lambda l2, linf: codec.prepare(state, fl.Bounds(l2, linf))[1])(2.0, 1.5)
        assert jax.tree.map(float, got) == pytest.approx(want)

    @pytest.mark.parametrize("name", ALL)
    def test_integers_are_refused(self, name: str) -> None:
        chain = fl.chain(fl.mean(), fl.clip_by_value(1.0), fl.quantize(bits=8), ALL[name]())
        with pytest.raises(ValueError, match=f"`{ALL[name]().name}` needs float leaves.*before `quantize`"):
            chain.init(fl.wire_of(UPDATE, capacity=4))


class TestInRounds:
    PEOPLE = helpers.one_value_each([1.0, -2.0, 4.0, 8.0], sizes=[1, 2, 3, 4])

    def rounds(self, *codecs: fl.Aggregator, over: Any = None, **fields: Any) -> tuple[Any, Any, Any]:
        algorithm = helpers.sender(lambda data: jax.tree.map(lambda leaf: leaf + data.id / 10, draw(3)), **fields)
        aggregator = fl.chain(fl.mean(over=over), *codecs)
        return helpers.one_run(algorithm, self.PEOPLE, UPDATE, aggregator=aggregator, num_rounds=2)

    @pytest.mark.parametrize("name", helpers.some_often(SAFE, 4, first=1))
    def test_behind_a_clip_and_before_integers_and_masks(self, name: str) -> None:
        """The masked sum of integers decodes to what the floats decode to, up to rounding of the levels."""
        clip = fl.clip_by_global_norm(3.0)
        _, plain, _ = self.rounds(clip, SAFE[name]())
        run, masked, info = self.rounds(clip, SAFE[name](), fl.clip_by_value(15.0), privacy.secure_sum(bits=20))
        assert run.wire(UPDATE, self.PEOPLE).masked
        assert int(info.num_reported) == 4
        assert np.linalg.norm(flat(run.params(plain))) > 0.5
        assert helpers.max_difference(run.params(masked), run.params(plain)) < 2e-3

    @pytest.mark.parametrize("name", helpers.some_often(SAFE, 2))
    def test_before_noise_that_protects(self, name: str) -> None:
        gaussian = privacy.gaussian(clip_norm=2.0, noise_multiplier=1.0)
        run, state, _ = self.rounds(SAFE[name](), gaussian, over=4)
        assert np.isfinite(flat(run.params(state))).all()
        assert run.wire(UPDATE, self.PEOPLE).bounds.l2 == 2.0

    @pytest.mark.whole
    def test_epsilon_follows_what_norms_may_grow_to(self) -> None:
        """Behind the clip of a mechanism, what lengthens an update by d/k is noised as if it were so long."""
        people, sampler = helpers.one_value_each([1.0] * 40), fl.sampling.poisson(0.1, 40)

        def epsilon(noise_multiplier: float, *behind: fl.Aggregator, before: tuple[fl.Aggregator, ...] = ()) -> float:
            noise = privacy.gaussian(clip_norm=1.0, noise_multiplier=noise_multiplier)
            chain = fl.chain(fl.mean(over=4), *before, noise, *behind)
            run = fl.rounds(helpers.sender(lambda data: UPDATE), sampler=sampler, aggregator=chain)
            return privacy.epsilon(run, people, params=UPDATE, num_rounds=5, delta=1e-3)

        alone = epsilon(1.0)
        assert epsilon(1.0, before=(rand_k(fraction=0.5),)) == epsilon(1.0, before=(power_sgd(rank=1),)) == alone
        assert epsilon(1.0, rand_k(fraction=0.5, unbiased=False)) == alone
        with pytest.raises(ValueError, match="stands behind a mechanism"):  # bases would follow the sum itself
            epsilon(1.0, power_sgd(rank=1))
        assert epsilon(2.0, rand_k(fraction=0.5)) == pytest.approx(alone, rel=1e-4)
        assert epsilon(1.0, rand_k(fraction=0.5)) > 1.5 * alone

    def test_top_k_before_integers_and_not_before_a_mask(self) -> None:
        clip = fl.clip_by_global_norm(3.0)
        run, plain, _ = self.rounds(clip, top_k(fraction=0.3))
        _, packed, _ = self.rounds(clip, top_k(fraction=0.3), fl.quantize(bits=16))
        assert helpers.max_difference(run.params(packed), run.params(plain)) < 1e-3
        with pytest.raises(ValueError, match="has top_k before the mask mask.*rand_k"):
            fl.chain(fl.mean(), top_k(fraction=0.3), privacy.mask())

    def test_bytes_are_those_of_what_is_sent(self) -> None:
        def up_and_down(codec: fl.Aggregator) -> tuple[int, int]:
            run = fl.rounds(
                helpers.sender(lambda data: UPDATE),
                sampler=fl.sampling.full(4),
                aggregator=fl.chain(fl.mean(), codec),
                execution=helpers.ONE,
            )
            end = run.wire(UPDATE, self.PEOPLE)
            return num_bytes((end.value, end.aside)), end.overhead[1]

        kept = number_kept(0.3, NUMBER)
        assert up_and_down(top_k(fraction=0.3)) == (4 * kept + indices_size(NUMBER, kept), 0)
        assert up_and_down(rand_k(fraction=0.3)) == (4 * kept, 8)
        assert up_and_down(count_sketch(columns=16)) == (64, 8)
        assert up_and_down(power_sgd(rank=2)) == (4 * (6 + 2 * (20 + 3)), 4 * 2 * (20 + 3))  # r (m + n)


class TestTopK:
    @pytest.mark.parametrize(
        ("fraction", "lost"),
        helpers.some_often([(0.01, 0.915508), (0.10, 0.560714), (0.25, 0.276393), (0.50, 0.071326)], 2, first=1),
    )
    def test_the_energy_of_normal_entries_that_is_lost(self, fraction: float, lost: float) -> None:
        """By the formula, and by the codec on the quantiles of a normal distribution."""
        edge = stats.norm.isf(fraction / 2)
        assert 1 - 2 * (edge * stats.norm.pdf(edge) + stats.norm.sf(edge)) == pytest.approx(lost, abs=1e-6)
        x = jnp.float32(stats.norm.ppf((np.arange(40000) + 0.5) / 40000))
        codec = top_k(fraction=fraction)
        got = np.asarray(jax.jit(lambda x: decoded(codec, begun(codec, x), x))(x), np.float64)
        assert 1 - (got**2).sum() / (np.asarray(x, np.float64) ** 2).sum() == pytest.approx(lost, abs=6e-4)
        assert (got != 0).sum() == round(fraction * 40000)

    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 2**31 - 1))
    def test_the_largest_are_found_and_of_equal_ones_the_first(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        some = rng.integers(-3, 4, 70) if seed % 2 else rng.standard_t(1, 70)
        x = np.float32(some) * np.float32(10.0) ** rng.integers(-44, 30)
        for number, got in zip(NUMBERS, several_largest(x), strict=True):
            np.testing.assert_array_equal(got, np.sort(np.argsort(-np.abs(x), kind="stable")[:number]))

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 2**31 - 1))
    def test_it_contracts_and_what_is_kept_is_exact(self, seed: int) -> None:
        x = draw(seed)
        before, after = flat(x), flat(probe("top_k")(x, 0)[2])
        kept = number_kept(0.3, NUMBER)
        assert set(after[after != 0]) <= set(before)
        assert (after != 0).sum() == kept
        assert ((before - after) ** 2).sum() <= (1 - kept / NUMBER) * (before**2).sum() * (1 + 1e-6)

    def test_wrong_arguments(self) -> None:
        for make in (top_k, rand_k):
            for fraction in (0.0, 1.5, math.nan):
                with pytest.raises(
                    ValueError, match=rf"`fraction` is {fraction}; expected a number in \(0, 1\]. It is"
                ):
                    make(fraction=fraction)
            with pytest.raises(TypeError, match="`fraction` is traced; expected a concrete number.*decides the size"):
                jax.jit(lambda f: make(fraction=f))(0.5)  # noqa: B023
        with pytest.raises(TypeError, match="`unbiased` is 1; expected True or False"):
            rand_k(fraction=0.1, unbiased=1)  # type: ignore[arg-type]


class TestRandK:
    def test_the_error_of_equal_entries_is_exact_in_every_draw(self) -> None:
        """d/k - 1 = 9 unbiased and 1 - k/d = 0.9 biased, of the squared norm, where all entries are equal."""
        x = jnp.ones((50,)) * jnp.where(jnp.arange(50) % 3 == 0, -1.0, 1.0)
        for unbiased, want in ((True, 9.0), (False, 0.9)):
            codec = rand_k(fraction=0.1, unbiased=unbiased)
            draws = jax.jit(jax.vmap(lambda key, codec=codec: decoded(codec, begun(codec, x, key), x)))
            for got in np.asarray(draws(jnp.arange(3))):
                assert float(((got - np.asarray(x)) ** 2).sum()) / 50 == pytest.approx(want, rel=1e-5)

    def test_every_entry_is_drawn_equally_often_and_the_mean_is_the_update(self) -> None:
        """20 chi-squares and 20 z-tests on 5,000 seeds: false alarm below 1e-6 and 4e-8."""
        codec, x = rand_k(fraction=0.25), jnp.float32(np.random.default_rng(0).normal(size=20))
        state, _ = codec.init(fl.wire_of(x, capacity=1))
        keys = jax.random.split(jax.random.key(7), 5000)
        got = np.asarray(jax.jit(jax.vmap(lambda key: decoded(codec, codec.begin(state, None, key), x)))(keys))
        chosen = got != 0
        assert (chosen.sum(1) == 5).all()
        counts = chosen.sum(0)
        # Without replacement counts vary less, by (1 - k/d) d / (d - 1).
        assert stats.chi2.sf(((counts - 1250) ** 2 / 1250).sum() / 0.75 * 19 / 20, 19) > 1e-6
        deviation = np.abs(np.asarray(x)) * math.sqrt((20 / 5 - 1) / 5000)
        assert (np.abs(got.mean(0) - x) < 6 * deviation).all()

    def test_all_clients_send_the_same_entries_and_others_the_next_round(self) -> None:
        codec = rand_k(fraction=0.1)
        x = jnp.arange(1.0, 401.0)
        send = jax.jit(lambda key, x: summand(codec, begun(codec, x, key), x).value)
        one, other = send(1, x), send(1, 3 * x)
        np.testing.assert_allclose(other, 3 * np.asarray(one))
        assert len(set(one.tolist()) & set(send(2, x).tolist())) < 20

    def test_parts_have_entries_of_their_own(self) -> None:
        codec = rand_k(fraction=0.1, unbiased=False)
        x = {"delta": jnp.arange(400.0), "control": jnp.arange(400.0)}
        sent = summand(codec, begun(codec, x, weight={"delta": 1, "control": 1}), x).value
        assert len(set(sent["delta"].tolist()) & set(sent["control"].tolist())) < 20


class TestCountSketch:
    def test_the_sketch_of_a_sum_is_the_sum_of_sketches_bit_for_bit_in_integers(self) -> None:
        rng, seed = np.random.default_rng(0), jnp.uint32([3, 4])
        for columns in (1, 100):  # many short blocks, and few long ones
            sketches = jax.vmap(lambda row, c=columns: sketch(row, c, seed))
            estimates = jax.vmap(lambda sums: unsketch(sums, 700, seed))
            signed = rng.integers(-(2**20), 2**20, (6, 700)).astype(np.int32)
            both = signed, signed.view(np.uint32) << 8  # the second wraps around
            both = [np.concatenate([x, x.sum(0, dtype=x.dtype, keepdims=True)]) for x in both]
            through = jax.jit(lambda xs: [(sums, estimates(sums)) for sums in map(sketches, xs)])  # noqa: B023
            for x, (sums, back) in zip(both, jax.device_get(through(both)), strict=True):
                assert sums.dtype == x.dtype
                np.testing.assert_array_equal(sums[-1], sums[:-1].sum(0, dtype=x.dtype))
                np.testing.assert_array_equal(back[-1], back[:-1].sum(0, dtype=x.dtype))

    @pytest.mark.slow
    def test_it_is_the_sum_over_columns_that_its_estimates_tell(self) -> None:
        """An oracle: the columns and signs of single entries, one at a time, make the matrix of the sketch."""
        seed = jnp.uint32([1, 2])
        for entries, columns in ((23, 4), (1100, 2)):  # few blocks, and many
            sketches = jax.jit(jax.vmap(lambda row, c=columns: sketch(row, c, seed)))
            matrix = np.asarray(sketches(jnp.eye(entries)))
            assert ((matrix != 0).sum(1) == 1).all()  # each entry in one column
            assert set(matrix[matrix != 0]) == {-1.0, 1.0}
            assert (matrix != 0).sum(0).max() <= -(-entries // columns)  # the load of a column
            x = np.random.default_rng(0).normal(size=entries).astype(np.float32)
            np.testing.assert_allclose(sketches(x[None])[0], x @ matrix, rtol=1e-4, atol=1e-5)
            back = unsketch(jnp.float32(x @ matrix), entries, seed)
            np.testing.assert_allclose(back, (x @ matrix) @ matrix.T, rtol=1e-4, atol=1e-5)

    def test_it_is_unbiased_with_the_variance_that_is_claimed(self) -> None:
        """20,000 seeds: z-tests of 12 means at six deviations, false alarm below 3e-8; variances within 6 %.

        Entry 0 is alone in its block, so its variance is the textbook's, (||x||^2 - x_0^2) / c.
        """
        x = np.float32([1.5, 0, 0, 0, 2, -1, 0.5, 3, -2, 1, 1, 0.25])
        codec, columns = count_sketch(columns=4), 4
        state, _ = codec.init(fl.wire_of(jnp.asarray(x), capacity=1))
        keys = jax.random.split(jax.random.key(1), 20000)
        got = np.asarray(jax.jit(jax.vmap(lambda key: decoded(codec, codec.begin(state, None, key), x)))(keys))
        square = (x.astype(np.float64) ** 2).reshape(3, columns)
        variance = np.repeat((square.sum() - square.sum(1)) / columns, columns)
        assert variance[0] == pytest.approx((square.sum() - 1.5**2) / columns)
        assert (np.abs(got.mean(0) - x) < 6 * np.sqrt(variance / 20000)).all()
        np.testing.assert_allclose(((got - x) ** 2).mean(0), variance, rtol=0.06)
        assert ((got - x) ** 2).sum(1).mean() == pytest.approx((12 / 4 - 1) * square.sum(), rel=0.06)

    def test_parts_have_hashes_of_their_own(self) -> None:
        codec, x = count_sketch(columns=50), jnp.arange(1.0, 401.0)
        both = {"delta": x, "control": x}
        sent = jax.jit(lambda x: summand(codec, begun(codec, x, weight={"delta": 1, "control": 1}), x).value)(both)
        assert not np.isclose(sent["delta"], sent["control"]).all()

    def test_too_many_columns(self) -> None:
        with pytest.raises(ValueError, match="`columns` is 67 for an update with 66 entries.*Take fewer columns"):
            count_sketch(columns=67).init(fl.wire_of(UPDATE, capacity=1))
        with pytest.raises(ValueError, match="`columns` is 0; expected an int of at least 1"):
            count_sketch(columns=0)


@lru_cache
def in_a_round(rank: int) -> tuple[Any, Any]:
    """PowerSGD's first state, and what one message is decoded to with the next state: both compiled once."""
    codec = power_sgd(rank=rank)
    step = jax.jit(lambda state, value: codec.decode(state, summand(codec, state, value), None))
    return jax.jit(lambda value: begun(codec, value)), step


class TestPowerSGD:
    def low_rank(self, rank: int, shape: tuple[int, int] = (12, 9), tail: float = 0.0) -> jax.Array:
        rng = np.random.default_rng(rank)
        whole = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
        return jnp.float32(whole + tail * rng.normal(size=shape))

    def played(self, rank: int, value: jax.Array, rounds: int) -> tuple[list[float], Any]:
        """The relative error of every round, and the last state."""
        begin, step = in_a_round(rank)
        state, errors = begin(value), []
        for _ in range(rounds):
            total, state = step(state, value)
            errors.append(float(np.linalg.norm(total.value - value) / np.linalg.norm(value)))
        return errors, state

    @pytest.mark.parametrize("rank", [1, 2, 3])
    def test_a_matrix_of_its_rank_is_exact_from_the_second_round_on(self, rank: int) -> None:
        errors, _ = self.played(3, self.low_rank(rank), 4)
        assert errors[0] > 0.05
        assert max(errors[1:]) < 1e-5

    def test_a_warm_start_is_better_and_the_best_of_its_rank_is_reached(self) -> None:
        value = self.low_rank(2, tail=0.3)
        errors, _ = self.played(2, value, 12)
        singular = np.linalg.svd(np.asarray(value, np.float64), compute_uv=False)
        best = math.sqrt((singular[2:] ** 2).sum() / (singular**2).sum())
        assert errors[1] < 0.7 * errors[0]
        assert errors[-1] == pytest.approx(best, rel=1e-3)

    def test_it_is_the_projection_that_is_written_on_top(self) -> None:
        rng = np.random.default_rng(0)
        matrix = rng.normal(size=(12, 9))
        p, q = (np.linalg.qr(rng.normal(size=(n, 3)))[0] for n in (12, 9))
        bases = Bases(jnp.float32(p), jnp.float32(q))
        want = matrix - (np.eye(12) - p @ p.T) @ matrix @ (np.eye(9) - q @ q.T)

        @jax.jit
        def step(matrix: Any, bases: Bases) -> Any:
            sent = factors(matrix, bases)
            return product(sent, bases), fl.global_norm(sent), next_bases(sent, bases)

        got, norm, new = step(jnp.float32(matrix), bases)
        np.testing.assert_allclose(got, want, atol=1e-5)
        assert float(norm) == pytest.approx(np.linalg.norm(want), rel=1e-5)
        for mine, theirs in ((new.left, matrix @ q), (new.right, matrix.T @ p)):
            mine = np.asarray(mine, np.float64)
            np.testing.assert_allclose(mine.T @ mine, np.eye(3), atol=1e-5)
            np.testing.assert_allclose(mine @ mine.T @ theirs, theirs, atol=1e-4)  # the same space

    def test_one_message_carries_r_times_m_plus_n_numbers(self) -> None:
        codec = power_sgd(rank=2)
        _, end = codec.init(fl.wire_of(jnp.zeros((50, 30)), capacity=1))
        assert num_bytes(end.value) == 4 * 2 * (50 + 30)  # as many as both sums of the paper's step

    def test_bases_stay_orthonormal_through_zeros_and_sums_of_lower_rank(self) -> None:
        _, step = in_a_round(3)
        _, state = self.played(3, self.low_rank(1), 3)
        _, after = step(state, jnp.zeros((12, 9)))
        for base in jax.tree.leaves(after.bases):
            base = np.asarray(base)
            np.testing.assert_allclose(base.T @ base, np.eye(3), atol=1e-5)
        np.testing.assert_array_equal(after.bases[0].left, state.bases[0].left)
        total, _ = step(after, self.low_rank(1))
        assert helpers.max_difference(total.value, self.low_rank(1)) < 1e-4

    def test_small_leaves_go_as_they_are(self) -> None:
        codec = power_sgd(rank=2)
        template = {"b": jnp.zeros((6,)), "k": jnp.zeros((3, 3, 2, 8)), "s": jnp.zeros((2, 3))}
        x = draw(1, template)

        @jax.jit
        def through(x: Any) -> tuple[Any, Any]:
            state = begun(codec, template)
            return summand(codec, state, x).value, decoded(codec, state, x)

        sent, got = through(x)
        np.testing.assert_array_equal(got["b"], x["b"])
        np.testing.assert_array_equal(got["s"], x["s"])
        assert sent["k"].left.shape == (18, 2)
        with pytest.raises(
            ValueError, match=r"`rank` is 4, and no leaf of the update has fewer numbers.*Lower the rank"
        ):
            power_sgd(rank=4).init(fl.wire_of({"s": jnp.zeros((4, 4))}, capacity=1))

    def test_in_a_run_the_bases_follow_the_sum(self) -> None:
        """Two clients of different rank-1 updates: their mean has rank 2, and is exact in the second round."""
        value = self.low_rank(2)
        left, singular, right = np.linalg.svd(np.asarray(value), full_matrices=False)
        pieces = jnp.float32([singular[i] * np.outer(left[:, i], right[i]) for i in range(2)])
        algorithm = helpers.sender(lambda data: pieces[data.id])
        run, state, _ = helpers.one_run(
            algorithm, helpers.one_value_each([1.0, 1.0]), value, aggregator=fl.chain(fl.mean(), power_sgd(rank=2)),
            num_rounds=2,
        )  # fmt: skip
        assert helpers.max_difference(run.params(state), value / 2) < 1e-4
