"""Narrow floats and NF4: against other implementations of the formats, and their errors."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from entry_codecs import arrived, draws, sent

import fedjaxlite as fl
from fedjaxlite.wire.compression.entries.narrow import FORMATS, narrow, narrow_codes, widened
from fedjaxlite.wire.compression.entries.nf4 import TABLE, nf4
from fedjaxlite.wire.packing.forms import num_bytes


class TestNarrow:
    @pytest.mark.parametrize("dtype", FORMATS)
    def test_nearest_is_the_cast_of_the_format(self, dtype: str) -> None:
        """Against ml_dtypes, over the whole range of float32, with halves of steps, ends and subnormal numbers."""
        form, cast = FORMATS[dtype], getattr(ml_dtypes, dtype)
        rng = np.random.default_rng(0)
        some = rng.normal(size=4000) * 2.0 ** rng.integers(-18, 17, 4000)
        grid = np.arange(2 ** (form.bits - 1)).astype(np.uint16 if form.bits == 16 else np.uint8)
        exact = grid[: form.top + 1].view(cast).astype(np.float64)
        halves = (exact[:-1] + exact[1:]) / 2
        vector = np.concatenate([some, exact, halves, -halves]).astype(np.float32)
        vector = vector[(np.abs(vector) >= 2.0**-120) | (vector == 0)]  # processors take smaller ones for zero
        codes = np.asarray(jax.jit(lambda v: narrow_codes(v, form, None))(vector)).astype(grid.dtype)
        limit = float(exact[-1])
        np.testing.assert_array_equal(codes, np.clip(vector, -limit, limit).astype(cast).view(grid.dtype))

    @pytest.mark.parametrize("dtype", FORMATS)
    def test_every_number_of_the_format_survives(self, dtype: str) -> None:
        form = FORMATS[dtype]
        codes = np.concatenate([np.arange(form.top + 1), np.arange(form.top + 1) + 2 ** (form.bits - 1)])
        if form.bits == 16:
            codes = codes[(codes & 0x7FFF == 0) | (codes & 0x7FFF >= 0x80)]  # processors take smaller ones for zero

        @jax.jit
        def there_and_back(codes: Any) -> Any:
            wide = widened(codes, form)
            return wide, [narrow_codes(wide, form, key) for key in (None, jax.random.key(0))]

        wide, back = jax.device_get(there_and_back(jnp.asarray(codes, jnp.uint32)))
        kind = np.uint16 if form.bits == 16 else np.uint8
        np.testing.assert_array_equal(wide, codes.astype(kind).view(getattr(ml_dtypes, dtype)).astype(np.float32))
        for again in back:
            np.testing.assert_array_equal(again, codes)

    @pytest.mark.parametrize(
        ("make", "error"),
        [
            (lambda: narrow("bfloat16", rounding="nearest"), 2.76e-6),
            (lambda: narrow("float8_e4m3fn", rounding="nearest"), 7.05e-4),
            (lambda: narrow("float8_e5m2", rounding="nearest"), 2.80e-3),
            (lambda: nf4(rounding="nearest"), 8.46e-3),
        ],
    )
    def test_the_relative_error_of_normal_numbers(self, make: Any, error: float) -> None:
        """Of 640,000; the estimate's standard deviation is below .4 % of it, so 2.5 % is more than six of them."""
        vector = jax.random.normal(jax.random.key(5), (640_000,))
        got = jax.jit(lambda v: arrived(make(), v, jax.random.key(0)))(vector)
        relative = float(((got - vector) ** 2).sum() / (vector**2).sum())
        assert relative == pytest.approx(error, rel=0.025)

    @pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
    def test_a_scale_is_a_power_of_two_that_uses_the_range(self, dtype: str) -> None:
        form = FORMATS[dtype]
        top = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}[dtype]
        send = jax.jit(lambda value: sent(narrow(dtype), value, jax.random.key(0))[1])
        for most in (1.0, 1.75, 1.7500001, 3.9, 1e-20, 1e20):
            message = send(jnp.float32([most, most / 3]))
            assert message.aside[0].dtype == jnp.int8
            scaled = np.float32(most) * 2.0 ** float(message.aside[0])
            assert top / 2 < scaled <= top
        assert form.bits == 8

    @pytest.mark.parametrize("dtype", FORMATS)
    def test_the_largest_numbers_stay_finite(self, dtype: str) -> None:
        """However they are rounded: the number above the format's neighbor is infinite in float32."""
        ends = jnp.float32([3.4028235e38, -3.4028235e38, 3e38, 2.7e38, -2e38, 0.0])
        found = draws(narrow(dtype), ends, 200)
        assert np.isfinite(found).all()
        assert (np.sign(found) == np.sign(ends)).all()


class TestNf4:
    def test_the_table_is_the_papers(self) -> None:
        printed = [
            -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
            -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
            0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
        ]  # fmt: skip
        np.testing.assert_allclose(TABLE, printed, atol=1e-6)

    def test_each_block_has_its_own_scale_and_neighbors_are_drawn(self) -> None:
        vector = np.float32([1.0, 0.5, -0.1, -8.0, 7.0, 0.0, 0.25])
        got = draws(nf4(block=3), vector, 500)
        scales = np.float64([1, 1, 1, 8, 8, 8, 0.25])
        table = np.float32(TABLE).astype(np.float64)
        for entry in range(7):
            found = np.unique(got[:, entry] / scales[entry])
            below = table[table <= vector[entry] / scales[entry]].max()
            above = table[table >= vector[entry] / scales[entry]].min()
            assert len(found) == (1 if below == above else 2)
            np.testing.assert_allclose([found.min(), found.max()], [below, above], atol=1e-6)

    def test_bytes(self) -> None:
        wire = nf4().init(fl.wire_of(jnp.zeros((3, 640)), capacity=1))[1]
        assert (num_bytes(wire.value) + num_bytes(wire.aside)) * 8 == 4.5 * 1920
