"""Bad clients by themselves: what they send, against a round of honest ones."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import attacks

NO_ALGORITHM: Any = "fed_avg"
SIZES = (5, 9, 3, 12)
PEOPLE = helpers.regression(SIZES)
ALONE: dict[str, Callable[..., fl.Algorithm]] = {
    "sign_flip": partial(attacks.sign_flip, scale=3.0),
    "gaussian": partial(attacks.gaussian, stddev=0.5),
    "free_rider": attacks.free_rider,
    "free_rider/disguised": partial(attacks.free_rider, stddev=0.1),
}


def scaffold() -> fl.Algorithm:
    return fl.algorithms.scaffold(helpers.linear_loss, num_clients=len(SIZES), client_lr=0.02, batch_size=4)


def outputs(algorithm: fl.Algorithm, key: Any = None) -> Any:
    """What each client returns in a round of this key, with a leading axis of clients."""
    key = jax.random.key(0) if key is None else key
    params = helpers.linear_params()
    shared = (algorithm.broadcast or algorithm.params)(algorithm.init(params))

    def one(client: jax.Array) -> fl.ClientOutput:
        view = fl.client_view(PEOPLE, client, key=jax.random.fold_in(key, client))
        return algorithm.client_update(shared, algorithm.init_client(params), view, view.key)

    return jax.jit(jax.vmap(one))(jnp.arange(len(SIZES), dtype=jnp.int32))


@lru_cache
def honest_outputs(make: Callable[[], fl.Algorithm]) -> Any:
    return outputs(make())


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


EXPECTED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sign_flip": lambda update: -3.0 * update,
    "free_rider": lambda update: np.zeros_like(update),
}


@pytest.mark.parametrize(
    ("name", "honest"),
    helpers.some_often([*((name, scaffold) for name in ALONE), ("sign_flip", helpers.fed_avg)], 2),
    ids=lambda one: getattr(one, "__name__", one),
)
def test_a_bad_client_changes_what_it_sends_and_nothing_else(name: str, honest: Callable[[], fl.Algorithm]) -> None:
    plain, attacked = honest_outputs(honest), outputs(ALONE[name](honest(), [1]))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)  # noqa: E731
    jax.tree.map(close, plain._replace(update=()), attacked._replace(update=()))
    assert jax.tree.map(jnp.result_type, plain.update) == jax.tree.map(jnp.result_type, attacked.update)
    rows = lambda output: np.hstack([np.reshape(u, (len(SIZES), -1)) for u in jax.tree.leaves(output.update)])  # noqa: E731
    before, after = rows(plain), rows(attacked)
    close(np.delete(before, 1, 0), np.delete(after, 1, 0))
    if name in EXPECTED:
        np.testing.assert_allclose(after[1], EXPECTED[name](before[1]), rtol=1e-5, atol=1e-7)
    else:
        assert np.abs(after[1]).max() > 0
        assert np.abs(after[1] - before[1]).max() > 1e-3


def test_noise_has_the_deviation_that_was_asked_for_and_follows_from_the_clients_key() -> None:
    """Two-sided: 4,000 normal numbers have a deviation beyond 6 % of the true one with probability below 1e-7."""
    people = helpers.regression((3, 3), num_features=4000)
    params = helpers.linear_params(4000)

    @partial(jax.jit, static_argnums=1)
    def update(seed: int, make: Callable[..., fl.Algorithm]) -> Any:
        view = fl.client_view(people, 0, key=jax.random.key(seed))
        return make().client_update(params, (), view, view.key).update

    bad = lambda: attacks.gaussian(helpers.fed_avg(), [0, 1], stddev=3.0)  # noqa: E731
    sent = lambda seed, make: flat(update(seed, make))  # noqa: E731
    noise = sent(0, bad)
    assert abs(noise.std() / 3.0 - 1) < 0.06
    assert abs(noise.mean()) < 0.3
    np.testing.assert_array_equal(noise, sent(0, bad))
    assert np.abs(noise - sent(1, bad)).max() > 1
    disguised = sent(0, lambda: attacks.free_rider(helpers.fed_avg(), [0], stddev=0.01))
    assert abs(disguised.std() / 0.01 - 1) < 0.06


def test_in_a_round_over_devices_the_mean_moves_as_the_flip_says() -> None:
    """All models start at zero: the new one is minus the mean of the four deltas, one of them flipped and tripled."""
    bad = attacks.sign_flip(helpers.fed_avg(), [1], scale=3.0)
    execution = fl.Execution(lanes=1, devices=helpers.available(4))
    options: dict[str, Any] = {"aggregator": fl.mean(), "execution": execution}
    _, attacked, _ = helpers.one_run(bad, PEOPLE, helpers.linear_params(), **options)
    honest = outputs(helpers.fed_avg(), jax.random.fold_in(attacked.keys.client, 0))
    updates = jax.tree.map(lambda u: u.at[1].multiply(-3.0).mean(0), honest.update)
    np.testing.assert_allclose(flat(attacked.server_state.params), -flat(updates), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ALONE)
def test_nobody_bad_is_the_algorithm_itself(name: str) -> None:
    honest = helpers.fed_avg()
    for nobody in ([], np.zeros(4, bool), attacks.share(0.0)):
        assert ALONE[name](honest, nobody) is honest


def test_name_and_hyperparameters_tell_the_attack() -> None:
    honest = scaffold()
    bad = attacks.sign_flip(honest, np.array([False, True, True, False]), scale=2.0)
    assert bad.name == "sign_flip(scaffold)"
    assert bad.hparams == {**honest.hparams, "sign_flip": {"bad": [1, 2], "scale": 2.0}}
    assert attacks.free_rider(honest, attacks.share(0.25)).hparams["free_rider"]["bad"] == {"rate": 0.25}
    assert bad.init_client is honest.init_client
    assert bad.server_update is honest.server_update


def test_who_is_bad_and_how_much_can_be_axes_of_one_program() -> None:
    view = fl.client_view(PEOPLE, 1, key=jax.random.key(0))
    params = helpers.linear_params()

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def sent(f: jax.Array, scale: jax.Array) -> Any:
        bad = attacks.sign_flip(helpers.fed_avg(), jnp.arange(4, dtype=jnp.int32) < f, scale=scale)
        return bad.client_update(params, (), view, view.key).update["w"]

    none, one, two = sent(jnp.arange(3, dtype=jnp.int32), jnp.float32(2.0))
    np.testing.assert_array_equal(none, one)  # client 1 is bad from two on
    np.testing.assert_allclose(two, -2 * none, rtol=1e-5)


def test_a_share_is_drawn_anew_in_each_round() -> None:
    """500 clients of rate 0.3: within 0.1 of it with probability above 1 - 2e-6."""
    keys = jax.random.split(jax.random.key(0), 500)
    bad = attacks.share(0.3)
    hit = jax.jit(jax.vmap(lambda key: attacks.is_bad(bad, jnp.int32(3), key)))(keys)
    assert abs(float(hit.mean()) - 0.3) < 0.1
    ids = jnp.arange(500, dtype=jnp.int32)
    of_all = jax.jit(lambda key: attacks.is_bad(bad, ids, key))
    rounds = [np.asarray(of_all(jax.random.key(i))) for i in range(2)]
    assert all(abs(drawn.mean() - 0.3) < 0.1 for drawn in rounds)
    assert (rounds[0] != rounds[1]).any()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: attacks.sign_flip(NO_ALGORITHM, [1]), "`algorithm` is 'fed_avg'; expected an Algorithm"),
        (lambda: attacks.sign_flip(helpers.fed_avg(), [0.5]), "`bad` is [0.5]; expected the ids of bad clients"),
        (lambda: attacks.sign_flip(helpers.fed_avg(), [1], scale=None), "`scale` is None"),
        (lambda: attacks.gaussian(helpers.fed_avg(), [1], stddev=0), "`stddev` is 0; expected a finite number above 0"),
        (lambda: attacks.free_rider(helpers.fed_avg(), [1], stddev=float("inf")), "`stddev` is inf"),
        (lambda: attacks.pool([[1], [2, 3]]), "`clients` is [[1], [2, 3]]"),
        (lambda: attacks.pool([2**40]), "`clients` holds 1099511627776"),
        (lambda: attacks.share(1.5), "`rate` is 1.5; expected a probability"),
    ],
)
def test_errors_say_what_was_given(make: Callable[[], Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        make()
    assert text in str(raised.value)
