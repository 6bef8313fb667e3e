"""Secure sums in a chain and in rounds: bit for bit what is summed without masks, and what must not be built."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.benchmarks import secure_aggregation
from fedjaxlite.privacy.distributed.codecs import skellam
from fedjaxlite.privacy.masking import mask_rules
from fedjaxlite.privacy.masking.masks import mask
from fedjaxlite.privacy.masking.secure_sum import secure_sum

VALUES = (0.5, -0.25, 0.125, 0.3, -0.9, 0.7, 0.01, -0.6, 2.0)
PEOPLE = helpers.one_value_each(VALUES, sizes=range(1, 10))
"""Nine clients of 1 to 9 examples; the last one's value is clipped."""
CLIP = fl.clip_by_value(1.0)
SCALAR = jax.ShapeDtypeStruct((), jnp.float32)
TEMPLATE = {"w": jax.ShapeDtypeStruct((3, 2), jnp.float32), "b": SCALAR}


def cohort(ids: Any = range(9), left: Any = ()) -> fl.Cohort:
    """These clients in a slot each, and a spare slot; those in `left` do not report."""
    ids = np.append(np.asarray(ids, np.int32), 0)
    selected = np.arange(10) < 9
    drawn = fl.sampling.cohort(jnp.asarray(ids), jnp.asarray(selected))
    return drawn._replace(reported=jnp.asarray(selected & ~np.isin(ids, np.asarray(left, np.int32))))


def send(shared: Any, data: fl.ClientData) -> fl.ClientOutput:
    x = helpers.first_value(data)
    return fl.ClientOutput({"w": x * jnp.array([1.0, -0.5, 0.25]), "b": x}, data.num_examples)


@lru_cache(maxsize=8)
def summed(kind: str, lanes: int = 1, devices: int = 1) -> Any:
    codecs = {
        "faithful": (secure_sum(bits=12, neighbors=4),),
        "algebraic": (secure_sum(bits=12, neighbors=4, masking="algebraic"),),
        "plain": (fl.quantize(bits=12),),
    }[kind]
    chain = fl.chain(fl.weighted_mean(weight_cap=9), CLIP, *codecs)
    return fl.federated_sum(
        send, aggregator=chain, execution=fl.Execution(lanes=lanes, devices=helpers.available(devices))
    )


def open_sum(kind: str, who: fl.Cohort, people: fl.Population = PEOPLE, **layout: int) -> tuple[Any, Any]:
    aggregate, info = summed(kind, **layout)((), people, who, key=jax.random.key(0), noise_key=jax.random.key(0))
    return jax.device_get((aggregate.value, aggregate.weight)), jax.device_get(info.aggregator)


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def wire(*, capacity: int = 8, weight: Any = jnp.int32, scaled: bool = False) -> fl.Wire:
    return fl.Wire(TEMPLATE, jax.ShapeDtypeStruct((), weight), {}, {}, capacity=capacity, scaled=scaled)


class TestRounds:
    @pytest.mark.parametrize("layout", helpers.some_often([{}, {"lanes": 3}, {"lanes": 2, "devices": 4}], 3), ids=str)
    def test_masked_equals_unmasked_bit_for_bit(self, layout: dict[str, int]) -> None:
        for left, weight in (([], 45), ([3, 8], 45 - 4 - 9)):
            masked, told = open_sum("faithful", cohort(left=left), **layout)
            plain, _ = open_sum("plain", cohort(left=left), **layout)
            assert same(masked, plain)
            assert told == {"mask_refused": 0}
            assert masked[1] == weight

    def test_lanes_devices_and_the_order_of_the_cohort_change_no_bit(self) -> None:
        expected, _ = open_sum("faithful", cohort(left=[2]))
        assert same(open_sum("faithful", cohort(range(8, -1, -1), left=[2]))[0], expected)
        assert same(
            open_sum("faithful", cohort([4, 0, 8, 2, 6, 1, 7, 3, 5], left=[2]), lanes=2, devices=4)[0], expected
        )

    @pytest.mark.slow
    def test_lanes_alone_change_no_bit(self) -> None:
        expected, _ = open_sum("faithful", cohort(left=[2]))
        assert same(open_sum("faithful", cohort(left=[2]), lanes=3)[0], expected)

    def test_faithful_equals_algebraic_bit_for_bit_refusals_too(self) -> None:
        for left in ([], [7], [0, 1, 2], [0, 1, 2, 3, 4], range(9)):
            faithful, algebraic = (open_sum(kind, cohort(left=left)) for kind in ("faithful", "algebraic"))
            assert same(faithful, algebraic)

    def test_too_few_survivors_are_refused(self) -> None:
        (value, weight), told = open_sum("faithful", cohort(left=[0, 1, 2, 3, 4, 5]))
        assert told == {"mask_refused": 1}
        assert weight == 0
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(value))

    def test_a_client_that_is_not_finite_still_masks(self) -> None:
        x = np.where(np.arange(9) == 4, np.nan, VALUES).astype(np.float32)
        owner = np.repeat(np.arange(9), range(1, 10))
        broken = fl.Population.from_arrays({"x": x[owner]}, client_ids=owner, check_finite=False)
        masked, told = open_sum("faithful", cohort(), broken)
        assert told == {"mask_refused": 0}
        assert same(masked, open_sum("plain", cohort(), broken)[0])
        assert masked[1] == 45 - 5

    def test_training_with_masks_is_training_without(self) -> None:
        """A round with dropouts and the next one, in lanes; what is trained does not matter to a mask."""
        people = helpers.regression((4, 7, 2, 5, 3, 6))
        sampler = fl.sampling.with_dropout(fl.sampling.uniform(5), 0.2)
        found = []
        for codec in (secure_sum(bits=20, neighbors=2, min_survivors=2), fl.quantize(bits=20)):
            chain = fl.chain(fl.weighted_mean(weight_cap=7), fl.clip_by_global_norm(1.0), codec)
            _, state, info = helpers.one_run(
                helpers.sends(),
                people,
                helpers.linear_params(),
                sampler=sampler,
                aggregator=chain,
                execution=fl.Execution(lanes=2, devices=1),
                num_rounds=2,
                seed=1,
            )
            found.append((jax.device_get(state.params), info))
        assert same(found[0][0], found[1][0])
        assert np.any(found[0][0]["w"])
        assert int(found[0][1].aggregator["mask_refused"]) == 0


class TestChain:
    def test_it_stands_for_its_two_parts(self) -> None:
        chain = fl.chain(fl.mean(), CLIP, secure_sum(bits=10, rounding="nearest", neighbors=2))
        assert chain.name == "chain(mean, clip_by_value, quantize, mask)"
        assert chain.parts[2].hparams == {"bits": 10, "rounding": "nearest"}
        assert chain.parts[3].hparams["neighbors"] == 2
        assert secure_sum(bits=10).hparams["bits"] == 10

    def test_the_wire_ends_masked_with_whole_words(self) -> None:
        """A masked entry is uniform mod 2^32: it takes 32 bits, however few the values had."""
        _, end = fl.chain(fl.mean(), CLIP, secure_sum(bits=6)).init(wire())
        assert (end.masked, end.group, end.bits, end.weight_cap) == (True, "mod32", 32, 1)

    def test_trees_of_weights_and_scalars_go_through_the_mask(self) -> None:
        """As SCAFFOLD sends it: a part weighted by examples, another one uniformly."""
        weight = {"delta": jax.ShapeDtypeStruct((), jnp.int32), "control": jax.ShapeDtypeStruct((), jnp.int32)}
        value = {name: {"w": jax.ShapeDtypeStruct((3,), jnp.float32)} for name in weight}
        rng = np.random.default_rng(0)
        sent = fl.Message(
            {name: {"w": jnp.asarray(rng.uniform(-1, 1, (5, 3)), jnp.float32)} for name in weight},
            {"delta": jnp.arange(1, 6, dtype=jnp.int32), "control": jnp.ones((5,), jnp.int32)},
            {},
        )
        got = opened_both_ways(fl.Wire(value, weight, {}, {}, capacity=5), sent, fl.quantize(bits=16))
        assert same(got[0], got[1])
        assert (got[0].weight["delta"], got[0].weight["control"]) == (15, 5)
        mean = np.average(np.asarray(sent.value["delta"]["w"]), axis=0, weights=np.arange(1, 6))
        assert np.allclose(got[0].value["delta"]["w"], mean, atol=1 / (2**15 - 1))

    def test_scalars_are_weighted_and_masked(self) -> None:
        scalar = jax.ShapeDtypeStruct((), jnp.float32)
        line = fl.Wire(
            {"w": scalar}, jax.ShapeDtypeStruct((), jnp.int32), {"steps": scalar}, {"steps": 8.0}, capacity=4
        )
        sent = fl.Message({"w": jnp.zeros((4,))}, jnp.array([1, 1, 2, 5]), {"steps": jnp.array([1.0, 2.0, 4.0, 8.0])})
        got = opened_both_ways(line, sent, fl.quantize(bits=16))
        assert same(got[0], got[1])
        assert np.allclose(got[0].scalars["steps"], (1 + 2 + 8 + 40) / 9, atol=8 / (2**15 - 1))

    def test_noise_of_the_clients_goes_through_the_mask(self) -> None:
        """Distributed differential privacy: the masked sum decodes to the noised one, bit for bit."""
        line = fl.Wire({"w": jax.ShapeDtypeStruct((3,), jnp.float32)}, SCALAR, {}, {}, capacity=5)
        sent = fl.Message({"w": jnp.linspace(-1, 1, 15).reshape(5, 3)}, jnp.ones((5,)), {})
        noise = skellam(clip_norm=1.0, noise_multiplier=0.5, bits=14, min_survivors=4)
        got = opened_both_ways(line, sent, noise, head=(fl.mean(over=5),))
        assert same(got[0], got[1])
        error = np.abs(got[0].value["w"] - np.asarray(sent.value["w"]).mean(0))
        assert np.all((error > 0) & (error < 6 * 0.5 / 5 * 1.5))  # six standard deviations of 0.5 / 5, and some more


def opened_both_ways(line: fl.Wire, sent: fl.Message, codec: fl.Aggregator, head: Any = None) -> list[fl.Aggregate]:
    """What the server gets of clients who are all there, with masks and without; `[K]` in front on all they send."""
    bare = fl.Aggregator(role="mask", name="no mask")
    head = (fl.weighted_mean(weight_cap=5), CLIP) if head is None else head
    return [opened(fl.chain(*head, codec, last), line, sent) for last in (mask(neighbors=2), bare)]


def opened(chain: fl.Aggregator, line: fl.Wire, sent: fl.Message) -> fl.Aggregate:
    state, _ = chain.init(line)
    key, slots = jax.random.key(3), jnp.arange(line.capacity, dtype=jnp.int32)
    there = fl.sampling.cohort(slots + 7, jnp.ones(slots.shape, bool))

    @jax.jit
    def total(sent: fl.Message) -> fl.Aggregate:
        opened = chain.begin(state, there, key)

        def one(slot: jax.Array, message: fl.Message) -> fl.Message:
            own = jax.random.fold_in(key, slot)
            info = fl.ClientInfo(slot + 7, jnp.float32(1), own, jnp.bool_(True), slot)
            return chain.encode(opened, ((),) * len(chain.parts), message, info)[0]

        masked = jax.vmap(one)(slots, sent)
        return chain.decode(opened, jax.tree.map(lambda leaf: leaf.sum(0, dtype=leaf.dtype), masked), key)[0]

    return jax.device_get(total(sent))


class TestOverflow:
    def test_sums_of_exactly_two_to_the_31_minus_1_are_accepted_and_no_larger_ones(self) -> None:
        two_bits = fl.chain(fl.mean(), CLIP, secure_sum(bits=2, neighbors=2))
        two_bits.init(wire(capacity=2**31 - 1))
        with pytest.raises(ValueError, match="capacity 2147483648 x weight cap 1 x 1 levels = 2147483648, more than"):
            two_bits.init(wire(capacity=2**31))

    def test_bits_cohort_and_weights_count(self) -> None:
        chain = fl.chain(fl.weighted_mean(weight_cap=1024), CLIP, secure_sum(bits=15, neighbors=32))
        chain.init(wire(capacity=100))
        with pytest.raises(
            ValueError, match=r"`quantize\(bits=15\)` can overflow: capacity 129 x weight cap 1024 x 16383"
        ):
            chain.init(wire(capacity=129))

    def test_weights_alone(self) -> None:
        line = wire(capacity=4)._replace(group="mod32", weight_cap=2**29)
        line = line._replace(**words(line))
        assert mask().init(line._replace(weight_cap=2**29 - 1))[1].masked
        with pytest.raises(
            ValueError, match=r"`mask` can overflow: capacity 4 x weight cap 536870912 = 2147483648, more"
        ):
            mask().init(line)


def words(line: fl.Wire) -> dict[str, Any]:
    whole = lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.uint32), tree)  # noqa: E731
    return {"value": whole(line.value), "weight": whole(line.weight)}


class TestRefused:
    @staticmethod
    def built(*codecs: fl.Aggregator, text: str, **facts: Any) -> None:
        with pytest.raises(ValueError, match=text):
            fl.chain(*codecs).init(wire(**facts))

    def test_orders(self) -> None:
        text = r"chain\(mean, clip_by_value, quantize, mask, clip_by_value\) has clip_by_value behind the mask mask"
        self.built(fl.mean(), CLIP, secure_sum(), CLIP, text=text)
        middle = fl.stack(lambda value, present, weight: value)
        self.built(
            fl.mean(), CLIP, secure_sum(), middle, text="has both mask and stack: behind a mask the server sees a sum"
        )
        self.built(
            fl.mean(), CLIP, mask(),
            text=r"`mask` needs integers mod 2\^32 in uint32, got float32\[\] at \['b'\]; put fl.quantize\(...\) before it",
        )  # fmt: skip
        self.built(fl.mean(), CLIP, secure_sum(), mask(), text="`mask` stands behind another mask")
        self.built(fl.mean(), secure_sum(), text="`quantize` needs a bound on the entries")
        with pytest.raises(ValueError, match=r"chain\(quantize, mask\) has no mean at its head"):
            fl.chain(secure_sum())

    def test_weights(self) -> None:
        self.built(fl.weighted_mean(), CLIP, secure_sum(), text="weights must be integers with a cap")
        self.built(fl.mean(), CLIP, secure_sum(), text="neither goes with a sampler that scales weights", scaled=True)
        line = wire()._replace(group="mod32")
        with pytest.raises(ValueError, match="`mask` sums integer weights and needs a cap on them. Use fl.mean()"):
            mask().init(line._replace(**words(line)))

    def test_a_fold_that_needs_single_messages(self) -> None:
        line = wire()._replace(group="mod32", weight_cap=1, fold="stack")
        with pytest.raises(ValueError, match="`mask` hides every message, and 'stack' needs to see them"):
            mask().init(line._replace(**words(line)))

    def test_thresholds_that_keep_no_secret(self) -> None:
        head = (fl.mean(), CLIP)
        text = (
            r"`threshold` is 5 of 10 holders with 0 colluders: .* both of its secrets, since 2 t = 10 <= N \+ c = 10. "
        )
        self.built(*head, secure_sum(threshold=5), text=text + "Take at least 6", capacity=10)
        fl.chain(*head, secure_sum(threshold=6)).init(wire(capacity=10))
        self.built(
            *head, secure_sum(threshold=6, colluders=2), text=r"2 t = 12 <= N \+ c = 12. Take at least 7", capacity=10
        )
        self.built(
            *head, secure_sum(threshold=3, colluders=3, neighbors=4),
            text=r"`threshold` is 3 with 3 colluders, who could recover secrets .* expected t > c. Take at least 5",
            capacity=10,
        )  # fmt: skip
        self.built(
            *head, secure_sum(threshold=6, neighbors=4),
            text=r"with 0 colluders, 6 of 5 holders would be needed for a secret \(k = 4 neighbors and the client itself; "
            r"capacity 10\)",
            capacity=10,
        )  # fmt: skip
        self.built(*head, secure_sum(colluders=5, neighbors=4), text="6 of 5 holders would be needed", capacity=10)

    def test_cohorts_too_small(self) -> None:
        self.built(
            fl.mean(), CLIP, secure_sum(), text="the cohort has 1 slot: the sum would be the message", capacity=1
        )
        self.built(fl.mean(), CLIP, secure_sum(min_survivors=9), text="`min_survivors` is 9 and the cohort has 8 slots")
        self.built(
            fl.mean(), CLIP, secure_sum(min_survivors=1), text="`min_survivors` is 1 with 0 .*at least 2: a sum with"
        )
        self.built(
            fl.mean(), CLIP, secure_sum(min_survivors=4, neighbors=4, colluders=2),
            text="`min_survivors` is 4 with 4 colluders in the cohort; expected at least 6",
            capacity=10,
        )  # fmt: skip

    def test_arguments(self) -> None:
        for options, error, text in (
            ({"neighbors": 3}, ValueError, "`neighbors` is 3; expected an even number, half of them .*: 4, or None"),
            ({"neighbors": 0}, ValueError, "`neighbors` is 0; expected an int of at least 1"),
            ({"threshold": 0}, ValueError, "`threshold` is 0; expected an int of at least 1"),
            ({"colluders": -1}, ValueError, "`colluders` is -1; expected an int of at least 0"),
            ({"colluders": 1.0}, TypeError, "`colluders` is 1.0; expected an int of at least 0"),
            ({"min_survivors": 0}, ValueError, "`min_survivors` is 0; expected an int of at least 1"),
            ({"masking": "real"}, ValueError, "`masking` is 'real'; expected one of 'faithful', 'algebraic'"),
            ({"bits": 25}, ValueError, "`bits` is 25; expected 2 to 24"),
        ):
            with pytest.raises(error, match=text):
                secure_sum(**options)

    def test_outside_of_a_chain_and_outside_of_a_round(self) -> None:
        with pytest.raises(ValueError, match="`secure_sum` works inside of a chain"):
            secure_sum().init(wire())
        line = wire()._replace(group="mod32", weight_cap=1)
        state, _ = mask().init(line._replace(**words(line)))
        with pytest.raises(
            ValueError, match=r"outside of a round; call the aggregator's `begin\(state, cohort, key\)`"
        ):
            mask().encode(state, (), None, None)


def test_defaults_are_everybody_in_small_cohorts_and_a_ring_in_large_ones() -> None:
    assert [mask_rules.default_neighbors(n) for n in (2, 10, 64)] == [1, 9, 63]
    assert 10 < mask_rules.default_neighbors(65) < mask_rules.default_neighbors(1000) < 100
    assert [mask_rules.default_min_survivors(n, n - 1, 0) for n in (2, 5, 10, 14, 1000)] == [2, 3, 6, 8, 8]
    assert mask_rules.default_min_survivors(10, 9, 7) == 9


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = secure_aggregation.main(tmp_path / "out", turns=1, size="tiny")
    assert json.loads((tmp_path / "out" / "secure_aggregation.json").read_text()) == found
    assert set(found["sums"]) == {"plain", "algebraic", "2 neighbors", "all 3 others", "2 neighbors, a tenth leaves"}
    printed = capsys.readouterr().out
    for text in ("JAX ChaCha20", "host AES-256-CTR", "algebraic over quantized"):
        assert text in printed
