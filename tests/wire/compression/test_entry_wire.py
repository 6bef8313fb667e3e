"""Codes for every entry on the wire: what they cannot exceed, what crosses it, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from entry_codecs import ALL, APART, LANES, TREE, VOTES, arrived, in_lanes, info, sent
from helpers import some_often

import fedjaxlite as fl
from fedjaxlite import privacy
from fedjaxlite.wire.compression.entries.k_level import k_level
from fedjaxlite.wire.compression.entries.narrow import narrow
from fedjaxlite.wire.compression.entries.nf4 import nf4
from fedjaxlite.wire.compression.entries.norms import completed
from fedjaxlite.wire.compression.entries.qsgd import qsgd
from fedjaxlite.wire.compression.entries.votes import noisy_sign
from fedjaxlite.wire.packing.bits import packed_size


def norms(value: Any) -> tuple[float, float, float]:
    flat = np.concatenate([np.asarray(leaf, np.float64).reshape(-1) for leaf in jax.tree.leaves(value)])
    return float(np.linalg.norm(flat)), float(np.abs(flat).max(initial=0)), float(np.abs(flat).sum())


def candidates() -> list[np.ndarray]:
    """Vectors that codes lengthen: one large entry and small ones, what is just above a level, and random ones."""
    rng = np.random.default_rng(3)
    shapes = [[1.0, e, e, e] for e in (0.02, 0.1, 0.3, 0.5, 0.73, 0.95, 1.0)]
    shapes += (
        [[-1.0, e, -e, 0.0] for e in (0.01, 0.1, 0.55)]
        + [[-1.0, -0.73, -0.73, 0.0]]
        + [[1.001, 0.501, 1.001, 0.26], [1.06, 1.06, 0.53, 1.07]]
    )
    return [np.float32(v) for v in shapes] + [rng.normal(size=4).astype(np.float32) for _ in range(12)]


BOUNDED = [name for name in ALL if name != "sign_vote"]


class TestBounds:
    # The longest that the search finds, by L2 norm, in parts of the bound for four entries.
    TIGHT = {"qsgd 1": 0.9, "k_level 2": 0.7, "tern_grad": 0.9, "natural": 0.9, "sign": 0.99, "nf4": 0.9,
             "nf4 nearest": 0.9, "noisy_sign": 0.999, "gaussian": 0.999}  # fmt: skip

    @pytest.mark.parametrize("name", some_often(BOUNDED, 2, first=1))
    def test_no_draw_is_longer(self, name: str) -> None:
        codec, vectors = ALL[name](), jnp.asarray(np.stack(candidates()))
        keys = jax.random.split(jax.random.key(4), 300)
        each = jax.vmap(lambda v: jax.vmap(lambda key: arrived(codec, v, key))(keys))
        found, longest = np.asarray(jax.jit(each)(vectors), np.float64), 0.0
        for vector, drawn in zip(np.asarray(vectors, np.float64), found, strict=True):
            l2, linf, l1 = norms(vector)
            bounds = fl.Bounds(l2, linf, l1)
            state, wire = codec.init(fl.wire_of(jnp.zeros(4), capacity=1)._replace(bounds=bounds))
            assert codec.prepare(state, bounds)[1] == wire.bounds
            got = np.linalg.norm(drawn, axis=1).max(), np.abs(drawn).max(), np.abs(drawn).sum(1).max()
            for most, bound in zip(got, (wire.bounds.l2, wire.bounds.linf, wire.bounds.l1), strict=True):
                assert most <= bound * (1 + 1e-6)
            longest = max(longest, got[0] / codec.prepare(state, fl.Bounds(l2=l2))[1].l2)
        assert longest <= 1 + 1e-6
        assert longest >= self.TIGHT.get(name, 0.0)

    @pytest.mark.parametrize("name", some_often(BOUNDED, 4))
    def test_bounds_hold_for_leaves_together_and_without_some_of_them(self, name: str) -> None:
        codec = ALL[name]()
        value = {"a": jnp.float32([[1.0, 0.1, 0.1], [0.0, -0.2, 0.1]]), "b": jnp.float32(0.4)}
        value |= {"c": jnp.full(35, 0.01).at[7].set(0.2), "d": jnp.zeros((0, 3))}
        drawn, _ = in_lanes(name, jax.tree.map(lambda leaf: leaf[None], value))
        flat = np.concatenate([np.asarray(leaf, np.float64).reshape(LANES, -1) for leaf in jax.tree.leaves(drawn)], 1)
        got = {"l2": np.linalg.norm(flat, axis=1).max(), "linf": np.abs(flat).max(), "l1": np.abs(flat).sum(1).max()}
        before = dict(zip(("l2", "linf", "l1"), norms(value), strict=True))
        state, wire = codec.init(fl.wire_of(value, capacity=1))
        for known in before:
            bounds = codec.prepare(state, fl.Bounds(**{known: before[known]}))[1]
            for norm, most in got.items():
                assert most <= getattr(bounds, norm) * (1 + 1e-6), (known, norm)
        assert (wire.bounds == fl.Bounds()) is (name not in VOTES)

    @pytest.mark.parametrize("name", some_often(BOUNDED, 2))
    def test_a_traced_clip(self, name: str) -> None:
        codec = ALL[name]()
        state, _ = codec.init(fl.wire_of(TREE, capacity=1))
        fixed = codec.prepare(state, fl.Bounds(l2=0.5, linf=0.25))[1]
        traced = jax.jit(lambda a, b: codec.prepare(state, fl.Bounds(l2=a, linf=b))[1])(0.5, 0.25)
        np.testing.assert_allclose(traced, [float(b) for b in fixed], rtol=1e-6)

    def test_what_norms_say_of_each_other(self) -> None:
        rng = np.random.default_rng(6)
        for _ in range(50):
            vector = rng.standard_t(1, size=rng.integers(1, 9))
            l2, linf, l1 = norms(vector)
            for given in (fl.Bounds(l2=l2), fl.Bounds(linf=linf), fl.Bounds(l1=l1), fl.Bounds(l2, linf, l1)):
                found = completed(given, (vector.size,))
                assert found.l2 >= l2 * (1 - 1e-12)
                assert found.linf >= linf * (1 - 1e-12)
                assert found.l1 >= l1 * (1 - 1e-12)
        assert completed(fl.Bounds(), (3,)) == fl.Bounds()

    def test_a_majority_has_none(self) -> None:
        """One vote turns it in every entry, by as much as the mean divides by."""
        codec = ALL["sign_vote"]()
        state, wire = codec.init(fl.wire_of(jnp.zeros(4), capacity=1)._replace(bounds=fl.Bounds(1.0, 1.0, 1.0)))
        assert wire.bounds == codec.prepare(state, fl.Bounds(1.0, 1.0, 1.0))[1] == fl.Bounds()


class TestMessages:
    @pytest.mark.parametrize("name", ALL)
    def test_what_is_sent_is_what_the_wire_says(self, name: str) -> None:
        codec = ALL[name]()
        _, wire = codec.init(fl.wire_of(TREE, capacity=1))
        message = jax.eval_shape(lambda: sent(codec, TREE, jax.random.key(0))[1])
        shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)  # noqa: E731
        assert shapes(message.value) == shapes(wire.value)
        assert shapes(message.aside) == shapes(wire.aside)
        assert {leaf.dtype for leaf in jax.tree.leaves(message.value)} == {np.dtype("uint8")}
        for leaf, code in zip(jax.tree.leaves(wire.value), wire.codes, strict=True):
            assert leaf.size == packed_size(code.entries, code.bits)
        assert sum(code.bits * code.entries for code in wire.codes) == wire.bits * (6 + 1 + 35)

    @pytest.mark.parametrize("name", some_often(ALL, 2))
    def test_it_arrives_in_its_own_structure(self, name: str) -> None:
        """Under jit and vmap."""
        found, keys = in_lanes(name, jax.tree.map(lambda leaf: leaf[None], TREE))
        assert jax.tree.map(lambda leaf: leaf.shape[1:], found) == jax.tree.map(jnp.shape, TREE)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype("float32")}
        if name in ("qsgd 7", "nf4", "e4m3", "noisy_sign"):
            alone = jax.jit(lambda key: arrived(ALL[name](), TREE, key))(keys[1])
            jax.tree.map(lambda many, one: np.testing.assert_allclose(many[1], one, rtol=1e-6), found, alone)

    @pytest.mark.parametrize("name", some_often(ALL, 2))
    def test_numbers_of_any_size(self, name: str) -> None:
        """Single entries, several, and none: nothing is infinite or NaN, zero is zero, what is tiny stays tiny."""

        values = np.float32([0.0, 1e-38, 1e-30, 1e30, 3e38, -1.0])
        signs = np.sign(np.arange(35) - 9).astype(np.float32)
        several = values[:, None] * signs
        tree = {"a": several[:, :6].reshape(6, 2, 3), "b": values, "c": several, "d": np.zeros((6, 0, 3))}
        found, _ = in_lanes(name, tree)
        for value, one, many, more in zip(values, found["b"], found["c"], found["a"], strict=False):
            size, largest = float(abs(value)), max(float(np.abs(leaf).max()) for leaf in (one, many, more))
            assert np.isfinite(largest)
            if name in APART and size < 1e38:
                # QSGD's least level is the norm: 6 times an entry here.
                assert largest <= max(6.1 * size, 2.0**-126 if size else 0.0)
            if name in APART and 1e-30 <= size <= 1e30:
                assert float(one) == pytest.approx(value, rel=1.0 if name == "natural" else 0.2)

    @pytest.mark.parametrize("name", ["natural", "sign_vote"])
    def test_weights_of_parts(self, name: str) -> None:
        """A tree of weights stays a prefix of what is read."""
        chain = fl.chain(fl.weighted_mean(), ALL[name]())
        weight = {"a": jnp.float32(2), "b": jnp.float32(1), "c": jnp.float32(3), "d": jnp.float32(1)}
        state, _ = chain.init(fl.wire_of(TREE, capacity=1, weight=weight))

        def mean(key: Any) -> Any:
            message = chain.encode(state, ((), ()), fl.Message(TREE, weight, {}), info(key))[0]
            return chain.decode(state, chain.read(state, message, info(None)), key)[0].value

        found = jax.jit(mean)(jax.random.key(0))
        expected = jax.jit(lambda key: arrived(ALL[name](), TREE, key))(jax.random.fold_in(jax.random.key(0), 1))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)

    @pytest.mark.parametrize("name", ["qsgd 7", "k_level 5", "natural", "e4m3", "nf4", "sign", "gaussian"])
    def test_it_runs_where_64_bits_are_the_default(self, name: str) -> None:
        with jax.enable_x64(True):
            got = jax.jit(lambda key: arrived(ALL[name](), jnp.float32([0.5, -2.0]), key))(jax.random.key(0))
        assert (got.dtype, got.shape) == (jnp.float32, (2,))

    def test_narrow_updates_arrive_in_float32(self) -> None:
        got = jax.jit(lambda value, key: arrived(qsgd(4), value, key))(
            jnp.array([0.5, -2.0], jnp.bfloat16), jax.random.key(0)
        )
        assert got.dtype == jnp.float32


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda: qsgd(0), "`levels` is 0; expected an int of at least 1"),
            (lambda: qsgd(40000), "`levels` is 40000; expected 1 to 32767, which is 16 bits an entry"),
            (lambda: k_level(1), "`levels` is 1; expected 2 to 65536: one level says nothing"),
            (lambda: nf4(block=0), "`block` is 0; expected an int of at least 1"),
            (lambda: nf4(rounding="up"), "`rounding` is 'up'; expected one of 'stochastic', 'nearest'"),
            (lambda: narrow("float16"), "`dtype` is 'float16'; expected one of 'bfloat16', 'float8_e4m3fn', 'float8_e5m2'"),
            (lambda: narrow("bfloat16", rounding="up"), "`rounding` is 'up'; expected one of"),
            (lambda: noisy_sign(0), "`std` is 0; expected a finite number above 0"),
            (lambda: noisy_sign(1.0, noise="normal"), "`noise` is 'normal'; expected one of 'uniform', 'gaussian'"),
        ],
    )  # fmt: skip
    def test_wrong_arguments(self, make: Any, text: str) -> None:
        with pytest.raises(ValueError, match=text):
            make()

    @pytest.mark.parametrize("name", ALL)
    def test_integers_are_refused(self, name: str) -> None:
        codec = ALL[name]()
        integers = fl.wire_of(jnp.zeros(3), capacity=1)._replace(group="mod32")
        with pytest.raises(
            ValueError, match=f"`{codec.name}` needs float leaves.*put `{codec.name}` before `quantize`"
        ):
            codec.init(integers)

    @pytest.mark.parametrize("name", APART)
    def test_those_decoded_one_by_one_do_not_stand_before_a_mask(self, name: str) -> None:
        codec = APART[name]()
        assert not codec.sum_safe
        with pytest.raises(ValueError, match=f"has {codec.name} before the mask mask.*Use a codec that survives a sum"):
            fl.chain(fl.mean(), codec, privacy.mask())

    def test_a_traced_noise(self) -> None:
        """What changes no shape may be traced."""
        mean = jax.jit(lambda std: arrived(noisy_sign(std), jnp.float32([0.0]), jax.random.key(0)))(3.0)
        assert abs(float(mean[0])) == 3.0
