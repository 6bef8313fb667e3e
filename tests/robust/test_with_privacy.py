"""Robust rules beside privacy: what is refused and why, what stays accounted for, and what a secure sum bounds."""

from collections.abc import Callable
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms, privacy

N, K, T, DELTA = 40, 8, 12, 1e-4
NOISE: dict[str, Any] = {"clip_norm": 1.0, "noise_multiplier": 1.0}
INTEGERS: dict[str, Any] = {**NOISE, "bits": 20, "min_survivors": 4}
RULES: dict[str, Callable[[], tuple[fl.Aggregator, ...]]] = {
    "rule": lambda: (fl.robust.geometric_median(),),
    "rows": lambda: (fl.robust.norm_filter(3.0), fl.robust.mean()),
    "stack": lambda: (fl.stack(lambda values, weights, present: jax.tree.map(lambda v: v.max(0), values)),),
}
CENTRAL: dict[str, Callable[[], fl.Aggregator]] = {
    "gaussian": lambda: privacy.gaussian(**NOISE),
    "laplace": lambda: privacy.laplace(**NOISE),
    "adaptive_gaussian": lambda: privacy.adaptive_gaussian(noise_multiplier=1.0, bit_noise_std=3.0),
    "banded_gaussian": lambda: privacy.banded_gaussian(**NOISE, num_rounds=T, bands=2),
    "tree_gaussian": lambda: privacy.tree_gaussian(**NOISE, num_rounds=T),
    "discrete_gaussian": lambda: privacy.discrete_gaussian(**INTEGERS),
    "skellam": lambda: privacy.skellam(**INTEGERS),
}
LOCAL: dict[str, Callable[[], fl.Aggregator]] = {
    "local_gaussian": lambda: privacy.local_gaussian(clip_norm=1.0, epsilon=2.0, delta=1e-6),
    "local_laplace": lambda: privacy.local_laplace(clip_norm=1.0, epsilon=2.0),
    "priv_unit": lambda: privacy.priv_unit(clip_norm=1.0, epsilon=2.0),
}
SAMPLER = fl.sampling.cyclic(K, 4)


def wire() -> fl.Wire:
    facts: dict[str, Any] = {"num_clients": N, "participation": SAMPLER.accounting}
    return fl.wire_of(jnp.zeros(3), capacity=K, weight=np.float32(1), **facts)


@pytest.mark.parametrize("head", [fl.mean(over=K), fl.mean()], ids=["over", "by count"])
@pytest.mark.parametrize("name", CENTRAL)
def test_central_noise_before_a_rule_is_refused_with_what_to_do(name: str, head: fl.Aggregator) -> None:
    text = rf"`{name}` adds its noise to a sum .* privacy.local_gaussian\(...\) before it, behind fl.mean\(\)"
    for rule in RULES.values():
        with pytest.raises(ValueError, match=text):
            fl.chain(head, CENTRAL[name](), *rule()).init(wire())


@pytest.mark.parametrize("rule", ["rule", "rows", "stack"])
def test_noise_behind_a_rule_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="has gaussian behind"):
        fl.chain(fl.mean(over=K), *RULES[rule](), privacy.gaussian(**NOISE))


@pytest.mark.parametrize("rule", ["rule", "rows", "stack"])
def test_a_mask_on_either_side_of_a_rule_is_refused_with_what_survives(rule: str) -> None:
    text = "needs every message apart.*Leave one of .*out.*fl.clip_by_global_norm"
    secure = (fl.clip_by_global_norm(1.0), privacy.secure_sum())
    with pytest.raises(ValueError, match=text):
        fl.chain(fl.mean(), *secure, *RULES[rule]())
    integers = (fl.clip_by_value(1.0), fl.quantize(bits=8), privacy.mask())
    with pytest.raises(ValueError, match=text):
        fl.chain(fl.mean(), *integers, *RULES[rule]())
    if rule == "rule":
        with pytest.raises(ValueError, match=text):
            fl.chain(fl.mean(), *RULES[rule](), privacy.mask())


def composed(*codecs: fl.Aggregator, algorithm: fl.Algorithm | None = None) -> fl.Rounds:
    plain = algorithms.fed_avg(_loss, client_optimizer=optax.sgd(0.1), batch_size=None, epochs=1)
    chain = fl.chain(fl.mean(), *codecs)
    return fl.rounds(plain if algorithm is None else algorithm, sampler=SAMPLER, aggregator=chain)


def _loss(params: Any, batch: Any, key: Any) -> Any:
    del key
    return ((params[None] - batch["x"]) ** 2).sum(-1) / 2


@pytest.mark.parametrize("name", LOCAL)
def test_noise_of_clients_is_worth_the_same_before_a_rule(name: str) -> None:
    """What a rule makes of noised messages is computed from them alone."""
    given: dict[str, Any] = {"num_rounds": T, "delta": DELTA}
    mean = privacy.epsilon(composed(LOCAL[name]()), N, **given)
    assert 0 < mean < 100
    for rule in RULES.values():
        assert privacy.epsilon(composed(LOCAL[name](), *rule()), N, **given) == mean
    # Compressed or averaged over rounds by the client after its noise, it is as private.
    assert (
        privacy.epsilon(composed(LOCAL[name](), fl.compression.narrow("bfloat16"), *RULES["rule"]()), N, **given)
        == mean
    )


def test_momentum_stands_before_noise() -> None:
    momentum = fl.robust.worker_momentum(0.9)
    fl.chain(fl.mean(over=K), momentum, privacy.gaussian(**NOISE)).init(wire())
    fl.chain(fl.mean(), momentum, LOCAL["local_gaussian"](), *RULES["rule"]()).init(wire())
    with pytest.raises(ValueError, match="`worker_momentum` stands behind a mechanism of privacy.*before it"):
        fl.chain(fl.mean(over=K), CENTRAL["adaptive_gaussian"](), momentum).init(wire())


def test_examples_are_protected_before_a_rule_too() -> None:
    noisy: dict[str, Any] = {"rate": 0.25, "steps": 4, "clip_norm": 1.0, "noise_multiplier": 2.0}
    algorithm = algorithms.fed_avg_of(privacy.dp_sgd(_loss, client_optimizer=optax.sgd(0.1), **noisy))
    given: dict[str, Any] = {"num_rounds": T, "delta": DELTA}
    mean = privacy.epsilon(composed(algorithm=algorithm), N, **given)
    rule = privacy.epsilon(composed(*RULES["rule"](), algorithm=algorithm), N, **given)
    assert 0 < rule == mean


def test_without_noise_a_rule_has_no_epsilon() -> None:
    with pytest.raises(ValueError, match="no mechanism"):
        privacy.epsilon(composed(*RULES["rule"]()), N, num_rounds=T, delta=DELTA)


@pytest.mark.parametrize("secure", [pytest.param(False, id="in the clear", marks=pytest.mark.slow), True])
def test_a_clip_before_a_sum_bounds_what_one_client_adds(secure: bool) -> None:
    """Its influence on the mean over a fixed number is the clip norm over that number, exactly."""
    clients, clip, levels = 20, 0.5, 2**20
    hidden = (privacy.secure_sum(bits=21),) if secure else ()
    chain = fl.chain(fl.mean(over=clients), fl.clip_by_global_norm(clip), *hidden)
    # One full step of size 1 from zero: an update is the negative of the client's mean.
    algorithm = algorithms.fed_avg(_loss, client_optimizer=optax.sgd(1.0), batch_size=None, epochs=1)
    run = fl.rounds(algorithm, sampler=fl.sampling.full(clients), aggregator=chain, execution=helpers.ONE)
    x = np.random.default_rng(0).normal(size=(clients, 1, 3)).astype(np.float32)

    def model(sent: Any) -> np.ndarray:
        population = fl.Population.from_clients([{"x": np.array([sent], np.float32)}, *({"x": row} for row in x[1:])])
        state = run.init(jnp.zeros(3), population, key=jax.random.key(0), noise_key=jax.random.key(1))
        return np.asarray(run.params(run.step(state, population)[0]))

    grid = 2 * clip / levels * 3 if secure else 0.0
    without = model([0, 0, 0])
    for bad in ([0, 0, 1e20], [3e4, -4e4, 0]):
        moved = model(bad) - without
        direction = np.array(bad) / np.linalg.norm(bad)
        np.testing.assert_allclose(moved, direction * clip / clients, atol=1e-7 + grid)
    small = model([0.1, 0, 0]) - without  # within the clip, a client adds what it says
    np.testing.assert_allclose(small, [0.1 / clients, 0, 0], atol=1e-7 + grid)
