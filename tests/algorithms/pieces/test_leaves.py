"""Choices of leaves: by name, by use, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import models
from fedjaxlite.algorithms.personal_models.fed_ala import fed_ala
from fedjaxlite.algorithms.pieces import leaves
from fedjaxlite.algorithms.pieces.leaves import by_name, last_layer, norm_layers
from fedjaxlite.algorithms.shared_parts.fed_babu import fed_babu
from fedjaxlite.algorithms.shared_parts.fed_bn import fed_bn
from fedjaxlite.algorithms.shared_parts.fed_per import fed_per
from fedjaxlite.algorithms.shared_parts.fed_rep import fed_rep
from fedjaxlite.algorithms.shared_parts.lg_fed_avg import lg_fed_avg

MODEL = {"body": {"kernel": 1.0, "bias": 2.0}, "head": {"kernel": 3.0, "bias": 4.0}}
ARGUMENTS = (
    (fed_per, "personal"),
    (lg_fed_avg, "local"),
    (fed_rep, "head"),
    (fed_babu, "head"),
    (fed_bn, "norm"),
    (fed_ala, "top"),
)


def loss(params: Any, batch: Any, key: Any) -> Any:
    return params["body"] + batch["x"]


def test_names_choose_whole_components_and_runs_of_them() -> None:
    chosen = lambda *names: jax.tree.leaves(leaves.split(MODEL, by_name(*names))[0])  # noqa: E731
    assert chosen("head") == [4.0, 3.0]
    assert chosen("head.bias", "body.kernel") == [1.0, 4.0]
    assert chosen("hea") == chosen("bias.head") == []
    assert by_name("blocks.1.attention")(("params", "blocks", 1, "attention", "kernel"), None)


def test_split_and_joined_are_inverse_also_with_state() -> None:
    model = fl.Variables(MODEL, {"head": {"mean": 5.0}, "body": {"mean": 6.0}})
    head, rest = leaves.split(model, by_name("head"))
    assert jax.tree.leaves(head) == [4.0, 3.0, 5.0]
    assert leaves.joined(rest, head) == leaves.joined(head, rest) == model


def test_normalization_goes_by_the_name_of_the_layer() -> None:
    yes = ("norm_0", "LayerNorm_2", "batch_norm", "bn", "bn1", "bn_3", "block_bn2", "BatchNorm")
    no = ("normal", "dense", "abnormal", "bnb", "ebn")
    assert [norm_layers((name, "scale"), None) for name in (*yes, *no)] == [True] * len(yes) + [False] * len(no)


def test_the_last_layer_is_the_one_used_last_whatever_it_is_called() -> None:
    def apply(params: Any, x: Any, *, key: Any = None, train: bool = False, mask: Any = None) -> Any:
        hidden = jax.nn.relu(x @ params["z"]["kernel"] + params["z"]["bias"].reshape(1, -1))
        return jax.jit(lambda h: h @ params["a"]["kernel"] + params["a"]["bias"].reshape(1, -1))(hidden)

    def init(key: Any) -> Any:
        layer = lambda m, n: {"kernel": jnp.ones((m, n)), "bias": jnp.zeros(n)}  # noqa: E731
        return {"a": layer(4, 2), "z": layer(3, 4)}

    model = models.from_functions(init, apply, input_shape=(3,))
    where = last_layer(model)
    chosen = [path for path in (("a", "kernel"), ("a", "bias"), ("z", "kernel"), ("z", "bias")) if where(path, None)]
    assert chosen == [("a", "kernel"), ("a", "bias")]
    assert leaves.describe(where) == "last_layer: a"
    with pytest.raises(ValueError, match="`x` is None, and `tokens` does not fix its input_shape; expected a batch"):
        last_layer(models.from_functions(init, apply, name="tokens"))


@pytest.mark.parametrize(("make", "argument"), ARGUMENTS)
def test_a_choice_of_nothing_names_the_leaves_there_are(make, argument) -> None:
    algorithm = make(loss, client_optimizer=optax.sgd(0.1), **{argument: by_name("nothing")})
    with pytest.raises(
        ValueError,
        match=rf"`{argument}` chooses none of the leaves body\.bias, body\.kernel, head\.bias, head\.kernel; expected",
    ):
        algorithm.init(jax.tree.map(jnp.float32, MODEL))


@pytest.mark.parametrize(("make", "argument"), ARGUMENTS)
def test_a_choice_is_a_function(make, argument) -> None:
    with pytest.raises(
        TypeError, match=rf"`{argument}` is 'head'; expected a function of \(path, leaf\)\. It is called as"
    ):
        make(loss, client_optimizer=optax.sgd(0.1), **{argument: "head"})


def test_names_are_strings() -> None:
    with pytest.raises(TypeError, match=r"by_name got \(\); expected names of layers or leaves"):
        by_name()
    with pytest.raises(TypeError, match=r"by_name got \(3,\)"):
        by_name(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [fed_per, lg_fed_avg, fed_rep, fed_babu])
def test_a_choice_of_everything_leaves_nothing_to_share(make) -> None:
    argument = dict(ARGUMENTS)[make]
    algorithm = make(loss, client_optimizer=optax.sgd(0.1), **{argument: lambda path, leaf: True})
    with pytest.raises(ValueError, match="nothing is left to share; expected at least one other, of "):
        algorithm.init(jax.tree.map(jnp.float32, MODEL))
