"""The noise is what it claims: mean, variance and shape, independent over leaves, rounds and parts, once per sum.

Seeds are fixed, so these tests give the same answer in every run. Each comparison would fail by chance, for another
seed, with probability 1e-6; there are fewer than 100, so the file as a whole with less than 1e-4.
"""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from channels import Channel, nothing, open_channel, received
from scipy import stats

import fedjaxlite as fl
from fedjaxlite.privacy.central import noise as noise_module
from fedjaxlite.privacy.central.adaptive_clip import adaptive_gaussian, update_noise_multiplier
from fedjaxlite.privacy.central.gaussian import gaussian
from fedjaxlite.privacy.central.laplace import laplace

FALSE_ALARM = 1e-6
TEMPLATE = {"a": jnp.zeros((3,)), "b": jnp.zeros((3,)), "c": jnp.zeros((2, 2))}
BOUNDS = {"steps": 8.0}
NUM_ROUNDS = 4000


def noise_of(channel: Channel) -> dict[str, np.ndarray]:
    """What the server gets of empty rounds: `[rounds, entries]` by leaf, and the scalars."""

    @jax.jit
    def rounds() -> Any:
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(7), i))(jnp.arange(NUM_ROUNDS))
        return jax.vmap(lambda key: received(channel, nothing(channel), key)[0])(keys)

    aggregate = rounds()
    return {
        name: np.asarray(x, np.float64).reshape(NUM_ROUNDS, -1)
        for name, x in {**aggregate.value, **aggregate.scalars}.items()
    }


def check_mean(sample: np.ndarray, std: float) -> None:
    z = sample.mean() / (std / np.sqrt(sample.size))
    assert abs(z) < stats.norm.isf(FALSE_ALARM / 2), f"the mean is {z:.1f} standard errors from 0"


def check_gaussian_variance(sample: np.ndarray, std: float) -> None:
    total = np.sum(np.square(sample / std))
    low, high = stats.chi2(sample.size).ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2])
    assert low < total < high, f"the variance is {total / sample.size:.3f} times what is claimed"


def check_shape(sample: np.ndarray, distribution: Any) -> None:
    assert stats.kstest(sample.ravel(), distribution.cdf).pvalue > FALSE_ALARM


def check_independent(first: np.ndarray, second: np.ndarray) -> None:
    """By the correlation of the numbers, and of their squares, which shared widths would show."""
    for power in (1, 2):
        r = np.corrcoef(first.ravel() ** power, second.ravel() ** power)[0, 1]
        # For heavier tails than normal the correlation is still normal, by the central limit.
        assert abs(r) * np.sqrt(first.size) < stats.norm.isf(FALSE_ALARM / 2), f"correlated: r = {r:.3f}"


def check_all_independent(drawn: dict[str, np.ndarray]) -> None:
    """Over leaves of the same shape, over entries of a leaf, and over rounds that follow each other."""
    check_independent(drawn["a"], drawn["b"])
    check_independent(drawn["a"][:, 0], drawn["a"][:, 1])
    check_independent(drawn["steps"][:, 0], drawn["a"][:, 0])
    for sample in drawn.values():
        check_independent(sample[1:], sample[:-1])


def test_gaussian_noise() -> None:
    z, clip_norm, joint = 1.5, 0.2, np.sqrt(2)
    codec = gaussian(clip_norm=clip_norm, noise_multiplier=z)
    drawn = noise_of(open_channel(codec, template=TEMPLATE, scalar_bounds=BOUNDS))
    for name, sample in drawn.items():
        std = z * joint * (BOUNDS.get(name) or clip_norm)
        check_mean(sample, std)
        check_gaussian_variance(sample, std)
        check_shape(sample, stats.norm(scale=std))
    check_all_independent(drawn)


def test_laplace_noise() -> None:
    z, clip_norm, joint = 1.5, 0.2, 2.0
    codec = laplace(clip_norm=clip_norm, noise_multiplier=z)
    drawn = noise_of(open_channel(codec, template=TEMPLATE, scalar_bounds=BOUNDS))
    for name, sample in drawn.items():
        scale = z * joint * (BOUNDS.get(name) or clip_norm)
        check_mean(sample, np.sqrt(2) * scale)
        check_shape(sample, stats.laplace(scale=scale))
        # The absolute value of a Laplace variable is exponential, so the sum of them is a Gamma variable.
        low, high = stats.gamma(sample.size).ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2])
        assert low < np.abs(sample / scale).sum() < high
    check_all_independent(drawn)


def test_the_noise_of_adaptive_clipping() -> None:
    """Value, scalar and bit; the bit is read back from the noised fraction."""
    z, clip_norm, cohort = 1.5, 0.2, 20
    codec = adaptive_gaussian(noise_multiplier=z, initial_clip_norm=clip_norm)
    channel = open_channel(codec, template=TEMPLATE, scalar_bounds=BOUNDS, over=cohort)

    @jax.jit
    def rounds() -> Any:
        keys = jax.random.split(jax.random.key(8), NUM_ROUNDS)
        aggregate, state = jax.vmap(lambda key: received(channel, nothing(channel), key))(keys)
        return {**aggregate.value, **aggregate.scalars}, state[1].unclipped_fraction

    values, fraction = rounds()
    drawn = {name: cohort * np.asarray(x, np.float64).reshape(NUM_ROUNDS, -1) for name, x in values.items()}
    for name, sample in drawn.items():
        std = update_noise_multiplier(z, cohort / 20) * np.sqrt(2) * (BOUNDS.get(name) or clip_norm)
        check_mean(sample, std)
        check_gaussian_variance(sample, std)
    bit = cohort * (np.asarray(fraction, np.float64) - 0.5)
    check_gaussian_variance(bit, cohort / 20)
    check_mean(bit, cohort / 20)
    check_independent(bit, drawn["steps"])
    check_independent(bit, drawn["a"][:, 0])


def test_these_checks_find_noise_that_is_shared_or_has_another_width(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = open_channel(gaussian(clip_norm=1.0, noise_multiplier=1.0), template=TEMPLATE, scalar_bounds=BOUNDS)
    with monkeypatch.context() as patch:
        patch.setattr(noise_module.jax.random, "fold_in", lambda key, i: key)
        total, key = nothing(channel), jax.random.key(0)
        keys = jax.random.split(key, NUM_ROUNDS)
        aggregate = jax.vmap(lambda key: received(channel, total, key)[0])(keys)
    shared = {name: np.asarray(x, np.float64).reshape(NUM_ROUNDS, -1) for name, x in aggregate.value.items()}
    with pytest.raises(AssertionError, match="correlated: r = 1.000"):
        check_independent(shared["a"], shared["b"])
    with pytest.raises(AssertionError, match="the variance is"):
        check_gaussian_variance(shared["a"], 1.1 * np.sqrt(2))
    with pytest.raises(AssertionError, match="standard errors from 0"):
        check_mean(shared["a"] + 0.1, np.sqrt(2))
    with pytest.raises(AssertionError):
        check_shape(shared["a"], stats.laplace(scale=1.0))


@helpers.needs_devices(4)
def test_noise_is_drawn_once_per_sum_on_any_number_of_devices() -> None:
    """Clients send zeros, so the model is the noise: of the same width and the very same on 1, 2 and 4 devices, the same
    on every one of them, and another one in the next round."""
    size, z, over = 4096, 1.1, 5
    people = helpers.one_value_each([0.0] * 5)
    aggregator = fl.chain(fl.mean(over=over), gaussian(clip_norm=0.5, noise_multiplier=z))
    runs = {}
    for devices in (1, 2, 4):
        run = fl.rounds(
            helpers.sender(lambda data: jnp.zeros((size,)) * data.num_examples.astype(jnp.float32)),
            sampler=fl.sampling.full(5),
            aggregator=aggregator,
            execution=fl.Execution(lanes=1, devices=devices),
        )
        key = jax.random.key(3)
        state = run.init(jnp.zeros((size,)), people, key=key, noise_key=key)
        seen = []
        for _ in range(2):
            state, _ = run.step(state, people)
            params = jax.block_until_ready(run.params(state))
            shards = [np.asarray(shard.data) for shard in params.addressable_shards]
            assert len(shards) == devices
            assert all((shard == shards[0]).all() and shard.shape == (size,) for shard in shards)
            seen.append(shards[0].astype(np.float64) * over)
        runs[devices] = seen
        for sample in seen:
            check_mean(sample, 0.5 * z)
            check_gaussian_variance(sample, 0.5 * z)
        check_independent(*seen)
    for devices in (2, 4):
        np.testing.assert_array_equal(runs[devices], runs[1])
