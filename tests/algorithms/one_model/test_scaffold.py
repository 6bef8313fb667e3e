"""SCAFFOLD: the true optimum for any number of local steps, against NumPy, and the bookkeeping of control variates."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.scaffold import scaffold

PEOPLE = helpers.regression((4, 9, 1, 6))
LOCAL: dict[str, Any] = {"batch_size": 2, "epochs": 2, "shuffle": False}


def quadratics(sizes: tuple[int, int] = (1, 1)) -> fl.Population:
    """f_1 = x^2 / 2 and f_2 = 2 (x - 1)^2, as so many equal examples each."""
    owner = np.repeat([0, 1], sizes)
    return fl.Population.from_arrays({"a": np.float32([1, 4])[owner], "b": np.float32([0, 1])[owner]}, client_ids=owner)


def quadratic(x: Any, batch: Any, key: Any) -> jax.Array:
    return batch["a"] / 2 * (x - batch["b"]) ** 2


def rest(algorithm: fl.Algorithm, population: fl.Population, rounds: int = 150) -> float:
    run = fl.rounds(algorithm, sampler=fl.sampling.full(2), aggregator=fl.weighted_mean(), execution=helpers.ONE)
    state = run.init(jnp.float32(0.3), population, key=jax.random.key(0), noise_key=jax.random.key(0))
    return run.steps(state, population, rounds)[0].params


@pytest.mark.slow
def test_the_fixed_point_is_the_optimum_for_any_number_of_local_steps() -> None:
    """Where FedAvg rests at 0.604 after rounds of 10 steps."""

    def scaffolded(local_steps: Any) -> Any:
        local: dict[str, Any] = {"num_clients": 2, "client_lr": 0.1, "batch_size": 1, "steps": local_steps}
        return [rest(scaffold(quadratic, option=option, **local), quadratics()) for option in (1, 2)]

    points = jax.jit(jax.vmap(scaffolded))(jnp.int32([1, 3, 10]))
    np.testing.assert_allclose(points, np.full((2, 3), 0.8), atol=2e-6)


def test_the_objective_weighs_clients_alike_or_by_their_examples() -> None:
    """Sizes 3 and 1: the plain mean of losses has its optimum at 4 / 5, the mean over examples at 4 / 7."""
    local: dict[str, Any] = {"num_clients": 2, "client_lr": 0.1, "batch_size": 1, "steps": 5, "shuffle": False}
    alike = scaffold(quadratic, **local)
    by_examples = scaffold(quadratic, num_examples=4, **local)
    points = jax.jit(lambda people: (rest(alike, people), rest(by_examples, people)))(quadratics((3, 1)))
    np.testing.assert_allclose(points, [4 / 5, 4 / 7], atol=2e-6)


class Numpy:
    """The paper's algorithm 1 on the linear model; the bias comes last."""

    def __init__(self, option: int, rates: tuple[float, float], local: Any = LOCAL) -> None:
        self.option, (self.client_lr, self.server_lr), self.local = option, rates, local
        self.x, self.c, self.own = np.zeros(4), np.zeros(4), np.zeros((4, 4))
        self.steps: list[int] = []

    @staticmethod
    def gradient(params: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 2 * x.T @ (x @ params - y) / len(y)

    def client(self, k: int, work: float) -> tuple[np.ndarray, np.ndarray]:
        data = PEOPLE.client(k)
        x, y = np.concatenate([data["x"], np.ones((len(data["x"]), 1))], axis=1), data["y"]
        size = self.local["batch_size"]
        per_epoch = -(-len(y) // size)
        count = max(1, int(np.ceil(work * per_epoch * self.local["epochs"] - 1e-4)))
        model = self.x.copy()
        for step in range(count):
            rows = slice((step % per_epoch) * size, (step % per_epoch + 1) * size)
            model = model - self.client_lr * (self.gradient(model, x[rows], y[rows]) - self.own[k] + self.c)
        self.steps.append(count)
        if self.option == 1:
            new = self.gradient(self.x, x, y)
        else:
            new = self.own[k] - self.c + (self.x - model) / (count * self.client_lr)
        return model, new

    def round(self, cohort: Any, work: Any) -> None:
        self.steps = []
        models, news = zip(*[self.client(k, w) for k, w in zip(cohort, work, strict=True)], strict=True)
        change = np.mean([new - self.own[k] for k, new in zip(cohort, news, strict=True)], axis=0)
        self.x = self.x + self.server_lr * (np.mean(models, axis=0) - self.x)
        self.c = self.c + len(cohort) / 4 * change
        for k, new in zip(cohort, news, strict=True):
            self.own[k] = new


def flat(tree: Any) -> np.ndarray:
    """`w` and `b` side by side, for one model or a bank of them."""
    return np.concatenate([tree["w"], np.asarray(tree["b"])[..., None]], axis=-1)


@pytest.mark.parametrize("option", [1, 2])
def test_rounds_against_numpy_with_part_of_the_clients_and_stragglers(option: Any) -> None:
    """Control variates of all clients too; c stays their mean, also of those that never took part."""
    cohorts = [[0, 1], [1, 3], [3, 0], [0, 1]]
    sampler = fl.sampling.with_stragglers(fl.sampling.replay(cohorts), 0.7, 0.0)
    algorithm = scaffold(helpers.linear_loss, num_clients=4, client_lr=0.02, server_lr=0.8, option=option, **LOCAL)
    run, state, _ = helpers.one_run(algorithm, PEOPLE, helpers.linear_params(), sampler=sampler, num_rounds=0)
    paper, lazy, own = Numpy(option, (0.02, 0.8)), False, np.zeros((4, 4))
    work_of = jax.jit(lambda key, number: sampler.sample(key, number, PEOPLE).work)
    for number, cohort in enumerate(cohorts):
        work = np.asarray(work_of(state.keys.sample, number))
        lazy |= bool((work < 1).any())
        state, info = run.step(state, PEOPLE)
        paper.round(cohort, work)
        assert info.clients["local_steps"].tolist() == paper.steps
        own = flat(state.clients.algorithm)
        np.testing.assert_allclose(flat(state.params), paper.x, atol=1e-5)
        np.testing.assert_allclose(flat(state.server_state.control), paper.c, atol=2e-4)
        np.testing.assert_allclose(own, paper.own, atol=4e-4)
        np.testing.assert_allclose(flat(state.server_state.control), own.mean(axis=0), atol=1e-5)
    assert lazy
    assert np.abs(paper.c).max() > 0.5
    assert not own[2].any()


def test_equal_clients_on_full_batches_are_fed_avg() -> None:
    """Their control variates are all the same, so they cancel, and three rounds of three steps are nine of descent."""
    same = PEOPLE.client(1)
    people = fl.Population.from_arrays(
        {name: np.concatenate([values, values]) for name, values in same.items()}, client_ids=np.repeat([0, 1], 9)
    )
    algorithm = scaffold(helpers.linear_loss, num_clients=2, client_lr=0.05, batch_size=None, steps=3)
    _, state, _ = helpers.one_run(algorithm, people, helpers.linear_params(), num_rounds=3)
    model, x = np.zeros(4), np.concatenate([same["x"], np.ones((9, 1))], axis=1)
    for _ in range(9):
        model = model - 0.05 * Numpy.gradient(model, x, same["y"])
    np.testing.assert_allclose(flat(state.params), model, atol=1e-5)
    assert np.abs(flat(state.server_state.control)).max() > 0.1


def test_clients_without_examples_change_nothing_and_another_num_clients_is_refused() -> None:
    arrays = {name: values[:14] for name, values in PEOPLE.features.items()}
    owner = np.repeat([0, 1, 3], [4, 9, 1])
    people = fl.Population.from_arrays(arrays, client_ids=owner, order=[0, 1, 2, 3], allow_empty=True)
    algorithm = scaffold(helpers.linear_loss, num_clients=4, client_lr=0.02, **LOCAL)
    sampler = fl.sampling.replay([[0, 1, 2, -1], [2, -1, -1, -1]])
    run, first, info = helpers.one_run(algorithm, people, helpers.linear_params(), sampler=sampler)
    assert (int(info.num_nonfinite), int(info.num_reported)) == (0, 3)
    assert info.clients["in_sum"].tolist() == [True, True, True, False]
    paper = Numpy(2, (0.02, 1.0))
    paper.round([0, 1], [1.0, 1.0])
    np.testing.assert_allclose(flat(first.params), paper.x, atol=1e-5)
    np.testing.assert_allclose(flat(first.server_state.control), paper.c, atol=2e-4)
    assert not flat(first.clients.algorithm)[2:].any()
    second, info = run.step(first, people)
    assert helpers.max_difference(second.server_state, first.server_state) == 0.0
    assert (int(info.num_nonfinite), flat(second.clients.algorithm)[2].any()) == (0, False)
    three = scaffold(helpers.linear_loss, num_clients=3, client_lr=0.02, **LOCAL)
    with pytest.raises(ValueError, match=r"scaffold was made with num_clients=3, and the population has 4 clients"):
        helpers.one_run(three, people, helpers.linear_params(), sampler=sampler)


def test_control_variates_travel_inside_a_sum_of_integers() -> None:
    algorithm = scaffold(helpers.linear_loss, num_clients=4, client_lr=0.02, **LOCAL)
    chain = fl.chain(fl.weighted_mean(weight_cap=1), fl.clip_by_global_norm(100.0), fl.quantize(bits=24))
    run, state, _ = helpers.one_run(algorithm, PEOPLE, helpers.linear_params(), aggregator=chain, num_rounds=2)
    paper = Numpy(2, (0.02, 1.0))
    for _ in range(2):
        paper.round(range(4), [1.0] * 4)
    np.testing.assert_allclose(flat(state.params), paper.x, atol=1e-3)
    np.testing.assert_allclose(flat(state.server_state.control), paper.c, atol=3e-3)
    assert run.client_params(state, 1).keys() == {"w", "b"}
    # three bytes an entry and two weights up, two models down
    assert run.traffic(helpers.linear_params(), PEOPLE) == (2 * 4 * 3 + 2 * 4, 2 * 16)


def test_only_what_is_trained_has_control_variates_and_narrow_floats_stay_narrow() -> None:
    def loss(variables: Any, batch: Any, key: Any) -> Any:
        wide = variables.params["w"].astype(jnp.float32) - batch["b"]
        return wide**2, fl.LossAux(state={"mean": jnp.mean(batch["b"])})

    start = fl.Variables({"w": jnp.ones((), jnp.bfloat16)}, {"mean": jnp.float32(7.0)})
    algorithm = scaffold(loss, num_clients=2, client_lr=0.1, batch_size=1, steps=2)
    _, state, _ = helpers.one_run(algorithm, quadratics(), start)
    assert float(state.params.state["mean"]) == pytest.approx(0.5)
    control = state.server_state.control["w"]
    assert (control.dtype, state.params.params["w"].dtype) == (jnp.bfloat16, jnp.bfloat16)
    # 2 (w - b) from w = 1, over two steps and clients with b = 0 and 1
    assert float(control) == pytest.approx(0.9, abs=0.03)


def test_errors() -> None:
    def build(**options: Any) -> Any:
        return scaffold(helpers.linear_loss, **{"num_clients": 4, "client_lr": 0.1, **options})

    with pytest.raises(ValueError, match="`num_clients` is 0; expected an int of at least 1. It is the number of"):
        build(num_clients=0)
    with pytest.raises(TypeError, match="`num_clients` is 4.0; expected an int"):
        build(num_clients=4.0)
    with pytest.raises(ValueError, match="`num_examples` is 0; .* examples of the whole population"):
        build(num_examples=0)
    with pytest.raises(ValueError, match="`client_lr` is 0; expected a finite number above 0"):
        build(client_lr=0)
    with pytest.raises(ValueError, match="`option` is 3; expected one of 1, 2"):
        build(option=3)

    def mixing(params: Any, batch: Any, key: Any) -> Any:
        return helpers.linear_loss(params, batch, key)

    mixing.cross_example = True  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="`option` is 1 and the loss is declared cross_example"):
        scaffold(mixing, num_clients=4, client_lr=0.1, option=1)
