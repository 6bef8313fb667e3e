"""The platform of a layout's devices decides what is traced for it, not the one that JAX takes by default."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from methods import METHODS
from methods.trial import with_empty_client

import fedjaxlite as fl
from fedjaxlite import platforms, shuffle
from fedjaxlite.data.client_view import client_view
from fedjaxlite.execution import composition, federated_sum, layout

CNN = fl.models.cnn(filters=(2,), hidden=2, num_classes=2, input_shape=(4, 4, 1))
LOSS = fl.losses.cross_entropy(CNN)
IMAGES = fl.Population.from_arrays(
    {"x": np.zeros((12, 4, 4, 1), np.float32), "y": np.zeros(12, np.int32)}, client_ids=[0] * 5 + [1] * 4 + [2] * 3
)


class Device:
    """Stands for a device that is not here; tracing asks for nothing but its platform and whose it is."""

    process_index = 0

    def __init__(self, platform: str) -> None:
        self.platform = platform

    def memory_stats(self) -> None:
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: MemoryStats is only supported for addressable devices.")


def elsewhere(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    """Layouts get devices of another platform, and whoever asks for the default one fails."""

    def resolve(execution: fl.Execution, capacity: int) -> layout.Layout:
        here = layout.resolve(execution, capacity)
        return here._replace(devices=tuple(Device(platform) for _ in here.devices))

    def refuse() -> str:
        raise AssertionError("the default platform was asked for")

    monkeypatch.setattr(composition, "resolve", resolve)
    monkeypatch.setattr(federated_sum, "resolve", resolve)
    monkeypatch.setattr(jax, "default_backend", refuse)


def program_of(algorithm: fl.Algorithm, params: Any, people: fl.Population, sampler: Any, **execution: Any) -> str:
    """The jaxpr of a round, from a state that only has shapes."""
    chosen = fl.Execution(**{"lanes": 1, "devices": 1, **execution})
    run = fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=chosen)

    def first_round(params: Any, people: fl.Population, key: Any) -> Any:
        return run.step(run.init(params, people, key=key, noise_key=jax.random.key(1)), people)[0].params

    return str(jax.make_jaxpr(first_round)(params, people, jax.random.key(0)))


def round_of_cnn(**execution: Any) -> str:
    algorithm = fl.algorithms.fed_avg(LOSS, client_optimizer=optax.sgd(0.1), batch_size=2)
    return program_of(algorithm, CNN.init(jax.random.key(0)), IMAGES, fl.sampling.cyclic(2, 1), **execution)


@pytest.mark.parametrize("execution", helpers.some_often([{}, {"devices": 2}, {"max_steps": 3}], 3))
def test_a_round_is_traced_for_the_devices_of_its_layout(
    monkeypatch: pytest.MonkeyPatch, execution: dict[str, Any]
) -> None:
    at_home = round_of_cnn(**execution)
    elsewhere(monkeypatch, "gpu")
    on_gpu = round_of_cnn(**execution)
    assert "conv_general_dilated" not in at_home  # rewritten as products, as is fast in a loop on a CPU
    assert "conv_general_dilated" in on_gpu  # one lane: a convolution is what it was
    assert "unroll=24" not in at_home
    assert "unroll=24" in on_gpu


def test_lanes_of_an_accelerator_are_rewritten_and_its_pools_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch, "tpu")
    program = round_of_cnn(lanes=2)
    assert "conv_general_dilated" not in program
    assert "reduce_window_max" in program


def test_lanes_that_are_left_open_are_chosen_for_the_devices_of_the_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch, "gpu")
    assert "conv_general_dilated" not in round_of_cnn(lanes=None)  # two lanes: the cohort
    here = layout.resolve(helpers.ONE._replace(lanes=None), 64)
    with_memory = Device("gpu")
    monkeypatch.setattr(with_memory, "memory_stats", lambda: {"bytes_limit": 64 * 4000 * 10})
    found = here._replace(devices=(Device("gpu"), with_memory))  # the first does not answer
    assert layout.with_lanes(found, np.zeros(1000, np.float32), IMAGES, 64).lanes == 8


@pytest.mark.parametrize("name", helpers.some_often((method.name for method in METHODS), 24))
def test_no_method_asks_for_the_default_platform(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    method = next(method for method in METHODS if method.name == name)
    people = with_empty_client(method.population())  # those that are told the number of clients count it
    elsewhere(monkeypatch, "gpu")
    sampler = fl.sampling.uniform(min(3, people.num_clients))
    program_of(method.make(), method.params(), people, sampler)


def test_dp_sgd_does_not_either(monkeypatch: pytest.MonkeyPatch) -> None:
    train = fl.privacy.dp_sgd(
        helpers.linear_loss,
        clip_norm=1.0,
        noise_multiplier=1.0,
        rate=0.5,
        expected_batch_size=2,
        steps=1,
        client_optimizer=optax.sgd(0.1),
    )
    elsewhere(monkeypatch, "gpu")
    update = lambda shared, own, data, key: fl.ClientOutput(train(shared, data).delta, data.num_examples)  # noqa: E731
    algorithm = helpers.fed_avg()._replace(client_update=update)
    program_of(algorithm, helpers.linear_params(), helpers.regression((4, 3)), fl.sampling.full(2))


def test_evaluation_at_the_clients_is_traced_for_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    params = CNN.init(jax.random.key(0))

    def program(execution: fl.Execution) -> str:
        evaluate = fl.evaluate_clients(CNN, IMAGES, execution=execution)
        tune = fl.evaluate_personalized(
            CNN, IMAGES, IMAGES, client_optimizer=optax.sgd(0.1), batch_size=2, execution=execution
        )
        return "".join(_jaxpr_inside(monkeypatch, run, params) for run in (evaluate, tune))

    at_home = program(helpers.ONE)
    elsewhere(monkeypatch, "gpu")
    on_gpu = program(helpers.ONE)
    assert "reduce_window_max" not in at_home
    assert "reduce_window_max" in on_gpu
    assert "unroll=24" in on_gpu


class _Traced(Exception):
    """Nothing is run: what was to be seen was seen."""


def _jaxpr_inside(monkeypatch: pytest.MonkeyPatch, evaluation: Any, params: Any) -> str:
    """The program of an evaluation at the clients; its reports are made on the host, so only the sum is traced."""
    seen: list[str] = []

    def traced(body: Any, layout: layout.Layout) -> Any:
        def run(state: Any, data: Any, sharded: Any) -> Any:
            seen.append(str(jax.make_jaxpr(body)(jnp.int32(0), state, data, sharded)))
            raise _Traced

        return run

    with monkeypatch.context() as patch:
        patch.setattr(federated_sum, "over_devices", traced)
        patch.setattr(federated_sum, "place", lambda tree, layout: tree)
        with pytest.raises(_Traced):
            evaluation(params)
    return seen[0]


def test_central_evaluation_is_traced_for_where_its_arrays_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"x": jax.device_put(jnp.zeros((2, 4, 4, 1)), jax.devices()[1]), "y": jnp.zeros(2, jnp.int32)}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    params = CNN.init(jax.random.key(0))
    evaluate = fl.evaluate(CNN, where)
    program = str(jax.make_jaxpr(evaluate)(params))
    assert "conv_general_dilated" not in program  # on a CPU device by name, whatever the default is
    assert "reduce_window_max" not in program
    anywhere = fl.evaluate(CNN, {name: np.asarray(array) for name, array in where.items()})
    assert "reduce_window_max" in str(jax.make_jaxpr(anywhere)(params))


def test_lower_and_value_and_grad_go_by_their_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = {"x": jnp.zeros((2, 3)), "y": jnp.zeros(2), "mask": jnp.ones(2, bool)}
    params = helpers.linear_params()
    called: list[str] = []
    monkeypatch.setattr(jax, "default_backend", lambda: called.append("asked") or "cpu")
    lowered, gradient = fl.lower(helpers.linear_loss), fl.value_and_grad(helpers.linear_loss)
    there = jax.device_put(params, jax.devices()[1])
    lowered(there, batch, None)
    gradient(there, batch, batch["mask"], None)
    assert not called
    fl.lower(helpers.linear_loss, platform="tpu")(params, batch, None)
    fl.value_and_grad(helpers.linear_loss, platform="tpu")(params, batch, batch["mask"], None)
    assert not called
    lowered(params, batch, None)
    assert called


def test_the_default_is_that_of_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert platforms.default_platform() == "gpu"
    assert platforms.platform_of({"x": np.ones(2), "n": jnp.ones(2)}) == "gpu"
    with jax.default_device(jax.devices()[2]):
        assert platforms.default_platform() == "cpu"
    assert platforms.platform_of(jax.random.split(jax.device_put(jax.random.key(0), jax.devices()[1]))) == "cpu"


def test_a_view_by_hand_is_of_where_its_population_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = jax.device_put(IMAGES, jax.devices()[1])
    assert client_view(there, 0, key=jax.random.key(0)).wave.platform == "cpu"
    assert client_view(IMAGES, 0, key=jax.random.key(0)).wave.platform == "gpu"


def test_unrolling_changes_no_shuffle() -> None:
    seed, places, n = jnp.uint32([3, 5]), jnp.arange(9, dtype=jnp.int32), jnp.int32(9)
    orders = [shuffle.shuffled(seed, jnp.int32(1), places, n, unroll=shuffle.unrolling(p)) for p in ("cpu", "tpu")]
    assert orders[0].tolist() == orders[1].tolist()
    assert shuffle.unrolling("cpu") < shuffle.unrolling("gpu") == shuffle.unrolling("tpu")
