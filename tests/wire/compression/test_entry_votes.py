"""Majority votes and noisy signs: what they mean, and that integers of a mask are the same votes."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from entry_codecs import TREE, VOTES, agrees, draws, info, sent

import fedjaxlite as fl
from fedjaxlite import privacy
from fedjaxlite.wire.compression.entries.votes import noisy_sign, sign_vote


class TestVotes:
    def total(self, codec: fl.Aggregator, values: Any, weights: list[float], **mean: Any) -> Any:
        chain = fl.chain(fl.mean(**mean) if weights is None else fl.weighted_mean(), codec)
        state, _ = chain.init(fl.wire_of(values[0], capacity=9, weight=jnp.float32(1)))

        @jax.jit
        def run(values: Any) -> Any:
            read = []
            for i, value in enumerate(values):
                own, key = chain.init_client(value), jax.random.key(i)
                message = fl.Message(value, jnp.float32(1 if weights is None else weights[i]), {})
                read.append(chain.read(state, chain.encode(state, own, message, info(key))[0], info(None)))
            total = jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *read)
            return chain.decode(state, total, jax.random.key(9))[0]

        return run(values)

    def test_a_majority_by_weight(self) -> None:
        values = np.random.default_rng(1).normal(size=(5, 40)).astype(np.float32)
        weights = [1.0, 2.0, 4.0, 8.0, 3.0]
        found = self.total(sign_vote(), values, weights)
        np.testing.assert_array_equal(found.value, np.sign((np.sign(values).T * weights).sum(1)))
        assert float(found.weight) == 18
        even = self.total(sign_vote(), np.float32([[1, 1], [-2, 3]]), [1.0, 1.0])
        assert even.value.tolist() == [0, 1]

    def test_a_mean_over_a_fixed_number(self) -> None:
        found = self.total(sign_vote(), np.float32([[1, -1], [2, -3], [-1, -1]]), None, over=8)
        assert found.value.tolist() == [1, -1]

    def test_zeros_vote_at_random(self) -> None:
        got = draws(sign_vote(), np.zeros(3), 4000)
        assert set(np.unique(got)) == {-1, 1}
        agrees(got, 0.0)

    def test_a_client_without_a_finite_update_has_no_vote(self) -> None:
        found = self.total(sign_vote(), np.float32([[1, -1], [0, 0], [0, 0]]), [1.0, 0.0, 0.0])
        assert found.value.tolist() == [1, -1]

    def test_uniform_noise(self) -> None:
        """sigma E sign = x exactly; the variance is sigma^2 - x^2, 3.51 at sigma 2 and x .7; beyond sigma it is cut."""
        variance = 2.0**2 - 0.7**2
        assert variance == pytest.approx(3.5100)
        vector = np.float64([0.7, -1.9, 0, 5, -2])
        got = draws(noisy_sign(2.0), vector, 40_000)
        assert set(np.unique(got)) == {-2, 2}
        agrees(got, [0.7, -1.9, 0, 2, -2])
        agrees((got[:, 0] - 0.7) ** 2, variance, slack=1e-6)

    def test_normal_noise(self) -> None:
        expected = math.erf(0.7 / (2 * math.sqrt(2)))
        assert expected == pytest.approx(0.273661, abs=5e-7)
        scale = 2 * math.sqrt(math.pi / 2)
        got = draws(noisy_sign(2.0, noise="gaussian"), np.float64([0.7, -0.7, 30, -30]), 40_000) / scale
        np.testing.assert_allclose(np.abs(got), 1, rtol=1e-6)
        agrees(got, [expected, -expected, 1, -1], slack=1e-6)
        # For small entries it is nearly unbiased, which is what its scale is for.
        assert scale * math.erf(0.02 / (2 * math.sqrt(2))) == pytest.approx(0.02, rel=1e-4)

    @pytest.mark.parametrize("name", VOTES)
    def test_integers_of_a_mask_are_the_same_votes(self, name: str) -> None:
        """The sum of words is the sum of what is read of packed bits, exactly where a vote's size is a power of two."""
        codec = VOTES[name]()

        def both(keys: Any) -> Any:
            found = []
            for facts, dtype in (({"mask_ahead": True, "weight_cap": 1}, jnp.uint32), ({}, jnp.float32)):
                state, _ = codec.init(fl.wire_of(TREE, capacity=4)._replace(**facts))
                read = lambda key, s=state, f=facts: codec.read(s, sent(codec, TREE, key, **f)[1], info(None)).value  # noqa: E731
                summed = jax.tree.map(lambda leaf: leaf.sum(0, dtype=leaf.dtype), jax.vmap(read)(keys))
                assert {leaf.dtype for leaf in jax.tree.leaves(summed)} == {np.dtype(dtype)}
                found.append(codec.decode(state, fl.Message(summed, jnp.asarray(4, dtype), {}), keys[0])[0].value)
            return found

        one, other = jax.jit(both)(jax.random.split(jax.random.key(2), 4))
        same = functools.partial(np.testing.assert_allclose, rtol=1e-6 if name == "gaussian" else 0)
        jax.tree.map(same, one, other)

    def test_behind_a_mask(self) -> None:
        """What the chain without a mask gives, bit for bit."""
        found = []
        for masks in ((), (privacy.mask(min_survivors=2, masking="algebraic"),)):
            chain = fl.chain(fl.mean(), sign_vote(), *masks)
            state, _ = chain.init(fl.wire_of(TREE, capacity=3, num_clients=3))
            there, ones = jnp.ones(3, bool), jnp.ones(3)
            cohort = fl.Cohort(jnp.arange(3, dtype=jnp.int32), there, there, ones, ones, jnp.int32(0))

            def one(state: Any, i: Any, chain: Any = chain) -> fl.Message:
                client = fl.ClientInfo(i, jnp.float32(1), jax.random.key(i), jnp.bool_(True), slot=i)
                value = jax.tree.map(lambda leaf: leaf * (i.astype(jnp.float32) - 0.9), TREE)
                message, own = fl.Message(value, jnp.int32(1), {}), chain.init_client(TREE)
                return chain.read(state, chain.encode(state, own, message, client)[0], client)

            @jax.jit
            def run(state: Any, chain: Any = chain, cohort: Any = cohort, one: Any = one) -> Any:
                state = chain.begin(state, cohort, jax.random.key(7))
                read = jax.vmap(one, (None, 0))(state, jnp.arange(3, dtype=jnp.int32))
                total = jax.tree.map(lambda leaf: leaf.sum(0, dtype=leaf.dtype), read)
                return chain.decode(state, total, jax.random.key(9))[0]

            found.append(run(state))
        jax.tree.map(np.testing.assert_array_equal, found[0].value, found[1].value)
        assert float(found[1].weight) == 3

    def test_what_cannot_stand_before_a_mask(self) -> None:
        wire = fl.wire_of(jnp.zeros(3), capacity=4, scalars={"steps": 1.0})._replace(mask_ahead=True, weight_cap=1)
        with pytest.raises(ValueError, match=r"`sign_vote` stands before a mask.*scalars \['steps'\].*Use fl.quantize"):
            sign_vote().init(wire)
        wire = wire._replace(scalars={}, weight_cap=None)
        with pytest.raises(ValueError, match=r"`noisy_sign` stands before a mask.*integers with a cap. Use fl.mean"):
            noisy_sign(1.0).init(wire)
        with pytest.raises(
            ValueError, match=r"can overflow: capacity 4 x weight cap 1073741824 = 4294967296, more than"
        ):
            sign_vote().init(wire._replace(weight_cap=2**30))
