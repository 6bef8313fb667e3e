"""Chains: what is clipped and quantized, what is refused, what travels beside, and what it weighs in bytes."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import fedjaxlite as fl

TEMPLATE = {"w": jax.ShapeDtypeStruct((3, 2), jnp.float32), "b": jax.ShapeDtypeStruct((), jnp.float32)}
PEOPLE = helpers.one_value_each([1.0, -2.0, 4.0, 8.0], sizes=[1, 2, 3, 4])


def wire(template: Any = TEMPLATE, *, weight: Any = jnp.int32, capacity: int = 8, **facts: Any) -> fl.Wire:
    return fl.Wire(template, jax.ShapeDtypeStruct((), weight), {}, {}, capacity=capacity, **facts)


def info(key: int = 0, weight: float = 1.0) -> fl.ClientInfo:
    return fl.ClientInfo(jnp.int32(0), jnp.float32(weight), jax.random.key(key), jnp.bool_(True))


def message(value: Any, weight: Any = None) -> fl.Message:
    return fl.Message(jax.tree.map(jnp.asarray, value), jnp.int32(1) if weight is None else weight, {})


def summand(chain: fl.Aggregator, state: Any, message: fl.Message, info: fl.ClientInfo) -> fl.Message:
    """What the server makes of one client's message before the sum."""
    own = ((),) * len(chain.parts)
    return chain.read(state, chain.encode(state, own, message, info)[0], info)


def through(chain: fl.Aggregator, values: list[Any], weights: list[int]) -> fl.Aggregate:
    """What the server gets from clients with these values and weights."""
    template = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, values[0]))
    chain = chain if chain.role == "chain" else fl.chain(chain)
    state, _ = chain.init(wire(template))

    @jax.jit
    def run(values: list[Any]) -> fl.Aggregate:
        encode = lambda v, w, i: summand(chain, state, message(v, jnp.int32(w)), info(i))  # noqa: E731
        parts = [encode(v, w, i) for i, (v, w) in enumerate(zip(values, weights, strict=True))]
        total = jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *parts)
        return chain.decode(state, total, jax.random.key(0))[0]

    return run(values)


class TestMeans:
    def test_each_mean_divides_by_what_it_says(self) -> None:
        values, weights = [np.float32([1, 2]), np.float32([5, -4])], [1, 3]
        for codec, value, weight in (
            (fl.mean(), [3.0, -1.0], 2),
            (fl.mean(over=8), [0.75, -0.25], 8),
            (fl.weighted_mean(), [4.0, -2.5], 4),
            (fl.weighted_mean(weight_cap=2), [11 / 3, -2.0], 3),
        ):
            aggregate = through(codec, values, weights)
            np.testing.assert_allclose(aggregate.value, value, rtol=1e-6)
            assert float(aggregate.weight) == weight

    def test_no_weight_at_all_gives_zero(self) -> None:
        for codec in (fl.weighted_mean(), fl.mean(over=3)):
            aggregate = through(codec, [np.zeros(2, np.float32)], [0])
            assert aggregate.value.tolist() == [0.0, 0.0]
        aggregate = through(fl.weighted_mean(), [np.ones(2, np.float32)] * 2, [0, 0])
        assert (aggregate.value.tolist(), float(aggregate.weight)) == ([0.0, 0.0], 0.0)

    def test_weights_of_the_parts_of_an_update(self) -> None:
        """A tree of weights: each part is averaged under its own."""
        update = lambda data: {"a": helpers.first_value(data), "b": {"c": helpers.first_value(data)}}  # noqa: E731
        algorithm = helpers.sender(update, weight=lambda data: {"a": data.num_examples, "b": jnp.int32(1)})
        start = {"a": jnp.float32(0), "b": {"c": jnp.float32(0)}}
        run, state, _ = helpers.one_run(algorithm, PEOPLE, start)
        assert run.params(state)["a"] == pytest.approx((1 - 4 + 12 + 32) / 10)
        assert run.params(state)["b"]["c"] == pytest.approx(11 / 4)

    @pytest.mark.parametrize("dtype", helpers.some_often([jnp.bfloat16, jnp.float16], 2))
    def test_narrow_floats_are_summed_in_float32(self, dtype: Any) -> None:
        people = helpers.one_value_each([1.0] * 300, sizes=[301] * 300)
        algorithm = helpers.sender(lambda data: dtype(1.5))._replace(
            server_update=lambda params, aggregate, key: params + aggregate.value.astype(params.dtype)
        )
        run, state, _ = helpers.one_run(algorithm, people, dtype(0))
        assert float(run.params(state)) == 1.5
        assert run.traffic(dtype(0), people) == (2 + 4, 2)

    def test_the_samplers_scale_multiplies_the_weight(self) -> None:
        def sample(key: Any, number: Any, population: Any) -> fl.Cohort:
            scale = jnp.float32([1.0, 0.5, 2.0, 3.0])
            return fl.sampling.cohort(jnp.arange(4), jnp.array([True, True, True, False]), scale=scale)

        sampler = fl.Sampler(sample, 4, fl.sampling.Accounting("weighted"), scaled=True)
        for aggregator, want in ((fl.weighted_mean(), (1 - 2 + 24) / (1 + 1 + 6)), (fl.mean(), (1 - 1 + 8) / 3.5)):
            run, state, _ = helpers.one_run(
                helpers.sender(helpers.first_value), PEOPLE, jnp.float32(0), sampler=sampler, aggregator=aggregator
            )
            assert float(run.params(state)) == pytest.approx(want)

    def test_wrong_arguments(self) -> None:
        with pytest.raises(
            ValueError, match=r"`over` is 0; expected a finite number above 0.*expected number of clients"
        ):
            fl.mean(over=0)
        with pytest.raises(ValueError, match="`weight_cap` is 0; expected an int of at least 1"):
            fl.weighted_mean(weight_cap=0)
        with pytest.raises(TypeError, match="`weight_cap` is 1.5; expected an int"):
            fl.weighted_mean(weight_cap=1.5)  # type: ignore[arg-type]


class TestClips:
    def test_a_long_update_is_cut_and_a_short_one_is_not(self) -> None:
        chain = fl.chain(fl.mean(), fl.clip_by_global_norm(1.0))
        long, short = {"w": np.float32([3, 0]), "b": np.float32(4)}, {"w": np.float32([0.3, 0]), "b": np.float32(0.4)}
        cut = through(chain, [long], [1]).value
        np.testing.assert_allclose((cut["w"][0], cut["b"]), (0.6, 0.8), rtol=1e-6)
        kept = through(chain, [short], [1]).value
        assert (float(kept["w"][0]), float(kept["b"])) == (np.float32(0.3), np.float32(0.4))

    def test_zero_and_infinite_norms(self) -> None:
        zero = through(fl.chain(fl.mean(), fl.clip_by_global_norm(1.0)), [np.zeros(3, np.float32)], [1])
        assert zero.value.tolist() == [0, 0, 0]
        free = through(fl.chain(fl.mean(), fl.clip_by_global_norm(np.inf)), [np.float32([1e20, -3])], [1])
        assert free.value.tolist() == [np.float32(1e20), -3]

    @pytest.mark.parametrize("largest", [1e-42, 1e-30, 1e19, 3e38])
    def test_norms_of_numbers_of_any_size(self, largest: float) -> None:
        """Those too that have no reciprocal among the normal numbers."""
        value = np.float32([largest, 0.0])
        norm = np.float64(jax.jit(fl.global_norm)(jnp.asarray(value)))
        assert norm == pytest.approx(largest, rel=1e-6, abs=1e-37)
        cut = jax.jit(lambda v: through(fl.chain(fl.mean(), fl.clip_by_global_norm(1.0)), [v], [1]).value)
        assert cut(value)[0] <= min(largest, 1.0) * (1 + 1e-6)

    def test_a_norm_can_be_differentiated_at_zero_and_keeps_nan(self) -> None:
        norm_and_slope = jax.jit(jax.value_and_grad(fl.global_norm))
        np.testing.assert_array_equal(norm_and_slope(jnp.zeros(2))[1], np.zeros(2))
        np.testing.assert_allclose(norm_and_slope(jnp.float32([3.0, 4.0]))[1], [0.6, 0.8], rtol=1e-6)
        assert np.isnan(norm_and_slope(jnp.float32([1.0, np.nan]))[0])

    def test_entries_are_cut_one_by_one(self) -> None:
        cut = through(fl.chain(fl.mean(), fl.clip_by_value(0.5)), [np.float32([0.2, -3, 0.6])], [1]).value
        np.testing.assert_allclose(cut, [0.2, -0.5, 0.5], rtol=1e-6)

    def test_a_clip_eats_neither_weights_nor_scalars(self) -> None:
        algorithm = helpers.normalized()
        clipped = fl.chain(fl.weighted_mean(), fl.clip_by_global_norm(1e-6))
        run, state, _ = helpers.one_run(algorithm, helpers.regression(), helpers.linear_params(), aggregator=clipped)
        steps = [-(-n // 8) for n in helpers.RAGGED]
        moved = float(fl.global_norm(run.params(state)))
        assert moved <= 1e-6 * np.average(steps, weights=helpers.RAGGED) * 1.001
        assert moved > 1e-6  # the mean number of steps is far above 1 and was not clipped away

    def test_the_wire_knows_the_bounds(self) -> None:
        chain = fl.chain(fl.mean(), fl.clip_by_global_norm(2.0), fl.clip_by_value(0.5), fl.clip_by_global_norm(3.0))
        assert chain.init(wire())[1].bounds == fl.Bounds(l2=2.0, linf=0.5)

    def test_wrong_arguments(self) -> None:
        with pytest.raises(ValueError, match=r"`clip_norm` is -1; expected a number of at least 0. Infinity switches"):
            fl.clip_by_global_norm(-1)
        with pytest.raises(ValueError, match="a clip norm of 0 would erase every update"):
            fl.clip_by_global_norm(0.0)
        with pytest.raises(ValueError, match="`max_abs` is inf; expected a finite number above 0"):
            fl.clip_by_value(np.inf)


class TestQuantization:
    @pytest.mark.parametrize(("rounding", "share"), [("stochastic", 1.0), ("nearest", 0.5)])
    @pytest.mark.parametrize("bits", [2, 8, 16, 24])
    def test_the_mean_is_off_by_at_most_a_step(self, bits: int, rounding: str, share: float) -> None:
        rng = np.random.default_rng(bits)
        values = [rng.uniform(-2, 2, 500).astype(np.float32) for _ in range(3)]
        weights = [1, 2, 1] if bits < 24 else [1, 1, 1]
        chain = fl.chain(
            fl.weighted_mean(weight_cap=max(weights)), fl.clip_by_value(1.0), fl.quantize(bits=bits, rounding=rounding)
        )
        want = np.average([np.clip(v, -1, 1) for v in values], axis=0, weights=weights)
        step = 1.0 / (2 ** (bits - 1) - 1)
        got = np.asarray(through(chain, values, weights).value)
        assert np.abs(got - want).max() <= share * step * 1.001 + 1e-6
        assert np.abs(got - want).max() > 0.1 * share * step or bits == 24

    def test_stochastic_rounding_is_unbiased(self) -> None:
        """By z-tests of 8 entries at six standard deviations: false alarm below 2e-8."""
        chain = fl.chain(fl.mean(), fl.clip_by_value(1.0), fl.quantize(bits=3))
        value, number = np.float32([-1, -0.9, -0.4, -0.01, 0, 0.2, 0.77, 1]), 4000
        state, _ = chain.init(wire(jax.ShapeDtypeStruct((8,), jnp.float32)))
        encode = jax.jit(jax.vmap(lambda i: summand(chain, state, message(value), info(i)).value))
        drawn = np.asarray(encode(jnp.arange(number))).astype(np.int32) / 3
        distance = np.abs(drawn.mean(0) - value)
        frac = value * 3 - np.floor(value * 3)
        assert (distance <= 6 * np.sqrt(frac * (1 - frac) / number) / 3 + 1e-6).all()
        assert (drawn.std(0)[1:4] > 0.05).all()
        assert drawn.std(0)[[0, 4, 7]].max() == 0  # what is on a level stays

    def test_entries_and_clients_round_independently(self) -> None:
        chain = fl.chain(fl.mean(), fl.clip_by_value(1.0), fl.quantize(bits=2))
        template = {"a": jax.ShapeDtypeStruct((2,), jnp.float32), "b": jax.ShapeDtypeStruct((), jnp.float32)}
        half = {"a": np.float32([0.5, 0.5]), "b": np.float32(0.5)}
        state, _ = chain.init(wire(template))
        encode = jax.jit(jax.vmap(lambda i: summand(chain, state, message(half), info(i)).value))
        drawn = encode(jnp.arange(2000))
        bits = np.stack([drawn["a"][:, 0], drawn["a"][:, 1], drawn["b"]], axis=1)
        _, counts = np.unique(bits @ [4, 2, 1], return_counts=True)
        assert stats.chisquare(counts).pvalue > 1e-7
        assert len(counts) == 8

    def test_the_sum_is_exact_in_any_order(self) -> None:
        chain = fl.chain(fl.weighted_mean(weight_cap=50), fl.clip_by_value(1.0), fl.quantize(bits=20))
        template = jax.ShapeDtypeStruct((1000,), jnp.float32)
        state, _ = chain.init(wire(template, capacity=40))
        draw = lambda i: message(jax.random.normal(jax.random.key(i), (1000,)), i)  # noqa: E731
        encode = jax.jit(jax.vmap(lambda i: summand(chain, state, draw(i), info(i)).value))
        elements = np.asarray(encode(jnp.arange(40)))
        assert elements.dtype == np.uint32
        order = np.random.default_rng(0).permutation(40)
        assert (elements.sum(0, dtype=np.uint32) == elements[order].sum(0, dtype=np.uint32)).all()
        signed = elements.view(np.int32).astype(np.int64).sum(0)
        assert (elements.sum(0, dtype=np.uint32).view(np.int32) == signed).all()  # nothing wrapped around

    def test_scalars_are_quantized_to_their_own_bound(self) -> None:
        chain = fl.chain(fl.weighted_mean(weight_cap=200), fl.clip_by_global_norm(100.0), fl.quantize(bits=16))
        population, params = helpers.regression(), helpers.linear_params()
        plain_run, plain, _ = helpers.one_run(helpers.normalized(), population, params)
        run, state, _ = helpers.one_run(helpers.normalized(), population, params, aggregator=chain)
        assert helpers.max_difference(run.params(state), plain_run.params(plain)) < 0.1
        facts = run.wire(params, population)
        assert (facts.group, facts.bits, facts.weight_cap) == ("mod32", 16, 200)
        assert facts.scalars["steps"].dtype == jnp.uint32

    def test_it_runs_where_64_bits_are_the_default(self) -> None:
        chain = fl.chain(fl.mean(), fl.clip_by_value(1.0), fl.quantize(bits=8))
        with jax.enable_x64(True):
            aggregate = through(chain, [np.float32([0.5, -0.25])], [1])
        np.testing.assert_allclose(aggregate.value, [0.5, -0.25], atol=1 / 127)

    def test_an_unbounded_scalar_is_refused(self) -> None:
        chain = fl.chain(fl.mean(), fl.clip_by_value(1.0), fl.quantize(bits=8))
        algorithm = helpers.normalized()._replace(scalar_bounds={})
        with pytest.raises(ValueError, match=r"bound on the scalar 'steps'.*Add it to Algorithm.scalar_bounds"):
            helpers.one_run(algorithm, helpers.regression(), helpers.linear_params(), aggregator=chain)

    def test_wrong_arguments(self) -> None:
        for bits in (1, 25):
            with pytest.raises(ValueError, match=f"`bits` is {bits}; expected 2 to 24"):
                fl.quantize(bits=bits)
        with pytest.raises(ValueError, match="`rounding` is 'up'; expected one of 'stochastic', 'nearest'"):
            fl.quantize(bits=8, rounding="up")


class TestOrders:
    def refuses(self, *codecs: fl.Aggregator, text: str, **facts: Any) -> None:
        with pytest.raises(ValueError, match=text):
            fl.chain(*codecs).init(wire(**facts))

    def test_a_mean_stands_first_and_alone(self) -> None:
        self.refuses(fl.quantize(bits=8), text=r"chain\(quantize\) has no mean at its head; expected `fl.mean\(\)` or")
        self.refuses(text=r"chain\(\) has no mean at its head.*Write fl.chain\(fl.weighted_mean\(\), \.\.\.\)")
        self.refuses(
            fl.mean(), fl.clip_by_value(1.0), fl.weighted_mean(),
            text="has weighted_mean at position 2; expected one mean, at the head. Move it",
        )  # fmt: skip

    def test_a_clip_stands_before_the_quantizer(self) -> None:
        for clip in (fl.clip_by_global_norm(1.0), fl.clip_by_value(1.0)):
            self.refuses(
                fl.mean(), fl.clip_by_value(1.0), fl.quantize(bits=8), clip,
                text=rf"`{clip.name}` needs float leaves, got uint8\[1\] at \['b'\] .*; put `{clip.name}` before `quantize`",
            )  # fmt: skip
        self.refuses(
            fl.mean(), fl.quantize(bits=8), text=r"`quantize` needs a bound on the entries.*Put fl.clip_by_global_norm"
        )
        self.refuses(
            fl.mean(),
            fl.clip_by_global_norm(np.inf),
            fl.quantize(bits=8),
            text="`quantize` needs a bound on the entries",
        )

    def test_two_quantizers(self) -> None:
        self.refuses(
            fl.mean(), fl.clip_by_value(1.0), fl.quantize(bits=8), fl.quantize(bits=8), text="put `quantize` before"
        )

    def test_integer_sums_need_integer_weights_with_a_cap(self) -> None:
        clip, quantize = fl.clip_by_value(1.0), fl.quantize(bits=8)
        self.refuses(fl.weighted_mean(), clip, quantize, text="weights must be integers with a cap.*weight_cap=")
        self.refuses(fl.weighted_mean(weight_cap=9), clip, quantize, weight=jnp.float32, text="got float weights")
        self.refuses(fl.mean(), clip, quantize, scaled=True, text="neither goes with a sampler that scales weights")

    def test_a_sum_that_could_overflow(self) -> None:
        clip = fl.clip_by_value(1.0)
        self.refuses(
            fl.weighted_mean(weight_cap=1000), clip, fl.quantize(bits=16), capacity=100,
            text=r"`quantize\(bits=16\)` can overflow: capacity 100 x weight cap 1000 x 32767 levels = 3276700000, more "
            r"than 2\^31 - 1. Here at most 15 bits fit",
        )  # fmt: skip
        fl.chain(fl.weighted_mean(weight_cap=1000), clip, fl.quantize(bits=15)).init(wire(capacity=100))
        self.refuses(
            fl.weighted_mean(weight_cap=2**30), clip, fl.quantize(bits=2), capacity=100, text="no number of bits fits"
        )

    def test_nothing_stands_behind_a_mask_or_a_stack(self) -> None:
        mask = fl.Aggregator(role="mask", name="mask")
        self.refuses(fl.mean(), mask, fl.clip_by_value(1.0), text="has clip_by_value behind the mask mask.*before it")
        stack = fl.stack(lambda values, weights, present: values)
        self.refuses(fl.mean(), mask, stack, text="has both mask and stack: behind a mask the server sees a sum")
        self.refuses(fl.mean(), stack, fl.clip_by_value(1.0), text="has clip_by_value behind stack, which makes one")
        self.refuses(fl.mean(over=4), stack, text=r"`stack` is not a sum, so mean\(over=4\) has nothing to divide")

    def test_chains_of_chains_are_one_chain(self) -> None:
        inner = fl.chain(fl.mean(), fl.clip_by_value(1.0))
        assert fl.chain(inner, fl.quantize(bits=8)).name == "chain(mean, clip_by_value, quantize)"
        assert [codec.name for codec in fl.chain(inner, fl.quantize(bits=8)).parts][-1] == "quantize"


def median(values: Any, weights: Any, present: Any) -> Any:
    hide = lambda v: jnp.where(present.reshape((-1,) + (1,) * (v.ndim - 1)), v, jnp.nan)  # noqa: E731
    return jax.tree.map(lambda v: jnp.nanmedian(hide(v), axis=0), values)


class TestStacks:
    def test_a_median_over_devices_and_spare_slots(self) -> None:
        sampler = fl.sampling.replay([[3, 0, -1, 2]])
        for execution in (helpers.ONE, fl.Execution(lanes=2, devices=helpers.available(2))):
            run, state, info = helpers.one_run(
                helpers.sender(helpers.first_value),
                PEOPLE,
                jnp.float32(0),
                sampler=sampler,
                aggregator=fl.chain(fl.mean(), fl.stack(median)),
                execution=execution,
            )
            assert float(run.params(state)) == pytest.approx(4.0)
            assert int(info.num_reported) == 3

    def test_a_stack_sees_values_weights_and_presence_in_cohort_order(self) -> None:
        def pack(values: Any, weights: Any, present: Any) -> Any:
            place = jnp.float32([1, 10, 100, 1000])
            return {
                "v": (values["v"] * place).sum()
                + 0.1 * (weights * place).sum()
                + 0.01 * present.sum().astype(jnp.float32)
            }

        run, state, _ = helpers.one_run(
            helpers.sender(lambda data: {"v": helpers.first_value(data)}),
            PEOPLE,
            {"v": jnp.float32(0)},
            sampler=fl.sampling.replay([[2, -1, 0, 3]]),
            aggregator=fl.chain(fl.weighted_mean(), fl.stack(pack)),
        )
        want = 4 + 100 + 8000 + 0.1 * (3 + 100 + 4000) + 0.03
        assert float(run.params(state)["v"]) == pytest.approx(want, rel=1e-6)

    def test_nobody_leaves_a_stack_finite_where_the_function_is(self) -> None:
        total = lambda values, weights, present: jax.tree.map(lambda v: v.sum(0), values)  # noqa: E731
        run, state, _ = helpers.one_run(
            helpers.sender(helpers.first_value), PEOPLE, jnp.float32(7), sampler=fl.sampling.replay([[-1, -1]]),
            aggregator=fl.chain(fl.mean(), fl.stack(total)),
        )  # fmt: skip
        assert float(run.params(state)) == 0

    def test_a_function_that_keeps_the_axis_is_refused(self) -> None:
        keep = fl.stack(lambda values, weights, present: values)
        with pytest.raises(
            ValueError, match=r"the value that `stack` returned has float32\[4\] at the root.*Reduce the"
        ):
            helpers.one_run(
                helpers.sender(helpers.first_value), PEOPLE, jnp.float32(0), aggregator=fl.chain(fl.mean(), keep)
            )
        with pytest.raises(TypeError, match="`fn` is 3; expected a function"):
            fl.stack(3)  # type: ignore[arg-type]
        tree = helpers.sender(
            lambda data: {"a": helpers.first_value(data), "b": helpers.first_value(data)},
            weight=lambda data: {"a": jnp.int32(1), "b": jnp.int32(2)},
        )
        chain = fl.chain(fl.weighted_mean(), fl.stack(median))
        with pytest.raises(
            ValueError, match=r"`stack` needs one weight per client, and this .* tree of them. Use fl.mean"
        ):
            helpers.one_run(tree, PEOPLE, {"a": jnp.float32(0), "b": jnp.float32(0)}, aggregator=chain)


class TestTraffic:
    PARAMS = {"w": jnp.zeros((10, 3)), "b": jnp.zeros((3,))}

    def traffic(self, aggregator: fl.Aggregator, **fields: Any) -> tuple[int, int]:
        algorithm = helpers.sender(lambda data: self.PARAMS, **fields)
        run = fl.rounds(algorithm, sampler=fl.sampling.full(4), aggregator=aggregator, execution=helpers.ONE)
        return tuple(run.traffic(self.PARAMS, PEOPLE))

    def test_floats_integers_and_scalars(self) -> None:
        assert self.traffic(fl.mean()) == (33 * 4 + 4, 33 * 4)
        eight = fl.chain(fl.weighted_mean(weight_cap=9), fl.clip_by_value(1.0), fl.quantize(bits=8))
        assert self.traffic(eight) == (33 + 4, 33 * 4)
        three = fl.chain(fl.mean(), fl.clip_by_value(1.0), fl.quantize(bits=3))
        assert self.traffic(three) == (-(-33 * 2 // 8) - (-33 // 8) + 4, 33 * 4)  # planes of two bits and of one
        scalars = {"scalars": lambda data: {"s": jnp.float32(1), "t": jnp.float32(1)}}
        assert self.traffic(fl.mean(), **scalars) == (33 * 4 + 4 + 8, 33 * 4)

    def test_what_is_broadcast_and_what_is_resident(self) -> None:
        assert self.traffic(fl.mean(), broadcast=lambda state: {"only": state["b"]})[1] == 12
        assert self.traffic(fl.mean(), resident=lambda shared: shared["w"])[1] == 12
