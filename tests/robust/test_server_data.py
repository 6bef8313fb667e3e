"""Rules that compare clients with what the server computes: closed forms, the seat of the server, and real rounds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms

ROWS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32) + np.float32(0.5)
ROWS[4] *= -3
SERVER = 2


def by_numpy_trust(rows: np.ndarray, server: int) -> np.ndarray:
    x = rows.astype(np.float64)
    g0, others = x[server], np.delete(x, server, axis=0)
    norms = np.linalg.norm(others, axis=1)
    trust = np.maximum(others @ g0 / (norms * np.linalg.norm(g0)), 0)
    total = (trust[:, None] * others * (np.linalg.norm(g0) / norms)[:, None]).sum(0)
    return total / trust.sum() if trust.any() else total


def by_numpy_zeno(rows: np.ndarray, server: int, rho: float, epsilon: float, rate: float) -> np.ndarray:
    x = rows.astype(np.float64)
    v, others = x[server], np.delete(x, server, axis=0)
    u = others * (np.linalg.norm(v) / np.linalg.norm(others, axis=1))[:, None]
    accepted = rate * u @ v - rho * (u**2).sum(1) >= -rate * epsilon
    return u[accepted].mean(0) if accepted.any() else np.zeros(x.shape[1])


@jax.jit
def trusted(rows: jax.Array, server: Any, present: jax.Array) -> jax.Array:
    return fl.robust.apply(fl.robust.fl_trust(server=server), {"w": rows}, present=present)["w"]


@jax.jit
def accepted(rows: jax.Array, rho: Any, epsilon: Any, rate: Any) -> jax.Array:
    return fl.robust.apply(fl.robust.zeno_pp(server=SERVER, rho=rho, epsilon=epsilon, rate=rate), rows)


ALL = np.ones(6, bool)


def test_fl_trust_is_its_formula() -> None:
    for server in range(6):
        np.testing.assert_allclose(trusted(ROWS, server, ALL), by_numpy_trust(ROWS, server), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("rho", "epsilon", "rate"), [(0.0, 0.0, 1.0), (0.3, 0.0, 1.0), (0.3, 0.5, 0.5), (2.0, 0.0, 1.0), (0.0, 100.0, 1.0)]
)
def test_zeno_pp_is_its_score(rho: float, epsilon: float, rate: float) -> None:
    expected = by_numpy_zeno(ROWS, SERVER, rho, epsilon, rate)
    np.testing.assert_allclose(accepted(ROWS, rho, epsilon, rate), expected, rtol=1e-4, atol=1e-6)


def test_a_result_is_no_longer_than_the_servers_message_and_never_against_it() -> None:
    rng = np.random.default_rng(1)
    for size in (1e-20, 1.0, 1e8, 1e30):
        rows = (rng.normal(size=(6, 5)) * size).astype(np.float32)
        rows[SERVER] = rng.normal(size=5)
        longest = np.linalg.norm(rows[SERVER]) * (1 + 1e-5)
        for found in (trusted(rows, SERVER, ALL), accepted(rows, 0.1, 0.0, 1.0)):
            assert np.linalg.norm(found) <= longest
            assert found @ rows[SERVER] >= 0
            assert np.abs(found).max() > 0


def test_a_cosine_does_not_know_sizes() -> None:
    rows = ROWS * np.array([[1e-18], [1e15], [1], [1e30], [1e8], [1]], np.float32)
    np.testing.assert_allclose(trusted(rows, SERVER, ALL), trusted(ROWS, SERVER, ALL), rtol=1e-5)


def test_orthogonal_maps_and_permutations() -> None:
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0].astype(np.float32)
    np.testing.assert_allclose(trusted(ROWS @ turn, SERVER, ALL), trusted(ROWS, SERVER, ALL) @ turn, atol=1e-5)
    np.testing.assert_allclose(accepted(ROWS @ turn, 0.1, 0.0, 1.0), accepted(ROWS, 0.1, 0.0, 1.0) @ turn, atol=1e-5)
    swapped = ROWS[[5, 4, 2, 3, 1, 0]]
    np.testing.assert_allclose(trusted(swapped, SERVER, ALL), trusted(ROWS, SERVER, ALL), atol=1e-6)


def test_clients_that_are_absent_or_send_nothing_do_not_count() -> None:
    rows = ROWS.copy()
    rows[0] = 0
    np.testing.assert_allclose(
        trusted(rows, SERVER, ALL), by_numpy_trust(np.delete(ROWS, 0, axis=0), SERVER - 1), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        accepted(rows, 0.0, 0.0, 1.0),
        by_numpy_zeno(np.delete(ROWS, 0, axis=0), SERVER - 1, 0, 0, 1),
        rtol=1e-4,
        atol=1e-6,
    )
    there = ALL.copy()
    there[0] = False
    np.testing.assert_allclose(trusted(ROWS, SERVER, there), trusted(rows, SERVER, ALL), atol=1e-6)


def _counted(codec: fl.Aggregator, rows: Any, present: Any = None) -> tuple[np.ndarray, dict[str, int]]:
    chain = fl.chain(fl.mean(), codec)
    state, _ = chain.init(fl.wire_of(rows[0], capacity=len(rows), weight=np.float32(1)))
    there = np.ones(len(rows), bool) if present is None else present

    @jax.jit
    def decode(state: Any, rows: Any, there: Any) -> Any:
        message = fl.Message(jnp.where(there[:, None], rows, 0), jnp.ones(len(rows)), {})
        return chain.decode(state, fl.Stacked(message, there), jax.random.key(0))

    found, state = decode(state, rows, there)
    told = {name.removeprefix(f"{codec.name}_"): int(value) for name, value in chain.metrics(state).items()}
    return np.asarray(found.value), told


@pytest.mark.parametrize("rule", [fl.robust.fl_trust(server=0), fl.robust.zeno_pp(server=0)], ids=lambda r: r.name)
def test_rounds_that_change_nothing_are_counted(rule: fl.Aggregator) -> None:
    rows = np.array([[1, 0], [-1, 0.5], [-2, 0]], np.float32)
    value, told = _counted(rule, rows)
    assert value.tolist() == [0, 0]
    assert told == {"skipped": 0, "nobody_trusted": 1, "no_server": 0}
    value, told = _counted(rule, -rows, np.array([False, True, True]))
    assert value.tolist() == [0, 0]
    assert told == {"skipped": 0, "nobody_trusted": 0, "no_server": 1}
    value, told = _counted(rule, np.abs(rows))
    assert value[0] > 0.9
    assert told == {"skipped": 0, "nobody_trusted": 0, "no_server": 0}


def population(names: Any = None, seed: int = 0, clients: int = 8) -> fl.Population:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(clients, 20, 3)).astype(np.float32)
    y = x @ np.array([2, -1, 1], np.float32) > 0
    data = [{"x": a, "y": b.astype(np.int32)} for a, b in zip(x, y, strict=True)]
    return fl.Population.from_clients(data, names=names)


EXTRA = {name: population(seed=5, clients=2).features[name] for name in ("x", "y")}
"""The server's data: more than any client has."""


@pytest.mark.parametrize(
    "sampler",
    [fl.sampling.uniform(3), fl.sampling.poisson(0.4, capacity=8)],
    ids=lambda s: s.name,
)
def test_the_server_is_in_every_cohort_and_changes_no_draw(sampler: fl.Sampler) -> None:
    clients = population()
    served = fl.robust.server_client(clients, sampler, EXTRA)
    assert served.sampler.capacity == sampler.capacity + 1

    @jax.jit
    def draw(number: Any) -> tuple[fl.Cohort, fl.Cohort]:
        key = jax.random.key(3)
        return served.sampler.sample(key, number, served.population), sampler.sample(key, number, clients)

    for number in range(4):
        cohort, plain = draw(number)
        jax.tree.map(lambda new, old: np.testing.assert_array_equal(new[:-1], old), cohort[:5], plain[:5])
        assert int(cohort.ids[-1]) == served.id == 8
        assert [float(part[-1]) for part in cohort[1:5]] == [1, 1, 1, 1]


def test_the_population_keeps_its_clients_and_their_names() -> None:
    names = [f"c{i}" for i in range(8)]
    clients = population(names=names)
    served = fl.robust.server_client(clients, fl.sampling.uniform(3), EXTRA)
    assert served.population.names.tolist() == [*names, "server"]
    assert served.population.select(list(range(8))).fingerprint() == clients.fingerprint()
    np.testing.assert_array_equal(served.population.client("server")["x"], EXTRA["x"])
    assert (clients.max_size, served.population.max_size) == (20, 40)
    numbered = fl.robust.server_client(clients.renamed(range(10, 18)), fl.sampling.uniform(3), EXTRA)
    assert numbered.population.names.tolist() == [*range(10, 18), 18]
    nameless = fl.robust.server_client(population(), fl.sampling.uniform(3), {**EXTRA, "y": EXTRA["y"].tolist()})
    assert nameless.population.names is None
    assert nameless.sampler.accounting.amplification is False
    assert nameless.sampler.accounting.cohort_size == 4
    assert "The server's own data take part in every round" in nameless.sampler.accounting.note


def _loss(params: Any, batch: Any, key: Any) -> Any:
    del key
    logits = batch["x"] @ params
    return optax.sigmoid_binary_cross_entropy(logits, batch["y"].astype(jnp.float32))


def _learned(rule: fl.Aggregator, served: fl.robust.Served, rounds: int = 12) -> tuple[float, Any]:
    def flip(state: Any, rows: fl.Rows, key: Any) -> tuple[fl.Rows, Any]:
        bad = (rows.ids < 6)[:, None] & (rows.ids >= 0)[:, None]  # six of eight clients
        return rows._replace(values=jax.tree.map(lambda v: jnp.where(bad, -4 * v, v), rows.values)), state

    algorithm = algorithms.fed_avg(_loss, client_optimizer=optax.sgd(0.5), batch_size=10, epochs=1)
    chain = fl.chain(fl.mean(), fl.restack(flip, name="flip"), rule)
    execution = fl.Execution(lanes=2, devices=1)
    run = fl.rounds(algorithm, sampler=served.sampler, aggregator=chain, execution=execution)
    state = run.init(jnp.zeros(3), served.population, key=jax.random.key(0))
    state, info = run.steps(state, served.population, rounds)
    test = population(seed=9).features
    accuracy = float((((test["x"] @ np.asarray(state.params)) > 0) == (test["y"] > 0)).mean())
    return accuracy, info


def test_server_data_learn_where_most_clients_lie() -> None:
    served = fl.robust.server_client(population(), fl.sampling.uniform(6), EXTRA)
    trust, info = _learned(fl.robust.fl_trust(server=served.id), served)
    assert trust > 0.9
    assert info.aggregator["fl_trust_no_server"].tolist() == [0] * 12


@pytest.mark.slow
def test_a_mean_does_not_and_the_other_rule_does() -> None:
    served = fl.robust.server_client(population(), fl.sampling.uniform(6), EXTRA)
    assert _learned(fl.robust.mean(), served)[0] < 0.3
    assert _learned(fl.robust.zeno_pp(server=served.id, rho=0.1), served)[0] > 0.9


@pytest.mark.slow
def test_a_server_without_finite_numbers_skips_the_round() -> None:
    def loss(params: Any, batch: Any, key: Any) -> Any:
        return _loss(params, batch, key) + jnp.where(batch["x"][..., 0] > 1e3, jnp.nan, 0.0) * params.sum()

    served = fl.robust.server_client(population(), fl.sampling.uniform(3), {**EXTRA, "x": EXTRA["x"] + np.float32(1e4)})
    algorithm = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.5), batch_size=10, epochs=1)
    chain = fl.chain(fl.mean(), fl.robust.fl_trust(server=served.id))
    run = fl.rounds(algorithm, sampler=served.sampler, aggregator=chain)
    state = run.init(jnp.ones(3), served.population, key=jax.random.key(0))
    state, info = run.step(state, served.population)
    assert state.params.tolist() == [1, 1, 1]
    assert int(info.num_nonfinite) == 1
    assert int(info.aggregator["fl_trust_no_server"]) == 1


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            {"data": {"x": EXTRA["x"]}},
            ValueError,
            r"`data` has features \['x'\]; expected those of the population, \['x', 'y'\]",
        ),
        (
            {"data": {**EXTRA, "x": EXTRA["x"][:, :2]}},
            ValueError,
            r"`data\['x'\]` has shape \[40, 2\]; expected \[n, ...\]",
        ),
        ({"data": {**EXTRA, "y": EXTRA["y"] * 0.5}}, TypeError, r"`data\['y'\]` has dtype .*; expected int32"),
        ({"data": {**EXTRA, "y": EXTRA["y"][:3]}}, ValueError, "expected the same number in every feature, at least 1"),
        ({"data": {**EXTRA, "x": EXTRA["x"] * np.nan}}, ValueError, "holds NaN or infinity"),
        ({"data": [1]}, TypeError, "`data` is .*; expected a dict of arrays"),
        ({"name": "hub"}, ValueError, "the population has no names"),
        ({"sampler": 3}, TypeError, "expected a Sampler"),
        ({"sampler": fl.sampling.full(7)}, ValueError, "full"),
        ({"population": [1, 2]}, TypeError, "expected a fl.Population"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], error: type[Exception], text: str) -> None:
    given: dict[str, Any] = {"population": population(), "sampler": fl.sampling.uniform(2), "data": EXTRA, **change}
    with pytest.raises(error, match=text):
        fl.robust.server_client(given.pop("population"), given.pop("sampler"), given.pop("data"), **given)


def test_a_name_that_is_taken_is_refused() -> None:
    named = population(names=[f"c{i}" for i in range(8)])
    with pytest.raises(ValueError, match="`name` is 'c3', which is a client's already"):
        fl.robust.server_client(named, fl.sampling.uniform(2), EXTRA, name="c3")
    with pytest.raises(TypeError, match="`name` is 3; expected a str, as the clients' names are, or None"):
        fl.robust.server_client(named, fl.sampling.uniform(2), EXTRA, name=3)


def test_the_sampler_asks_for_the_population_with_the_server() -> None:
    served = fl.robust.server_client(population(), fl.sampling.uniform(2), EXTRA)
    with pytest.raises(ValueError, match="the population has 8 clients; expected 9, the last of which is the server"):
        served.sampler.check(8)


@pytest.mark.parametrize("rule", [fl.robust.fl_trust, fl.robust.zeno_pp])
def test_bad_arguments_are_refused(rule: Any) -> None:
    with pytest.raises(ValueError, match="`server` is -1; expected an int of at least 0. It is the client that holds"):
        rule(server=-1)
    with pytest.raises(ValueError, match=".*every client .*as one"):
        fl.robust.apply(rule(server=0), ROWS, weights=np.ones(6))


def test_a_negative_rho_is_refused() -> None:
    with pytest.raises(ValueError, match="`rho` is -1; expected a number of at least 0"):
        fl.robust.zeno_pp(server=0, rho=-1)
    with pytest.raises(ValueError, match="`rate` is 0; expected a finite number above 0"):
        fl.robust.zeno_pp(server=0, rate=0)
