"""In which precision products are computed: what `compute_dtype` asks for, what the default gives, what stays exact."""

import itertools
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import chains
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import CHAINS
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.extend.core import primitives as p
from methods import METHODS, optimization2
from methods.trial import with_empty_client

import fedjaxlite as fl
from fedjaxlite import models
from fedjaxlite.privacy import attacks, audit

pytestmark = pytest.mark.usefixtures("standard_promotion")

B, T = 2, 5
DEFAULT_ERROR = {"cpu": 2.0**-20, "gpu": 2.0**-9, "tpu": 2.0**-6}
"""What the default precision may be off by, relative to the sum of the products' sizes: TF32 keeps 11 bits of an
operand, bfloat16 keeps 8."""


class Recurrent(nnx.Module):
    """Classifies sequences `[B, T, 3]` by the last state, as nnx's own tutorials do."""

    def __init__(self, cell: Callable[..., Any], *, rngs: nnx.Rngs):
        self.rnn = nnx.RNN(cell(3, 4, rngs=rngs))
        self.logits = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.logits(self.rnn(x)[:, -1])


def plain_scan(params: Any, x: jax.Array) -> jax.Array:
    """A recurrence by hand, from a state of float32 zeros."""

    def step(hidden: jax.Array, now: jax.Array) -> tuple[jax.Array, None]:
        drive = now.astype(jnp.float32) + hidden @ params["recurrent"].astype(jnp.float32)
        return jnp.tanh(drive), None

    return jax.lax.scan(step, jnp.zeros((x.shape[0], 3)), jnp.swapaxes(x, 0, 1))[0]


class Subject(NamedTuple):
    """A model to look at, its loss, and a batch."""

    model: models.Model
    loss: Any
    x: jax.Array


def _image(model: models.Model) -> Subject:
    return Subject(model, fl.losses.cross_entropy(model), jnp.ones((B, 8, 8, 1)))


def _sequence(model: models.Model) -> Subject:
    return Subject(model, fl.losses.cross_entropy(model), jnp.ones((B, T, 3)))


def _text(model: models.Model) -> Subject:
    return Subject(model, fl.losses.sequence_cross_entropy(model), jnp.ones((B, T), jnp.int32))


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "mlp": lambda: _image(models.mlp(features=(4, 3), input_shape=(8, 8, 1))),
    "cnn": lambda: _image(models.cnn(filters=(2, 2), hidden=4, num_classes=3, input_shape=(8, 8, 1))),
    "char_lstm": lambda: _text(models.char_lstm(vocab_size=5, embed=3, hidden=4)),
    "word_lstm": lambda: _text(models.word_lstm(vocab_size=600, embed=3, hidden=4, hoisted_gradient=False)),
    "nnx LSTM": lambda: _sequence(models.from_nnx(partial(_recurrent, nnx.OptimizedLSTMCell))),
    "nnx GRU": lambda: _sequence(models.from_nnx(partial(_recurrent, nnx.GRUCell))),
    "plain scan": lambda: _sequence(
        models.from_functions(lambda key: {"recurrent": jax.random.normal(key, (3, 3))}, plain_scan)
    ),
}


def _recurrent(cell: Callable[..., Any], rngs: nnx.Rngs) -> Recurrent:
    return Recurrent(cell, rngs=rngs)


def gradient(subject: Subject, lanes: int, **options: Any) -> tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]:
    """The gradient of a model under so many lanes, each with parameters of its own, and what makes its arguments."""
    evaluate = fl.value_and_grad(subject.loss, lanes=lanes, platform="gpu", **options)
    y = jnp.zeros(subject.x.shape if subject.x.ndim == 2 else (B,), jnp.int32)

    def one(params: Any, x: jax.Array) -> Any:
        return evaluate(params, {"x": x, "y": y}, jnp.ones(B, bool), jax.random.key(0))[1]

    def args() -> tuple[Any, ...]:
        made = (subject.model.init(jax.random.key(0)), subject.x)
        return made if lanes == 1 else jax.tree.map(lambda leaf: jnp.stack([leaf] * lanes), made)

    return one if lanes == 1 else jax.vmap(one), args


@pytest.mark.parametrize(("name", "lanes"), helpers.some_often(itertools.product(SUBJECTS, (1, 3)), 3))
def test_compute_dtype_is_what_products_are_of_on_gpu_and_tpu(name: str, lanes: int) -> None:
    """In the program that is handed to XLA for them, forward and backward, whatever the model makes by itself."""
    step, args = gradient(SUBJECTS[name](), lanes, compute_dtype=jnp.bfloat16)
    program = jax.export.export(jax.jit(step), platforms=("cuda", "tpu"))(*jax.eval_shape(args)).mlir_module()
    found = re.findall(r"stablehlo\.(?:dot_general|convolution)\b.* : \((tensor\S+), (tensor\S+)\) -> tensor", program)
    assert len(found) == len(re.findall(r"stablehlo\.(?:dot_general|convolution)\b", program)) >= 2
    assert all(operand.endswith("bf16>") for pair in found for operand in pair), found


@pytest.mark.parametrize("name", ["nnx LSTM", "plain scan"])
def test_gradients_are_those_of_float32_to_the_precision_of_the_dtype(name: str) -> None:
    subject = SUBJECTS[name]()
    (plain, args), (narrow, _) = gradient(subject, 1), gradient(subject, 1, compute_dtype=jnp.bfloat16)
    want, got = jax.jit(lambda *args: (plain(*args), narrow(*args)))(*jax.jit(args)())
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(got))
    size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want))
    assert 0 < helpers.max_difference(got, want) < 3e-2 * size


def products(jaxpr: Jaxpr) -> Iterator[Any]:
    """Every matrix product and convolution of a program, at any depth."""
    for eqn in jaxpr.eqns:
        if eqn.primitive in (p.dot_general_p, p.conv_general_dilated_p):
            yield eqn
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: isinstance(v, (Jaxpr, ClosedJaxpr))):
            if isinstance(value, (Jaxpr, ClosedJaxpr)):
                yield from products(value.jaxpr if isinstance(value, ClosedJaxpr) else value)


def operands_of(product: Callable[[jax.Array, jax.Array], jax.Array]) -> tuple[tuple[str, ...], str]:
    """Of the one product in a loss computed in bfloat16: the dtypes of its operands, and of its result in the loss."""
    seen: list[str] = []

    def loss(params: jax.Array, batch: Any, key: Any) -> jax.Array:
        out = product(batch["x"], params)
        seen.append(str(out.dtype))
        return out.astype(jnp.float32).sum(-1)

    evaluate = fl.value_and_grad(loss, compute_dtype=jnp.bfloat16, lower=False)
    args = (jnp.ones((3, 4)), {"x": jnp.ones((B, 3))}, jnp.ones(B, bool), None)
    found = list(products(jax.make_jaxpr(evaluate)(*args).jaxpr))
    return tuple(str(atom.aval.dtype) for atom in found[0].invars), seen[0]


def test_a_product_that_asks_for_its_own_precision_keeps_it() -> None:
    wide = lambda x: x.astype(jnp.float32)  # noqa: E731
    narrow = ("bfloat16", "bfloat16")
    assert operands_of(lambda x, w: x @ w) == (narrow, "bfloat16")
    assert operands_of(lambda x, w: wide(x) @ wide(w)) == (narrow, "float32")
    assert operands_of(lambda x, w: jnp.dot(wide(x), wide(w), precision="default")) == (narrow, "float32")
    asked = operands_of(lambda x, w: jnp.dot(wide(x), wide(w), precision="highest"))
    assert asked == (("float32", "float32"), "float32")
    with jax.default_matmul_precision("highest"):
        assert operands_of(lambda x, w: wide(x) @ wide(w)) == asked
    assert operands_of(lambda x, w: jnp.dot(x, w, preferred_element_type=jnp.float32)) == (narrow, "float32")


def test_products_of_a_frozen_base_that_is_stored_wide_are_narrow_too() -> None:
    base = jnp.ones((3, 4))
    assert operands_of(lambda x, w: x.astype(jnp.float32) @ base + w.sum()) == (("bfloat16", "bfloat16"), "float32")


@pytest.mark.whole
def test_without_compilation_the_loss_runs_as_it_is() -> None:
    subject = SUBJECTS["plain scan"]()
    step, args = gradient(subject, 1, compute_dtype=jnp.bfloat16)
    args = args()
    want = step(*args)
    with jax.disable_jit():
        got = step(*args)
    assert helpers.max_difference(got, want) < 3e-2


@pytest.mark.parametrize("precision", [None, "highest"])
def test_what_a_float32_product_keeps(precision: Any) -> None:
    """The default of this machine's platform, and the float32 that is there for who asks."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(64, 64)).astype(np.float32) for _ in range(2))
    exact, size = a.astype(np.float64) @ b, np.abs(a).astype(np.float64) @ np.abs(b)
    got = np.asarray(jax.jit(partial(jnp.matmul, precision=precision))(a, b), np.float64)
    allowed = DEFAULT_ERROR["cpu" if precision else jax.default_backend()]
    assert (np.abs(got - exact) / size).max() < allowed
    if jax.default_backend() == "tpu" and precision is None:
        assert (np.abs(got - exact) / size).max() > DEFAULT_ERROR["cpu"]


MODELS_OF_THEIR_OWN = ("fed_bn", "lora", "lora/freeze a")
"""Methods with another model than the linear one: its products are the model's."""


def inexact(program: ClosedJaxpr) -> list[str]:
    """The products of floats that leave their precision to the platform."""
    highest = (jax.lax.Precision.HIGHEST,) * 2
    return [str(eqn) for eqn in products(program.jaxpr) if eqn.params["precision"] != highest]


def without_products(params: Any, batch: Any, key: Any) -> jax.Array:
    """`helpers.linear_loss` by a sum of products, which every platform computes in float32."""
    return (jnp.sum(batch["x"] * params["w"][None], -1) + params["b"] - batch["y"]) ** 2


@pytest.mark.parametrize("name", helpers.some_often((method.name for method in METHODS), 12))
def test_methods_leave_no_product_of_their_own_to_the_default(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What lies beside the loss, such as the server's step or a matrix that is inverted, is the method's promise."""
    monkeypatch.setattr(helpers, "linear_loss", without_products)
    monkeypatch.setattr(optimization2, "LOSS", without_products)
    method = next(method for method in METHODS if method.name == name)
    people = with_empty_client(method.population())  # those that are told the number of clients count it
    found = inexact(_traced(method.make(), fl.weighted_mean(), method.params(), people))
    assert bool(found) == (name in MODELS_OF_THEIR_OWN), found


def _traced(
    algorithm: fl.Algorithm, aggregator: fl.Aggregator, params: Any, people: fl.Population, sampler: Any = None
) -> ClosedJaxpr:
    sampler = fl.sampling.full(people.num_clients) if sampler is None else sampler
    run = fl.rounds(algorithm, sampler=sampler, aggregator=aggregator, execution=helpers.ONE)

    def first_round(params: Any, people: fl.Population, key: Any) -> Any:
        return run.step(run.init(params, people, key=key, noise_key=jax.random.key(1)), people)[0].server_state

    return jax.make_jaxpr(first_round)(params, people, jax.random.key(0))


@pytest.mark.parametrize("name", helpers.some_often(CHAINS, 10))
def test_rounds_and_codecs_leave_no_product_to_the_default(name: str) -> None:
    """Sums over clients, rotations, correlated noise: what they promise holds wherever they run."""
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    algorithm = helpers.sender(lambda data: jax.tree.map(lambda leaf: leaf * data.num_examples, params))
    people = helpers.one_value_each(range(3 * chains.COHORT))
    found = inexact(_traced(algorithm, CHAINS[name](), params, people, chains.sampler()))
    assert not found, found


def test_every_codec_is_in_a_chain() -> None:
    assert not chains.missing(), "add a chain of each to tests/chains.py"


def test_what_is_computed_from_updates_leaves_no_product_to_the_default() -> None:
    params = jnp.zeros(3)
    audited = audit.with_canaries(
        helpers.sender(lambda data: params), num_canaries=2, first_client=1, scale=9.0, key=jax.random.key(0)
    )
    assert not inexact(_traced(audited, fl.mean(), params, helpers.one_value_each(range(3))))
    assert not inexact(jax.make_jaxpr(attacks.invert_linear)(jnp.ones((3, 2)), jnp.ones(2)))


def test_a_row_that_is_looked_up_is_the_row() -> None:
    """By one-hot rows too, for small vocabularies, and its gradient is a plain sum."""
    model = models.char_lstm(vocab_size=5, embed=3, hidden=4, layers=1)
    closed = jax.make_jaxpr(jax.grad(lambda params, x: model.apply(params, x).sum()))(
        model.init(jax.random.key(0)), jnp.ones((B, T), jnp.int32)
    )
    one_hot = [eqn for eqn in products(closed.jaxpr) if 5 in eqn.invars[0].aval.shape + eqn.invars[1].aval.shape]
    exact = [eqn for eqn in one_hot if eqn.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2]
    assert len(exact) == 2
