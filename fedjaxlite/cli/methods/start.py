"""What a method starts from where that is not one model, and how what it trains is evaluated."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Var

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.cli.methods.known import Method
from fedjaxlite.evaluation.central import Evaluation


def first_params(
    method: Method, arguments: Mapping[str, Any], init: Callable[[jax.Array], Any], data: fl.Population, key: jax.Array
) -> Any:
    """What the server of a method starts from.

    Args:
      method: which one.
      arguments: its own, those of the start too.
      init: `init(key) -> params`, of the model; the public data may have trained it.
      data: the clients; centers of clusters are first drawn from their examples, as a simulation may.
      key: random key.
    """
    if method.stands_for == "clusters":
        return _unlike(method, algorithms.ifca_init(key, init, arguments["num_clusters"]))
    if method.stands_for == "adapters":
        mine = {name: arguments[name] for name in method.of_start if name in arguments}
        base, inside = init(key), jax.random.fold_in(key, 1)
        return algorithms.lora.Adapted(base, algorithms.lora.init(base, **mine, key=inside))
    if method.stands_for == "centers":
        points = data.features[_feature(data, arguments)]
        return algorithms.k_means_init(key, points, arguments["num_clusters"])
    return init(key)


def _unlike(method: Method, params: Any) -> Any:
    """The models of the clusters, which may not all be the same: every client would choose the first."""
    if fl.checks.is_traced(params):  # a sweep, which has looked at those of its first seed
        return params
    alike = all(bool((leaf == leaf[:1]).all()) for leaf in jax.tree.leaves(params))
    if alike and len(jax.tree.leaves(params)[0]) > 1:
        raise ValueError(
            f"the models of {method.name} all start equal, since this --model starts from the same numbers whatever "
            "its random key is, as logistic does from zeros: every client would choose the first. Take a model that "
            "starts at random, such as mlp."
        )
    return params


def loss_of(method: Method, arguments: Mapping[str, Any], loss_fn: Any) -> Any:
    """The loss of what a method trains: with adapters merged, or the squared distance to the nearest center."""
    if method.stands_for == "adapters":
        return algorithms.lora.lora_loss(loss_fn, alpha=arguments["alpha"])
    if method.stands_for != "centers":
        return loss_fn
    feature = arguments.get("feature", "x")

    def distance(centers: Any, batch: Any, key: Any) -> jax.Array:
        del key
        x = batch[feature].astype(jnp.float32).reshape(len(batch[feature]), -1)
        away = x[:, None] - centers.astype(jnp.float32).reshape(1, len(centers), -1)
        return jnp.sum(away**2, axis=2).min(axis=1)

    return fl.losses.declare(distance, name="distance")


def evaluations(
    method: Method, arguments: Mapping[str, Any], loss_fn: Any, test: Mapping[str, Any]
) -> dict[str, Callable[[Any], Any]]:
    """Evaluations of the server's model on the test set, by name; of each cluster's model, where there are several."""
    whole = fl.evaluate(loss_of(method, arguments, loss_fn), test)
    if method.stands_for != "clusters":
        return {"test": whole}

    def of(cluster: int) -> Callable[[Any], Any]:
        return Evaluation(lambda params: whole(jax.tree.map(lambda leaf: leaf[cluster], params)), whole.better)

    return {f"cluster{j}": of(j) for j in range(arguments["num_clusters"])}


def personal_evaluations(
    method: Method, arguments: Mapping[str, Any], loss_fn: Any, own_test: Any, rounds: fl.Rounds
) -> dict[str, Callable[[Any], Any]]:
    """The evaluation of each client's own model on its own test part, a function of the state."""
    loss = loss_of(method, arguments, loss_fn)
    return {"own": fl.evaluate_clients(loss, own_test, rounds=rounds, execution=rounds.execution)}


def check_personal(method: Method, algorithm: fl.Algorithm, params: Any) -> None:
    """Refuses to evaluate clients' own models of a method that gives them none.

    Raises:
      ValueError: that says which methods do.
    """
    if keeps_models(algorithm, params):
        return
    raise ValueError(
        f"--personal-eval is for methods that give each client a model of its own, and {method.name} does not. Give "
        "one that does (`fedjaxlite methods` marks them), such as ditto; --algorithm fine_tuned --set "
        f"algorithm={method.name} for each client's fine-tuned model; or --per-client-eval for the one model at every "
        "client."
    )


def keeps_models(algorithm: fl.Algorithm, params: Any) -> bool:
    """Whether a client's model depends on what it keeps, by tracing `client_params`."""
    state = jax.eval_shape(algorithm.init, params)
    shared = jax.eval_shape(algorithm.broadcast or algorithm.params, state)
    own = jax.eval_shape(algorithm.init_client, params)
    if not jax.tree.leaves(own):
        return False
    jaxpr = jax.make_jaxpr(algorithm.client_params)(shared, own).jaxpr
    reached = set(jaxpr.invars[len(jax.tree.leaves(shared)) :])
    for equation in jaxpr.eqns:
        if any(isinstance(v, Var) and v in reached for v in equation.invars):
            reached.update(equation.outvars)
    return any(isinstance(v, Var) and v in reached for v in jaxpr.outvars)


def _feature(data: fl.Population, arguments: Mapping[str, Any]) -> str:
    name = arguments.get("feature", "x")
    if name not in data.features:
        raise ValueError(f"--set feature is {name!r}; the data have {', '.join(data.features)}.")
    return name
