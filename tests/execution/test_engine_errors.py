"""Errors say what was given, where, what was expected and what to do; nearly all of them before anything is trained."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms

PEOPLE = helpers.regression((4, 9, 1, 6))
PARAMS = helpers.linear_params()


def compose(algorithm: Any = None, **parts: Any) -> fl.Rounds:
    defaults: dict[str, Any] = {
        "sampler": fl.sampling.full(4), "aggregator": fl.weighted_mean(), "execution": helpers.ONE
    }  # fmt: skip
    return fl.rounds(helpers.fed_avg() if algorithm is None else algorithm, **{**defaults, **parts})


def init(algorithm: Any = None, *, params: Any = PARAMS, population: Any = PEOPLE, **parts: Any) -> Any:
    return compose(algorithm, **parts).init(params, population, key=jax.random.key(0))


def with_update(change: Any, base: fl.Algorithm | None = None) -> fl.Algorithm:
    """Federated averaging whose client output is changed."""
    base = helpers.fed_avg() if base is None else base

    def client_update(shared: Any, own: Any, data: fl.ClientData, key: jax.Array) -> Any:
        return change(base.client_update(shared, own, data, key))

    return base._replace(client_update=client_update)


class TestComposition:
    def test_parts_of_the_wrong_type(self) -> None:
        with pytest.raises(TypeError, match=r"`algorithm` is 3; expected an Algorithm, such as algorithms.fed_avg"):
            compose(3)
        with pytest.raises(TypeError, match=r"`sampler` is 10; expected a Sampler, such as fl.sampling.uniform\(10\)"):
            compose(sampler=10)
        with pytest.raises(
            TypeError, match=r"`aggregator` is 'mean'; expected an Aggregator, such as fl.weighted_mean"
        ):
            compose(aggregator="mean")
        with pytest.raises(TypeError, match=r"`execution` is \{'lanes': 4\}; expected an fl.Execution"):
            compose(execution={"lanes": 4})

    def test_a_chain_without_a_mean(self) -> None:
        with pytest.raises(ValueError, match="has no mean at its head"):
            compose(aggregator=fl.quantize(bits=8))

    @pytest.mark.parametrize(
        ("change", "error", "text"),
        [
            ({"lanes": 0}, ValueError, "`lanes` is 0; expected an int of at least 1"),
            ({"lanes": 2.0}, TypeError, "`lanes` is 2.0; expected an int of at least 1"),
            (
                {"devices": 99},
                ValueError,
                r"`devices` is 99; expected 1 to 4, the cpu devices .*On a CPU, fl.use_cpu_cores",
            ),
            ({"devices": 0}, ValueError, "`devices` is 0; expected 1 to 4"),
            ({"devices": "all"}, TypeError, "`devices` is 'all'; expected an int, a sequence of jax devices, or None"),
            ({"devices": ()}, TypeError, r"`devices` is \(\); expected an int"),
            ({"mapping": "vmap"}, ValueError, "`mapping` is 'vmap'; expected one of 'shard_map', 'pmap'"),
            ({"max_steps": 0}, ValueError, "`max_steps` is 0; expected an int of at least 1"),
        ],
    )
    def test_executions_that_are_not_possible(self, change: Any, error: Any, text: str) -> None:
        with pytest.raises(error, match=text):
            compose(execution=fl.Execution()._replace(**change))


class TestInit:
    def test_a_cohort_larger_than_the_population(self) -> None:
        with pytest.raises(
            ValueError, match=r"`cohort_size` is 5, but the population has 4 clients. Use a cohort_size of 4"
        ):
            init(sampler=fl.sampling.uniform(5))

    def test_a_poisson_capacity_that_overflows(self) -> None:
        with pytest.raises(ValueError, match=r"draws 2 a round on average .* Use capacity=4 or more"):
            init(sampler=fl.sampling.poisson(rate=0.5, capacity=2))

    def test_data_that_are_no_population(self) -> None:
        with pytest.raises(TypeError, match=r"`population` is \{'x': .*; expected a Population, such as fl.Population"):
            init(population={"x": np.ones(3)})

    def test_params_that_hold_no_arrays(self) -> None:
        with pytest.raises(ValueError, match=r"`params` holds no arrays; expected the model, such as model.init"):
            init(params={})
        with pytest.raises(
            TypeError, match=r"`params\['name'\]` is '.*'; expected an array or a number. Keep functions and settings"
        ):
            init(params={**PARAMS, "name": "linear"})

    def test_keys_that_are_none(self) -> None:
        run = compose()
        with pytest.raises(TypeError, match=r"`key` is 0; expected one random key, such as jax.random.key\(0\)"):
            run.init(PARAMS, PEOPLE, key=0)
        with pytest.raises(TypeError, match=r"`key` is key<fry>\[2\]; expected one random key"):
            run.init(PARAMS, PEOPLE, key=jax.random.split(jax.random.key(0)))
        with pytest.raises(TypeError, match=r"`noise_key` is 7; expected one random key"):
            run.init(PARAMS, PEOPLE, key=jax.random.key(0), noise_key=7)
        old_style = jax.random.PRNGKey(0)
        assert run.init(PARAMS, PEOPLE, key=old_style).keys.client.shape == ()

    def test_params_that_do_not_fit_the_loss(self) -> None:
        with pytest.raises(
            ValueError, match=r"the loss function read 'b', which is no feature .* nor in the parameters"
        ):
            init(params={"w": jnp.zeros(3)})


class TestLosses:
    def run(self, loss: Any) -> Any:
        return init(algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=8))

    def test_a_mean_over_the_batch(self) -> None:
        with pytest.raises(
            ValueError, match=r"returned `losses` of shape \[\] for a batch of 8; expected \[8\], one value per example"
        ):
            self.run(lambda p, batch, key: helpers.linear_loss(p, batch, key).mean())

    def test_an_axis_too_many(self) -> None:
        with pytest.raises(ValueError, match=r"returned `losses` of shape \[8, 1\] for a batch of 8"):
            self.run(lambda p, batch, key: helpers.linear_loss(p, batch, key).reshape((-1, 1)))

    def test_something_else_beside_the_losses(self) -> None:
        with pytest.raises(TypeError, match=r"returned a dict beside the losses; expected a fedjaxlite.LossAux"):
            self.run(lambda p, batch, key: (helpers.linear_loss(p, batch, key), {"accuracy": 1.0}))

    def test_metrics_and_weights_that_are_not_one_per_example(self) -> None:
        aux = fl.LossAux(metrics={"accuracy": jnp.float32(1)})
        with pytest.raises(ValueError, match=r"`LossAux.metrics\['accuracy'\]` of shape \[\] for a batch of 8"):
            self.run(lambda p, batch, key: (helpers.linear_loss(p, batch, key), aux))
        with pytest.raises(ValueError, match=r"`LossAux.example_weight` of shape \[2\] for a batch of 8"):
            self.run(lambda p, batch, key: (helpers.linear_loss(p, batch, key), fl.LossAux(example_weight=jnp.ones(2))))

    def test_a_model_state_without_a_place(self) -> None:
        with pytest.raises(
            TypeError, match=r"`LossAux.state`\), but the params are a dict without a place .*Variables"
        ):
            self.run(
                lambda p, batch, key: (helpers.linear_loss(p, batch, key), fl.LossAux(state={"mean": jnp.ones(3)}))
            )

    def test_no_function_at_all(self) -> None:
        with pytest.raises(TypeError, match="`loss_fn` is None; expected a function"):
            algorithms.fed_avg(None, client_optimizer=optax.sgd(0.1))  # type: ignore[arg-type]

    def test_a_full_batch_of_a_loss_across_examples(self) -> None:
        loss = fl.losses.declare(lambda p, batch, key: batch["x"] - batch["x"].mean(), cross_example=True)
        with pytest.raises(ValueError, match="`batch_size` is None and the loss is declared cross_example"):
            algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=None)


class TestFedAvg:
    def test_batches_epochs_and_steps(self) -> None:
        with pytest.raises(ValueError, match="`batch_size` is 0; expected an int of at least 1"):
            helpers.fed_avg(batch_size=0)
        with pytest.raises(ValueError, match=r"`epochs` is 1 and `steps` is 5; expected exactly one of them"):
            helpers.fed_avg(steps=5)
        with pytest.raises(ValueError, match="`epochs` is 0; expected an int of at least 1"):
            init(helpers.fed_avg(epochs=0))

    def test_optimizers(self) -> None:
        with pytest.raises(
            TypeError, match=r"`client_optimizer` is 0.1; expected an optax optimizer, such as optax.sgd"
        ):
            algorithms.fed_avg(helpers.linear_loss, client_optimizer=0.1)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"`server_optimizer` is 0.1; expected an optax optimizer"):
            helpers.fed_avg(server_optimizer=0.1)
        with pytest.raises(ValueError, match=r"`client_optimizer` steps uphill: its learning rate is below 0"):
            helpers.fed_avg(-0.1)
        with pytest.raises(
            ValueError, match=r"`client_optimizer` changed nothing in \d+ steps: its learning rate is 0"
        ):
            helpers.fed_avg(0.0)
        with pytest.raises(ValueError, match=r"`server_optimizer` steps uphill"):
            helpers.fed_avg(server_optimizer=optax.sgd(-1.0))


class TestClientUpdates:
    def test_an_update_that_does_not_fit_the_parameters(self) -> None:
        with pytest.raises(
            ValueError, match=r"the mean update has no leaf at \['b'\]; expected the structure of the param"
        ):
            init(with_update(lambda out: out._replace(update={"w": out.update["w"]})))
        with pytest.raises(
            ValueError, match=r"the mean update has float32\[2\] at \['b'\], where the parameters ha(s|ve) "
        ):
            init(with_update(lambda out: out._replace(update={**out.update, "b": jnp.zeros((2,))})))

    def test_integers_are_not_averaged(self) -> None:
        with pytest.raises(
            ValueError, match=r"the update has int32\[\] at \['n'\]; expected floats.*Leave the leaf out"
        ):
            init(with_update(lambda out: out._replace(update={**out.update, "n": jnp.int32(1)})))

    def test_something_else_than_a_client_output(self) -> None:
        with pytest.raises(TypeError, match=r"returned a dict; expected a fedjaxlite.ClientOutput"):
            init(with_update(lambda out: out.update))

    def test_a_weight_that_is_no_prefix(self) -> None:
        with pytest.raises(
            ValueError, match=r"(?s)the weight is no tree prefix of the update: .*Give one number, or one"
        ):
            init(with_update(lambda out: out._replace(weight={"w": jnp.float32(1)})))
        with pytest.raises(ValueError, match=r"weights, scalars and info are scalars; got float32\[3\] at the root"):
            init(with_update(lambda out: out._replace(weight=jnp.ones(3))))

    def test_scalars_and_infos_that_are_arrays(self) -> None:
        with pytest.raises(ValueError, match=r"are scalars; got float32\[3\] at \['norms'\]. Reduce it in the client"):
            init(with_update(lambda out: out._replace(info={"norms": jnp.ones(3)})))
        with pytest.raises(ValueError, match=r"has scalars \['s'\] beside a tree of weights.*Give one weight"):
            weights = {"w": jnp.float32(1), "b": jnp.float32(2)}
            init(with_update(lambda out: out._replace(weight=weights, scalars={"s": jnp.float32(1)})))

    def test_a_client_state_that_changes(self) -> None:
        momentum = helpers.local_momentum()
        for change, text in (
            (lambda own: own._replace(mean={"w": own.mean["w"]}), r"has no leaf at \.mean\['b'\]"),
            (
                lambda own: own._replace(times=own.times.astype(jnp.float32)),
                r"has float32\[\] at \.times, where `init_client",
            ),
            (
                lambda own: (own, own),
                r"has no leaf at \.mean\['b'\]; expected the structure of `init_client\(params\)`",
            ),
        ):
            what = f"the client_state that `client_update` returned {text}"
            with pytest.raises(ValueError, match=what):
                init(
                    with_update(
                        lambda out, change=change: out._replace(client_state=change(out.client_state)), momentum
                    )
                )

    def test_a_server_state_that_changes(self) -> None:
        base = helpers.fed_avg()
        widen = lambda state, aggregate, key: state._replace(params={**state.params, "extra": jnp.ones(())})  # noqa: E731
        with pytest.raises(ValueError, match=r"`server_update` returned has an extra leaf at \.params\['extra'\]"):
            init(base._replace(server_update=widen))

    def test_a_server_state_without_params(self) -> None:
        bare = helpers.fed_avg()._replace(
            init=lambda params: {"model": params},
            params=fl.Algorithm(None, None, None).params,  # type: ignore[arg-type]
        )
        with pytest.raises(
            AttributeError, match=r"a dict without a field `params`; name the field so, or give the Algo"
        ):
            init(bare)

    def test_too_few_static_steps(self) -> None:
        with pytest.raises(
            ValueError,
            match=r"`Execution\(max_steps=1\)` is less than the 2 local steps of the largest client \(9 examples",
        ):
            init(execution=helpers.ONE._replace(max_steps=1))


class TestSteps:
    def test_wrong_data_and_states(self) -> None:
        run = compose()
        state = run.init(PARAMS, PEOPLE, key=jax.random.key(0))
        with pytest.raises(TypeError, match="the data of a step are a dict; expected the Population that `init` got"):
            run.step(state, dict(PEOPLE.features))
        with pytest.raises(
            TypeError, match="`state` is a dict; expected the RoundState that `init` or a step returned"
        ):
            run.step(PARAMS, PEOPLE)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="`num_rounds` is 0; expected an int of at least 1"):
            run.steps(state, PEOPLE, 0)

    def test_a_state_of_another_number_of_devices(self) -> None:
        people = helpers.regression((4, 9, 1))
        three = {"population": people, "sampler": fl.sampling.full(3)}
        one = init(helpers.local_momentum(), **three)
        run = compose(helpers.local_momentum(), sampler=three["sampler"], execution=fl.Execution(lanes=1, devices=2))
        with pytest.raises(
            ValueError, match=r"keeps 3 client states, which 2 devices cannot share equally.*this run's `init`"
        ):
            run.step(one, people)

    def test_a_population_with_more_clients_than_the_state_knows(self) -> None:
        run = compose(helpers.local_momentum(), sampler=fl.sampling.uniform(2))
        state = run.init(PARAMS, PEOPLE, key=jax.random.key(0))
        with pytest.raises(ValueError, match=r"the state keeps 4 client states, .* 5 clients"):
            run.step(state, helpers.regression((4, 9, 1, 6, 2)))

    def test_a_population_smaller_than_the_cohort(self) -> None:
        run = compose(sampler=fl.sampling.uniform(3))
        state = run.init(PARAMS, PEOPLE, key=jax.random.key(0))
        with pytest.raises(ValueError, match="`cohort_size` is 3, but the population has 2 clients"):
            run.step(state, helpers.regression((4, 9)))

    def test_a_client_that_does_not_exist(self) -> None:
        run = compose(helpers.local_momentum())
        state = run.init(PARAMS, PEOPLE, key=jax.random.key(0))
        with pytest.raises(IndexError, match="client 4 is out of range"):
            run.client_params(state, 4)

    def test_many_rounds_of_one_prepared_cohort(self) -> None:
        run = compose()
        state = run.init(PARAMS, PEOPLE, key=jax.random.key(0))
        prepared = fl.prepare_cohort(PEOPLE, fl.sampling.full(4).sample(None, 0, PEOPLE), num_examples=20)
        with pytest.raises(TypeError, match="`steps` draws its own cohorts and got a PreparedCohort; use `step`"):
            run.steps(state, prepared, 2)  # type: ignore[arg-type]

    def test_a_replay_that_has_ended(self) -> None:
        run = compose(sampler=fl.sampling.replay([[0, 1]]))
        state = run.init(PARAMS, PEOPLE, key=jax.random.key(0))
        with pytest.raises(
            ValueError, match=r"replay\(1 rounds\) has cohorts for 1 rounds; 0 are done and 2 more were asked"
        ):
            run.steps(state, PEOPLE, 2)

    def test_a_poisson_round_that_overflows_after_all(self) -> None:
        sampler = fl.sampling.poisson(rate=0.9, capacity=1, max_overflow=1.0)
        run = compose(helpers.sender(lambda data: jnp.float32(1)), sampler=sampler)
        state = run.init(jnp.float32(0), PEOPLE, key=jax.random.key(0))
        with pytest.raises(
            RuntimeError, match=r"sampled clients found no slot in poisson\(0.9\)'s capacity of 1.*Raise `capa"
        ):
            for _ in range(3):
                state, _ = run.step(state, PEOPLE)


def test_a_number_of_clients_that_is_not_the_populations_is_refused() -> None:
    algorithm = helpers.fed_avg()._replace(hparams={"num_clients": 9}, name="nine")
    run = fl.rounds(algorithm, sampler=fl.sampling.uniform(2), aggregator=fl.mean(), execution=helpers.ONE)
    with pytest.raises(
        ValueError, match=r"nine was made with num_clients=9, and the population has 5 clients\. Make it"
    ):
        run.init(helpers.linear_params(), helpers.regression((4, 9, 1, 6, 2)), key=jax.random.key(0))
