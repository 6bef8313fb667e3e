"""Frozen and personal leaves: what is trained, what crosses the wire, what stays at a client."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms, testing

PEOPLE = helpers.regression((4, 9, 1, 6, 2, 3))
PARAMS = {"w": jnp.float32([0.3, -0.2, 1.0]), "b": jnp.float32(0.5)}
RATE = 0.05


def make(loss: Any) -> fl.Algorithm:
    return algorithms.fed_avg(loss, client_optimizer=optax.sgd(RATE), batch_size=None, epochs=2)


def is_w(path: tuple[Any, ...], leaf: Any) -> bool:
    return path[0] == "w"


def is_b(path: tuple[Any, ...], leaf: Any) -> bool:
    return path[0] == "b"


FROZEN = fl.partition_params(make, helpers.linear_loss, frozen=is_w)
PERSONAL = fl.partition_params(make, helpers.linear_loss, personal=is_b)


class TestFrozen:
    def test_the_rest_is_trained_as_if_the_frozen_leaves_were_constants(self) -> None:
        _, state, _ = helpers.one_run(FROZEN, PEOPLE, PARAMS, num_rounds=2)
        alone = make(lambda b, batch, key: helpers.linear_loss({"w": PARAMS["w"], "b": b}, batch, key))
        _, want, _ = helpers.one_run(alone, PEOPLE, PARAMS["b"], num_rounds=2)
        assert helpers.max_difference(state.params["b"], want.params) < 1e-6
        assert helpers.max_difference(state.params["w"], PARAMS["w"]) == 0
        assert abs(float(state.params["b"]) - 0.5) > 0.01

    def test_frozen_leaves_cross_no_wire(self) -> None:
        run, _, _ = helpers.one_run(FROZEN, PEOPLE, PARAMS, num_rounds=0)
        assert run.traffic(PARAMS, PEOPLE) == (4 + 4, 4)
        assert run.wire(PARAMS, PEOPLE).value["w"] is None


class TestPersonal:
    def reference(self, num_rounds: int) -> tuple[np.ndarray, list[float]]:
        """FedPer by hand: everyone trains both leaves, averages w, keeps b."""
        gradient = jax.jit(jax.grad(lambda p, x, y: helpers.linear_loss(p, {"x": x, "y": y}, None).mean()))
        common, own = PARAMS["w"], [PARAMS["b"]] * 6
        sizes = np.array([4, 9, 1, 6, 2, 3], np.float64)
        for _ in range(num_rounds):
            models = []
            for i in range(6):
                model, data = {"w": common, "b": own[i]}, PEOPLE.client(i)
                for _ in range(2):
                    model = jax.tree.map(lambda p, g: p - RATE * g, model, gradient(model, data["x"], data["y"]))
                models.append(model)
            own = [model["b"] for model in models]
            common = jnp.float32(np.average([np.asarray(model["w"]) for model in models], axis=0, weights=sizes))
        return np.asarray(common), [float(b) for b in own]

    def test_three_rounds_equal_training_by_hand(self) -> None:
        run, state, _ = helpers.one_run(PERSONAL, PEOPLE, PARAMS, num_rounds=3)
        common, own = self.reference(3)
        np.testing.assert_allclose(state.params["w"], common, atol=1e-5)
        assert float(state.params["b"]) == 0.5  # the server never saw another
        for i in range(6):
            model = run.client_params(state, i)
            np.testing.assert_allclose(model["b"], own[i], atol=1e-5)
            np.testing.assert_allclose(model["w"], common, atol=1e-5)

    def test_personal_leaves_cross_no_wire_upwards(self) -> None:
        run, _, _ = helpers.one_run(PERSONAL, PEOPLE, PARAMS, num_rounds=0)
        assert run.traffic(PARAMS, PEOPLE).up == 12 + 4

    @pytest.mark.whole
    def test_the_laws_hold(self) -> None:
        both = fl.partition_params(
            make,
            lambda p, batch, key: helpers.linear_loss({"w": p["w"] * p["scale"], "b": p["b"]}, batch, key),
            frozen=lambda path, leaf: path[0] == "scale",
            personal=is_b,
        )
        params = {**PARAMS, "scale": jnp.float32(2)}
        layouts = (fl.Execution(lanes=2, devices=helpers.available(2)),)
        case = testing.case(both, params, PEOPLE, layouts=layouts)
        for check in (testing.check_layout_invariance, testing.check_padding, testing.check_resume):
            check(case)


class TestErrors:
    def test_a_leaf_of_two_kinds(self) -> None:
        algorithm = fl.partition_params(make, helpers.linear_loss, frozen=is_w, personal=is_w)
        with pytest.raises(ValueError, match=r"the leaf \['w'\] is both frozen and personal; expected one of them"):
            helpers.one_run(algorithm, PEOPLE, PARAMS)

    def test_nothing_left_to_share(self) -> None:
        algorithm = fl.partition_params(make, helpers.linear_loss, frozen=is_w, personal=is_b)
        with pytest.raises(ValueError, match=r"every leaf is frozen or personal.*at least one .* of \['b'\], \['w'\]"):
            helpers.one_run(algorithm, PEOPLE, PARAMS)

    def test_an_update_that_is_more_than_a_delta(self) -> None:
        def two_parts(loss: Any) -> fl.Algorithm:
            base = make(loss)

            def client_update(shared: Any, own: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
                output = base.client_update(shared, own, data, key)
                return output._replace(update={"delta": output.update, "more": jnp.float32(0)})

            return base._replace(client_update=client_update)

        algorithm = fl.partition_params(two_parts, helpers.linear_loss, personal=is_b)
        with pytest.raises(
            ValueError, match=r"`personal` needs an algorithm whose update is a delta of the parameters"
        ):
            helpers.one_run(algorithm, PEOPLE, PARAMS)

    def test_a_broadcast_that_is_more_than_the_parameters(self) -> None:
        algorithm = fl.partition_params(lambda loss: helpers.scaffold(), helpers.linear_loss, personal=is_b)
        with pytest.raises(ValueError, match=r"`personal` needs an algorithm that broadcasts the parameters"):
            helpers.one_run(algorithm, PEOPLE, PARAMS)

    def test_arguments(self) -> None:
        with pytest.raises(ValueError, match="`frozen` and `personal` are both None; expected at least one"):
            fl.partition_params(make, helpers.linear_loss)
        with pytest.raises(TypeError, match="`make` is 3; expected a function"):
            fl.partition_params(3, helpers.linear_loss, frozen=is_w)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"`frozen` is 'w'; expected a function of \(path, leaf\)"):
            fl.partition_params(make, helpers.linear_loss, frozen="w")  # type: ignore[arg-type]
