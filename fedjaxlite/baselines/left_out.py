"""Training without a client, and testing on it: what a model is worth to somebody who was not there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.baselines.in_one_place import ONE, Baseline, checked, same_clients
from fedjaxlite.data.client_report import ClientReport
from fedjaxlite.data.client_view import ClientData
from fedjaxlite.data.population import Population
from fedjaxlite.evaluation.measuring import Found, Measuring, measuring
from fedjaxlite.evaluation.per_client import evaluate_clients, everywhere, measured
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.layout import Execution
from fedjaxlite.local.local_sgd import local_sgd
from fedjaxlite.metrics.metric import Metric
from fedjaxlite.models.types import Model

PyTree = Any


def leave_one_client_out(
    model_or_loss: Any,
    params: PyTree,
    train: Population,
    test: Population,
    *,
    client_optimizer: Any = None,
    steps: int | None = None,
    batch_size: int = 32,
    rounds: Callable[[Population], Rounds] | None = None,
    num_rounds: int | None = None,
    metrics: Sequence[Metric] = (),
    model: Model | None = None,
    bootstrap: int | None = None,
    key: Any,
    execution: Execution = ONE,
) -> Baseline:
    """For each client, trains on all others and tests on that client: cross-validation over hospitals.

    Either centrally, on the others' data in one place: `client_optimizer` and a budget of `steps` steps of `batch_size`
    examples for each client left out, as `fl.baselines.central`. All N models are trained in one program, in lanes, on
    two copies of the data one behind the other, where what is not a client's is one piece.

    Or federated: `rounds` and `num_rounds`. Those are N runs one after the other, each on a population of N - 1 clients
    of which none has the shape of another's, so that each is compiled anew: seconds a client.

    Args:
      model_or_loss: a loss function `(params, batch, key) -> [B]`, or a Model of classes; see `fl.evaluate`.
      params: where each training starts.
      train: what to train on.
      test: what to test on; the same clients in the same order. With train = test a client's data are all its own test
        data, since nothing of them was trained on.
      client_optimizer: an optax optimizer, for central training.
      steps: how many.
      batch_size: B.
      rounds: `rounds(population) -> Rounds`, the federated run for a population of N - 1 clients.
      num_rounds: how many.
      metrics: a list of `fl.metrics`.
      model: the Model whose outputs the metrics read, where `model_or_loss` is a plain function.
      bootstrap: see `fl.evaluate_clients`.
      key: of the training, and of resamples.
      execution: lanes and devices; a run of `rounds` has its own.

    Returns:
      a Baseline without a model: there are N of them.

    Raises:
      TypeError, ValueError: for neither or both of the two ways; for a single client; as `fl.local_sgd` and
        `fl.evaluate_clients`.

    Example:
      >>> import optax, fedjaxlite as fl
      >>> people = fl.Population.from_arrays({"x": np.float32([1, 3, 5])}, client_ids=[0, 0, 1])
      >>> square = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> options = {"client_optimizer": optax.sgd(0.5), "steps": 1, "key": jax.random.key(0)}
      >>> done = fl.baselines.leave_one_client_out(square, jnp.float32(0), people, people, **options)
      >>> done.report.metrics["loss"].tolist()  # the models 5 and 2
      [10.0, 9.0]
    """
    given = {"client_optimizer": client_optimizer, "steps": steps, "rounds": rounds, "num_rounds": num_rounds}
    there = tuple(name for name, value in given.items() if value is not None)
    if there not in (("client_optimizer", "steps"), ("rounds", "num_rounds")):
        raise ValueError(
            f"of `client_optimizer`, `steps`, `rounds` and `num_rounds`, {', '.join(there) or 'none'} was given; "
            "expected client_optimizer and steps for central training, or rounds and num_rounds for a federated run."
        )
    loss_fn, count, key = checked(model_or_loss, params, train, test, num_rounds if steps is None else steps, key)
    same_clients(train, test)
    if train.num_clients < 2:
        raise ValueError("`train` has 1 client; expected at least 2, so that somebody is left to train on.")
    if rounds is not None:
        checks.is_function_of("population", rounds=rounds)
        options: dict[str, Any] = {"metrics": metrics, "model": model, "bootstrap": bootstrap, "execution": execution}
        return Baseline(_federated(model_or_loss, params, (train, test), rounds, count, key, options))
    what = measuring(loss_fn, model_or_loss, metrics, model, bootstrap)
    tune = local_sgd(loss_fn, client_optimizer=client_optimizer, batch_size=batch_size, steps=count)
    return Baseline(_central(tune, what, params, train, test, key, execution))


def _central(
    tune: Callable[..., Any],
    what: Measuring,
    params: PyTree,
    train: Population,
    test: Population,
    key: jax.Array,
    execution: Execution,
) -> ClientReport:
    twice = {name: np.concatenate([np.asarray(array)] * 2) for name, array in train.features.items()}
    sizes = np.diff(np.asarray(train.offsets))
    most = int(sizes.sum() - sizes.min())

    def client(shared: Any, data: ClientData, longest: int | None) -> Mapping[str, Found]:
        params, twice, sizes, test = shared
        total = jnp.sum(sizes)
        # Behind a client's last row come the others', to the client's first row in the second copy.
        wave = data.wave._replace(num_examples=total - sizes[data.wave.ids], max_size=most, mean_size=most)
        others = replace(
            data, features=twice, offset=data.offset + sizes[data.id], num_examples=total - sizes[data.id], wave=wave
        )
        return {"": measured(what, tune(params, others).params, data.of(test), 64, longest)}

    run = everywhere(client, train, test, what, execution)
    return run(lambda test: (params, twice, jnp.asarray(sizes, jnp.int32), test), key)[""]


def _federated(
    model_or_loss: Any,
    params: PyTree,
    data: tuple[Population, Population],
    rounds: Callable[[Population], Rounds],
    num_rounds: int,
    key: jax.Array,
    options: Mapping[str, Any],
) -> ClientReport:
    train, test = data
    reports = []
    for client in range(train.num_clients):
        others = train.select([i for i in range(train.num_clients) if i != client])
        run = rounds(others)
        checks.one_instance(Rounds, "a function that returns what fl.rounds(...) returned", rounds=run)
        state = run.init(params, others, key=jax.random.fold_in(key, client))
        state, _ = run.steps(state, others, num_rounds)
        measure = evaluate_clients(model_or_loss, test.select([client]), key=jax.random.fold_in(key, client), **options)
        reports.append(measure(run.params(state)))
    joined: dict[str, Any] = {
        field: {
            name: np.concatenate([getattr(each, field)[name] for each in reports])
            for name in getattr(reports[0], field)
        }
        for field in ("metrics", "arrays", "low", "high")
    }
    sizes = np.concatenate([each.num_examples for each in reports])
    return ClientReport(sizes, better=reports[0].better, **joined, names=test.names)
