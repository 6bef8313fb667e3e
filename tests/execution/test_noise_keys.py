"""Secret keys: nothing is read from the operating system while a program is traced, and every run gets its own."""

import itertools
import secrets

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import keys, privacy

PEOPLE = helpers.regression((3,) * 8)
PARAMS = helpers.linear_params()
REFUSED = (
    r"`init` is called inside of jit, vmap, grad or eval_shape, and .* draws what has to be secret: .*"
    r"fl.noise_keys\(num_runs\).*noise_key=noise_key"
)


def noised(**options) -> fl.Aggregator:
    return fl.chain(fl.mean(over=4), privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0, **options))


def own_noise() -> fl.Algorithm:
    """Clients that draw noise from the run's noise key themselves, in an algorithm that says nothing of it."""

    def update(data: fl.ClientData) -> jax.Array:
        return jax.random.normal(data.noise)

    return helpers.sender(update)


def composed(aggregator: fl.Aggregator | None = None, algorithm: fl.Algorithm | None = None) -> fl.Rounds:
    return fl.rounds(
        helpers.sends() if algorithm is None else algorithm,
        sampler=fl.sampling.uniform(4),
        aggregator=noised() if aggregator is None else aggregator,
        execution=helpers.ONE,
    )


def first(run: fl.Rounds, key=0, **more) -> fl.RoundState:
    params = jnp.float32(0) if run.algorithm.name == "sender" else PARAMS
    return run.init(params, PEOPLE, key=jax.random.key(key), **more)


def data(key) -> list:
    return np.asarray(jax.random.key_data(key)).tolist()


SECRETIVE = {
    "noise on the server": composed(),
    "local noise": composed(fl.chain(fl.mean(over=4), privacy.local_gaussian(clip_norm=1.0, epsilon=1.0, delta=1e-6))),
    "masks": composed(fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), privacy.secure_sum(bits=8))),
    "clients' own noise": composed(fl.mean(), own_noise()),
}
TRANSFORMS = {
    "vmap over keys": lambda f: jax.vmap(f)(jnp.arange(3)),
    "vmap over something else": lambda f: jax.vmap(lambda i: (f(0), i)[0], out_axes=None)(jnp.arange(3)),
    "jit": lambda f: jax.jit(f)(0),
    "jit without arguments": lambda f: jax.jit(lambda: f(0))(),
    "eval_shape": lambda f: jax.eval_shape(f, 0),
    "scan": lambda f: jax.lax.scan(lambda c, i: (c, f(i)), 0, jnp.arange(2)),
    "vmap of jit": lambda f: jax.vmap(jax.jit(f))(jnp.arange(3)),
    "constants in jit": lambda f: jax.jit(lambda: _at_compile_time(f))(),
}


def _at_compile_time(f):
    with jax.ensure_compile_time_eval():
        return f(0)


TRACED = [
    pytest.param(SECRETIVE[run], TRANSFORMS[transform], id=f"{run}-{transform}")
    for run, transform in itertools.product(SECRETIVE, TRANSFORMS)
]


@pytest.mark.parametrize(("run", "transform"), helpers.some_often(TRACED, 5))
def test_a_traced_init_does_not_draw_a_secret(run, transform) -> None:
    with pytest.raises(ValueError, match=REFUSED):
        transform(lambda key: first(run, key))


@pytest.mark.parametrize("transform", helpers.some_often(TRANSFORMS.values(), 4), ids=list(TRANSFORMS))
def test_nothing_is_read_from_the_system_while_a_program_is_traced(transform, monkeypatch) -> None:
    def read(*args) -> bytes:
        raise AssertionError("entropy was read while tracing")

    monkeypatch.setattr(secrets, "token_bytes", read)
    plain = composed(fl.mean())
    transform(lambda key: first(plain, key))
    transform(lambda key: plain.step(first(plain, key), PEOPLE)[0].params)
    noisy = composed()
    transform(lambda key: noisy.steps(first(noisy, key, noise_key=jax.random.key(1)), PEOPLE, 2)[0].params)


def test_without_a_mechanism_a_traced_run_is_a_function_of_its_key() -> None:
    run = composed(fl.mean())
    noise = [jax.jit(lambda key: first(run, key).keys)(key) for key in (0, 0, 1)]
    assert data(noise[0].noise) == data(noise[1].noise) != data(noise[2].noise)
    assert not bool(noise[0].secret)
    together = jax.vmap(lambda key: first(run, key))(jnp.arange(2))
    assert data(together.keys.noise) == [data(noise[0].noise), data(noise[2].noise)]
    assert bool(first(run).keys.secret)  # outside, it is a secret that a mechanism may come to use


def test_every_run_of_an_axis_gets_a_secret_of_its_own() -> None:
    run = composed()

    def play(key, noise_key):
        state = first(run, key, noise_key=noise_key)
        return run.step(state, PEOPLE)[0]

    together = jax.jit(jax.vmap(play, in_axes=(None, 0)))
    states = [together(0, fl.noise_keys(3)) for _ in range(2)]
    every = np.concatenate([np.asarray(jax.random.key_data(state.keys.noise)) for state in states])
    assert len({tuple(words) for words in every.tolist()}) == 6
    assert bool(states[0].keys.secret.all())
    assert bool(states[0].keys.secret_cohorts.all())
    models = np.concatenate([np.asarray(state.params["w"]) for state in states])
    assert len({tuple(model) for model in models.round(4).tolist()}) == 6


def test_noise_keys_are_taken_apart_by_index_and_in_a_loop() -> None:
    several = fl.noise_keys(2)
    assert len(several) == 2
    assert [data(one.key) for one in several] == data(several.key) == [data(several[i].key) for i in range(2)]
    state = first(composed(), noise_key=several[1])
    assert data(state.keys.noise) == data(several.key)[1]
    assert bool(state.keys.secret)
    assert not bool(first(composed(), noise_key=several.key[1]).keys.secret)  # a key does not say where it is from


def test_noise_keys_are_refused_where_they_would_be_constants_or_are_not_one() -> None:
    with pytest.raises(ValueError, match="`fl.noise_keys` was called inside of jit, vmap or grad.*Call it outside"):
        jax.jit(lambda: fl.noise_keys(2))()
    with pytest.raises(TypeError, match="`noise_key` is NoiseKeys of 2 runs; expected that of one. Map over them"):
        first(composed(), noise_key=fl.noise_keys(2))
    with pytest.raises(ValueError, match="`num_runs` is 0; expected an int of at least 1"):
        fl.noise_keys(0)
    with pytest.raises(TypeError, match="`cohort_key` is 3; expected one random key"):
        first(composed(), cohort_key=3)


def test_tracing_is_seen_wherever_it_is_asked() -> None:
    assert not keys.is_tracing()
    with jax.disable_jit():
        assert not jax.jit(lambda x: keys.is_tracing())(0)
    seen = []
    jax.grad(lambda x: (seen.append(keys.is_tracing()), x)[1])(1.0)
    assert seen == [True]


class TestCohorts:
    """Under a mechanism, cohorts come from the secret, unless they are fixed."""

    def test_they_follow_from_the_noise_key(self) -> None:
        run = composed()
        one, same, other = (first(run, key=k, noise_key=jax.random.key(n)) for k, n in ((0, 1), (5, 1), (0, 2)))
        assert data(one.keys.sample) == data(same.keys.sample) != data(other.keys.sample)
        assert data(first(run).keys.sample) != data(first(run).keys.sample)

    def test_they_are_a_secret_only_where_the_noise_is(self) -> None:
        run, fixed = composed(), jax.random.key(7)
        assert bool(first(run).keys.secret_cohorts)
        assert not bool(first(run, noise_key=fixed).keys.secret_cohorts)
        assert not bool(first(run, cohort_key=fixed).keys.secret_cohorts)
        assert bool(first(run, cohort_key=fixed).keys.secret)
        assert bool(first(run, noise_key=fixed, cohort_key=fl.noise_keys(1)[0]).keys.secret_cohorts)
        assert not bool(first(composed(fl.mean())).keys.secret_cohorts)

    def test_they_can_be_fixed(self) -> None:
        run = composed()
        infos = [run.step(first(run, cohort_key=jax.random.key(3)), PEOPLE)[1] for _ in range(2)]
        assert infos[0].clients["id"].tolist() == infos[1].clients["id"].tolist()

    def test_without_a_mechanism_they_follow_from_the_key_as_ever(self) -> None:
        run = composed(fl.mean())
        sample = jax.random.split(jax.random.key(0), 3)[0]
        assert data(first(run).keys.sample) == data(sample) == data(first(run, cohort_key=sample).keys.sample)

    def test_they_do_not_meet_the_noise_of_a_round(self) -> None:
        state = first(composed(), noise_key=jax.random.key(1))
        of_rounds = [data(jax.random.fold_in(state.keys.noise, r)) for r in range(100)]
        assert data(state.keys.sample) not in of_rounds
