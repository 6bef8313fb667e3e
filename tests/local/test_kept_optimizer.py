"""Local training that goes on from an optimizer state, and what is refused as one."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import optax
import pytest

import fedjaxlite as fl

PEOPLE = helpers.regression((5, 3))
MOMENTUM = optax.sgd(0.02, momentum=0.9)


def trained(steps: int, params: Any, state: Any = None, optimizer: Any = MOMENTUM) -> fl.LocalResult:
    run = fl.local_sgd(helpers.linear_loss, client_optimizer=optimizer, batch_size=None, steps=steps)
    return run(params, fl.client_view(PEOPLE, 0, key=jax.random.key(0)), optimizer_state=state)


def test_two_calls_that_pass_the_state_on_are_one_of_all_steps() -> None:
    whole = trained(5, helpers.linear_params())
    first = trained(2, helpers.linear_params())
    second = trained(3, first.params, first.optimizer_state)
    assert helpers.max_difference(second.params, whole.params) < 1e-6
    assert helpers.max_difference(second.optimizer_state, whole.optimizer_state) < 1e-6
    assert helpers.max_difference(trained(3, first.params).params, whole.params) > 1e-3


@pytest.mark.parametrize("batch_size", [None, 2], ids=["full batch", "batches"])
def test_a_fresh_state_that_is_given_changes_no_number(batch_size: int | None) -> None:
    params = helpers.linear_params()
    run = fl.local_sgd(helpers.linear_loss, client_optimizer=MOMENTUM, batch_size=batch_size, epochs=2)
    data = fl.client_view(PEOPLE, 0, key=jax.random.key(0))
    given, fresh = run(params, data, optimizer_state=MOMENTUM.init(params)), run(params, data)
    assert helpers.max_difference(given, fresh) == 0.0


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (MOMENTUM.init({"w": jnp.zeros(3)}), r"`optimizer_state` has no leaf at .*'b'.*; expected the structure of"),
        (
            optax.adam(0.1).init(helpers.linear_params()),
            r"Start with that one, and keep `LocalResult\.optimizer_state`",
        ),
        (
            jax.tree.map(lambda leaf: leaf[None], MOMENTUM.init(helpers.linear_params())),
            r"`optimizer_state` has float32",
        ),
    ],
    ids=["another model", "another optimizer", "another shape"],
)
def test_a_state_of_something_else_is_refused(state: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        trained(1, helpers.linear_params(), state)
