"""The runs of `fedjaxlite run --sweep`, by `fl.sweep`."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

import fedjaxlite as fl
from fedjaxlite.cli import build, methods, parse, private_run
from fedjaxlite.cli.loading import Data
from fedjaxlite.cli.methods.arguments import set_by
from fedjaxlite.cli.settings import Settings
from fedjaxlite.cli.sweeping.axes import OPTIONS, OVERRIDES, grid, may_be_traced


def run(settings: Settings) -> fl.Sweep:
    """Trains all runs.

    Raises:
      ValueError: for whatever cannot be run; before any training.
    """
    axes = grid(settings)
    # Noise and rules decide who takes part and how they are weighed, where that is left open: for all points alike.
    noise = {name: axes[name][0] for name in ("noise_multiplier", "epsilon", "clip_norm") if name in axes}
    bad = ("robust", "before", "attack", "bad")
    noise |= {name: next((v for v in axes[name] if v is not None), None) for name in bad if name in axes}
    settings = build.filled(settings._replace(**noise))._replace(**dict.fromkeys(noise))
    share = 0.2 if settings.validation is None else settings.validation
    parse.share(validation=share)
    data, held = _held_out(build.load(settings), share, settings.seed)
    model = build.model_of(settings, data.train)
    loss_fn = build.loss_of(settings, model, data.train)
    base = settings._replace(**{n: v[0] for n, v in axes.items() if n in OPTIONS}, set=_set(settings, axes))
    evaluate = build.evaluations_of(base, loss_fn, data, model=model)
    if held is not None:
        found = build.evaluations_of(
            base._replace(per_client_eval=False), loss_fn, data._replace(test=held), model=model
        )
        # Methods with several models have several figures, of which none is taken without being asked for.
        evaluate |= {"validation" if name == "test" else f"held_{name}": value for name, value in found.items()}
    init = _init(base, loss_fn, model, data, evaluate)
    if build.method_and_facts(base, data.train, model)[0].stands_for == "clusters":
        init(jax.random.key(settings.seed))  # models that start equal are refused where they can be looked at
    return fl.sweep(
        maker(settings, loss_fn, model, data.train),
        axes,
        init=init,
        population=data.train,
        num_rounds=settings.rounds,
        seeds=[settings.seed + i for i in range(settings.seeds or (5 if settings.sweep else 1))],
        evaluate=evaluate,
        evaluate_state=_personal(base, loss_fn, model, data, evaluate),
        evaluate_every=settings.evaluate_every,
        select=settings.select,
        traced=may_be_traced(axes),
        devices=settings.devices,
        keep="nothing",
        progress=settings.progress,
    )


def _set(settings: Settings, axes: Mapping[str, list[Any]], chosen: Mapping[str, Any] | None = None) -> list[str]:
    """What --set says with the hyperparameters of a point; the first ones where none is chosen."""
    own = {name: values[0] for name, values in axes.items()} if chosen is None else dict(chosen)
    own = {name: value for name, value in own.items() if name not in OPTIONS}
    given = set_by(settings)
    both = sorted(set(given) & set(own))
    if both:
        raise ValueError(f"--set and --sweep both give {', '.join(both)}; give one.")
    return [*(settings.set or ()), *(f"{name}={value}" for name, value in own.items())]


def maker(settings: Settings, loss_fn: Any, model: Any, population: fl.Population) -> Callable[..., fl.Rounds]:
    """`make(**point)`: values as options and texts, so that all is checked; tracers as they are."""
    noise: dict[str, float | None] = {}

    def make(**point: Any) -> fl.Rounds:
        traced = {name: value for name, value in point.items() if fl.checks.is_traced(value)}
        plain = {name: value for name, value in point.items() if name not in traced}
        chosen = settings._replace(
            **{name: value for name, value in plain.items() if name in OPTIONS}, set=_set(settings, {}, plain)
        )
        noised = traced.pop("noise_multiplier", None)
        parse.positive(client_lr=chosen.client_lr, server_lr=chosen.server_lr, clip_norm=chosen.clip_norm)
        algorithm = build.algorithm_of(chosen, loss_fn, population, model=model, **traced)
        # Calibrated once for all points of one noise, and never while tracing: it builds rounds many times.
        of_noise = repr(chosen._replace(set=None, **dict.fromkeys(OVERRIDES)))
        if noised is None and of_noise not in noise:
            private_run.check(chosen)
            compose = lambda new: build.rounds_of(new, algorithm, population)  # noqa: E731
            noise[of_noise] = private_run.calibrated(chosen, compose, population.num_clients).noise_multiplier
        multiplier = noise[of_noise] if noised is None else noised
        return build.rounds_of(chosen._replace(noise_multiplier=multiplier), algorithm, population)

    return make


def _init(settings: Settings, loss_fn: Any, model: Any, data: Data, evaluate: Mapping[str, Any]) -> Callable[..., Any]:
    """`init(key)`: the first model of a seed; after a warm start, the one that public data gave, for every seed."""
    if data.public is not None:
        params, _ = build.params_of(settings, loss_fn, model, data, evaluate)
        return lambda key: params
    method, facts = build.method_and_facts(settings, data.train, model)
    arguments = methods.arguments_of(method, settings, facts)
    return lambda key: methods.first_params(method, arguments, model.init, data.train, key)


def _personal(
    settings: Settings, loss_fn: Any, model: Any, data: Data, evaluate: Mapping[str, Any]
) -> dict[str, Any] | None:
    if not settings.personal_eval:
        return None
    first = _init(settings, loss_fn, model, data, evaluate)(jax.random.key(settings.seed))
    of = lambda rounds: build.personal_evaluations_of(settings, loss_fn, data, rounds, first, model=model)["own"]  # noqa: E731
    return {"own": of}


def _held_out(data: Data, share: float, seed: int) -> tuple[Data, Mapping[str, Any] | None]:
    """The data without the clients that are held out, and these clients' examples."""
    if not share:
        return data, None
    trained, held = fl.partition.holdout_clients(data.train, fraction=share, seed=seed)
    own = data.own_test
    if own is not None:  # the same clients in the same order
        own = fl.partition.holdout_clients(own, fraction=share, seed=seed)[0]
    return data._replace(train=trained, own_test=own), dict(held.features)
