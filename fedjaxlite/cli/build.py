"""From settings to a run: model, loss, algorithm, rounds, first state, evaluation; each a function of the settings."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import optax

import fedjaxlite as fl
from fedjaxlite.cli import compress, methods, named, parse, private_run, robust, taking_part
from fedjaxlite.cli.loading import NATURAL, Data, is_own
from fedjaxlite.cli.loading import load as load
from fedjaxlite.cli.settings import Settings
from fedjaxlite.cli.settings import keys as keys
from fedjaxlite.cli.taking_part.times import Facts
from fedjaxlite.evaluation.central import rows_of
from fedjaxlite.training.warm_start import warm_start


class Job(NamedTuple):
    """All that a command needs.

    Attributes:
      settings: with nothing left open that the data set decides.
      rounds: the composed run.
      params: the first model.
      population: what is trained on.
      evaluate: functions of the parameters by name.
      evaluate_state: functions of the state by name: of clients' own models.
      num_test: examples in the central test set.
      config: tables for config.toml.
      observers: what looks on: the budget of a private run.
    """

    settings: Settings
    rounds: fl.Rounds
    params: Any
    population: fl.Population
    evaluate: Mapping[str, Any]
    num_test: int
    config: Mapping[str, Any]
    observers: tuple[fl.observers.Observer, ...] = ()
    evaluate_state: Mapping[str, Any] = {}


def defaults_for(dataset: str) -> dict[str, Any]:
    """What a data set decides where the settings leave it open."""
    if dataset == "shakespeare":
        return {"partition": "natural", "model": "lstm", "epochs": 1, "client_lr": 1.0}
    if dataset == "synthetic":
        return {"partition": "natural", "model": "logistic", "epochs": 5, "client_lr": 0.01}
    if is_own(dataset):  # where it has clients of its own is seen when it is there
        return {"model": "2nn", "epochs": 5, "client_lr": 0.1}
    return {"clients": 100, "partition": "dirichlet:0.3", "model": "2nn", "epochs": 5, "client_lr": 0.1}


def filled(settings: Settings) -> Settings:
    """The settings with the data set's defaults, checked as far as no data are needed.

    What the method may have no use for stays open, so that it can be told from what was asked for.
    """
    stays = ("client_lr", "epochs")
    left_open = {
        n: v for n, v in defaults_for(settings.dataset).items() if n not in stays and getattr(settings, n) is None
    }
    settings = settings._replace(**left_open)
    private = settings.noise_multiplier is not None or settings.epsilon is not None
    settings = settings._replace(
        sampler=settings.sampler or ("poisson" if private and settings.async_buffer is None else "uniform"),
        aggregator=settings.aggregator or ("mean" if private or settings.robust else "weighted"),
    )
    taking_part.check(settings)
    private_run.check(settings)
    robust.check(settings)
    own = is_own(settings.dataset)
    if settings.clients is None and settings.partition != "natural" and not own:
        settings = settings._replace(clients=100)
    if settings.partition == "natural" and settings.dataset not in NATURAL and not own:
        raise ValueError(f"data set {settings.dataset!r} has no clients of its own; give another --partition.")
    parse.positive(client_lr=settings.client_lr, target_accuracy=settings.target_accuracy)
    parse.share(warm_start=settings.warm_start, dropout=settings.dropout)
    if settings.batch_size is not None:
        parse.batch_size(settings.batch_size)
    parse.partition(settings.partition or "natural", num_clients=settings.clients or 1, seed=settings.seed)
    methods.find(settings.algorithm)
    return settings


def job(settings: Settings, data: Data | None = None) -> Job:
    """Builds the run that the settings describe; everything that can be refused is refused here.

    Args:
      settings: the options.
      data: in the place of the data set that they name, which is not read then.
    """
    settings = filled(settings)
    data = load(settings) if data is None else data
    model = model_of(settings, data.train)
    loss_fn = loss_of(settings, model, data.train)
    algorithm = algorithm_of(settings, loss_fn, data.train, model=model)
    settings = private_run.calibrated(
        settings, lambda chosen: rounds_of(chosen, algorithm, data.train), data.train.num_clients
    )
    rounds = rounds_of(settings, algorithm, data.train)
    evaluate = evaluations_of(settings, loss_fn, data, model=model)
    params, config = params_of(settings, loss_fn, model, data, evaluate)
    evaluate_state: dict[str, Any] = {}
    if settings.personal_eval:
        evaluate_state = personal_evaluations_of(settings, loss_fn, data, rounds, params, model=model)
    num_test = 0 if data.test is None else len(next(iter(rows_of(data.test).values())))
    config = {**config, **private_run.table(settings)}
    observers = private_run.observers(settings)
    return Job(settings, rounds, params, data.train, evaluate, num_test, config, observers, evaluate_state)


def model_of(settings: Settings, population: fl.Population) -> Any:
    """The model that --model names, in the shapes of the data."""
    return named.model(settings.model or defaults_for(settings.dataset)["model"], population.features)


def loss_of(settings: Settings, model: Any, population: fl.Population) -> Any:
    """The loss that --loss names, or the model's own."""
    return named.loss(settings.loss, model, population.features)


def algorithm_of(
    settings: Settings, loss_fn: Any, population: fl.Population, *, model: Any = None, **overrides: Any
) -> fl.Algorithm:
    """The algorithm that --algorithm names, with what --set and the options say.

    Args:
      settings: the options.
      loss_fn: what is trained.
      population: the clients.
      model: the Model, where a choice of leaves may ask for its last layer.
      **overrides: values of client_lr, server_lr, epochs, batch_size and of the method's own hyperparameters; they
        win over the options, and may be tracers.

    Raises:
      ValueError: for what does not fit the method.
    """
    made = methods.algorithm_of(_method(settings), settings, loss_fn, _facts(settings, population, model), overrides)
    return compress.on_the_way_down(settings, robust.on_algorithm(settings, made, population))


def rounds_of(settings: Settings, algorithm: fl.Algorithm, population: fl.Population) -> fl.Rounds:
    """The rounds of an algorithm, with the sampler, the aggregator and the execution that the options describe."""
    return fl.rounds(
        algorithm,
        sampler=taking_part.sampler(settings, Facts(population.num_clients, algorithm.hparams)),
        aggregator=parse.aggregator(
            settings, population, (*compress.on_the_way_up(settings), *robust.on_rows(settings, population))
        ),
        execution=fl.Execution(lanes=settings.lanes, devices=settings.devices, client_states=settings.client_states),
    )


def params_of(
    settings: Settings, loss_fn: Any, model: Any, data: Data, evaluate: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """What the server starts from, and tables of how it came about for config.toml."""
    method, found = _method(settings), keys(settings)
    arguments = methods.arguments_of(method, settings, _facts(settings, data.train, model))
    init, config = jax.jit(model.init), {}
    if data.public is not None:
        if method.stands_for in ("clusters", "centers"):
            raise ValueError(f"--warm-start trains one model, and {method.name} starts from several; leave it out.")
        params, record = warm_start(
            loss_fn,
            init(found["model"]),
            data.public,
            optimizer=optax.sgd(_default(settings, "client_lr")),
            epochs=_default(settings, "epochs"),
            batch_size=parse.batch_size(settings.batch_size or "10"),
            key=found["warm_start"],
            evaluate=fl.evaluate(loss_fn, data.test) if method.stands_for == "adapters" else evaluate["test"],
        )
        init, config = lambda key: params, {"warm_start": record}
    return methods.first_params(method, arguments, init, data.train, found["model"]), config


def evaluations_of(settings: Settings, loss_fn: Any, data: Data, *, model: Any = None) -> dict[str, Any]:
    """Evaluations of the server's model by name: on the test set, and at each client where asked for."""
    if data.test is None:
        return {}
    method, facts = _method(settings), _facts(settings, data.train, model)
    arguments = methods.arguments_of(method, settings, facts)
    evaluate = methods.evaluations(method, arguments, loss_fn, data.test)
    if settings.per_client_eval and data.own_test is not None:
        if method.stands_for == "clusters":
            raise ValueError(
                f"--per-client-eval is of one model, and {method.name} has several; --personal-eval evaluates at each "
                "client the one that it chose."
            )
        execution = fl.Execution(lanes=settings.lanes, devices=settings.devices)
        loss = methods.loss_of(method, arguments, loss_fn)
        evaluate["clients"] = fl.evaluate_clients(loss, data.own_test, execution=execution)
    stamped = robust.triggered(settings, data.test)
    if stamped is not None:
        found = methods.evaluations(method, arguments, loss_fn, stamped)
        evaluate |= {"backdoor" if name == "test" else f"backdoor_{name}": value for name, value in found.items()}
    return evaluate


def personal_evaluations_of(
    settings: Settings, loss_fn: Any, data: Data, rounds: fl.Rounds, params: Any, *, model: Any = None
) -> dict[str, Any]:
    """The evaluation of each client's own model, by name: a function of the state."""
    method = _method(settings)
    methods.check_personal(method, rounds.algorithm, params)
    arguments = methods.arguments_of(method, settings, _facts(settings, data.train, model))
    return methods.personal_evaluations(method, arguments, loss_fn, data.own_test, rounds)


def method_and_facts(settings: Settings, population: fl.Population, model: Any) -> tuple[methods.Method, methods.Facts]:
    """The method that --algorithm names, and what is known beside the options."""
    return _method(settings), _facts(settings, population, model)


def _method(settings: Settings) -> methods.Method:
    return methods.find(settings.algorithm)


def _facts(settings: Settings, population: fl.Population, model: Any) -> methods.Facts:
    defaults = defaults_for(settings.dataset)
    return methods.Facts(population, model, defaults["client_lr"], defaults["epochs"])


def _default(settings: Settings, name: str) -> Any:
    """What was asked for, or what the data set decides."""
    value = getattr(settings, name)
    return defaults_for(settings.dataset)[name] if value is None else value
