"""The inverse of epsilon: how much noise, or how many rounds, for a budget."""

from collections.abc import Callable
from typing import Any

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import conversions, curves, search, subjects
from fedjaxlite.privacy.accounting.curves import figures, rough_figure
from fedjaxlite.privacy.accounting.epsilon import epsilon_of, of_subjects, warn_of_delta
from fedjaxlite.privacy.accounting.subjects import Subjects, Unit, events_of


def calibrate(
    make_rounds: Callable[[float], Any],
    population: Any,
    *,
    epsilon: float,
    delta: float,
    num_rounds: int | None = None,
    params: Any = None,
    unit: Unit | None = None,
) -> float:
    """The least noise multiplier for which a run stays within a budget.

    Args:
      make_rounds: `make_rounds(noise_multiplier)` composes the run, as `fl.rounds` returns it; or a computation, or a
        sequence, as `privacy.epsilon` takes them.
      population: the training data, or the number of clients.
      epsilon: the budget, above 0.
      delta: in (0, 1), below one over the number of clients.
      num_rounds: as in `privacy.epsilon`.
      params: as in `privacy.epsilon`.
      unit: as in `privacy.epsilon`. For examples the budget is that of the client which is protected least.

    Returns:
      a noise multiplier, to five digits; `privacy.epsilon` of its run is at most `epsilon`.

    Raises:
      TypeError, ValueError: for arguments out of range, and where no noise is enough.
      ModuleNotFoundError: dp-accounting is not installed.

    Warns:
      UserWarning: delta is one over the number of clients or more.

    Example:
      >>> import optax
      >>> from fedjaxlite import algorithms, privacy
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> algorithm = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.2), batch_size=None)
      >>> def make_rounds(noise_multiplier):
      ...     noised = privacy.gaussian(clip_norm=1.0, noise_multiplier=noise_multiplier)
      ...     return fl.rounds(
      ...         algorithm, sampler=fl.sampling.full(100), aggregator=fl.chain(fl.mean(over=100), noised)
      ...     )
      >>> round(calibrate(make_rounds, 100, epsilon=1.0, delta=1e-6, num_rounds=1), 4)
      4.2247
    """
    fl.checks.is_function_of("noise_multiplier", make_rounds=make_rounds)
    epsilon = fl.checks.positive("It is the budget.", epsilon=fl.checks.concrete(epsilon=epsilon))
    delta = conversions.check_delta(delta)

    def read(noise_multiplier: float) -> Subjects:
        return subjects.read(make_rounds(noise_multiplier), population, num_rounds, params, unit)

    found = read(1.0)
    warn_of_delta(delta, found)
    if 2 * curves.cut_chance(events_of(found)) >= delta:
        of_subjects(found, delta)  # refused: no noise can help

    def roughly(coarser: float) -> Callable[[float], float]:
        return lambda z: rough_figure(events_of(read(z)), float(delta), coarser)

    return search.least_noise(
        lambda z: min(figures(events_of(read(z)), float(delta))),
        float(epsilon),
        # Losses on a grid 8 times as coarse give nearly the same epsilon in an eighth of the time.
        [(roughly(64.0), 1e-3), (roughly(8.0), 2e-5)],
    )


def max_rounds(
    rounds: Any,
    population: Any,
    *,
    epsilon: float,
    delta: float,
    params: Any = None,
    at_most: int = 1_000_000,
    state: Any = None,
    unit: Unit | None = None,
) -> int:
    """The most rounds that stay within a budget.

    Args:
      rounds: from `fl.rounds`, or a computation, whose calls are counted.
      population: the training data, or the number of clients.
      epsilon: the budget, above 0.
      delta: in (0, 1), below one over the number of clients.
      params: as in `privacy.epsilon`.
      at_most: where to stop looking; also no more than the sampler and the mechanism are made for.
      state: as in `privacy.epsilon`.
      unit: as in `privacy.epsilon`.

    Returns:
      a number of rounds from 0, where the first round alone costs more, to `at_most`. It counts from the run's
      beginning, rounds of other compositions behind the state included.

    Raises:
      TypeError, ValueError, ModuleNotFoundError: as `privacy.epsilon`.

    Warns:
      UserWarning: delta is one over the number of clients or more.

    Example:
      >>> import optax
      >>> from fedjaxlite import algorithms, privacy
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> rounds = fl.rounds(
      ...     algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.2), batch_size=None),
      ...     sampler=fl.sampling.full(100),
      ...     aggregator=fl.chain(fl.mean(over=100), privacy.gaussian(clip_norm=1.0, noise_multiplier=20.0)),
      ... )
      >>> max_rounds(rounds, 100, epsilon=4.3772, delta=1e-5)
      400
    """
    at_most = fl.checks.positive_int(at_most=at_most)
    epsilon = fl.checks.positive("It is the budget.", epsilon=fl.checks.concrete(epsilon=epsilon))
    delta = conversions.check_delta(delta)
    found = subjects.read(rounds, population, 1, params, unit, state)
    warn_of_delta(delta, found)
    return rounds_within(found, float(epsilon), delta, at_most)


def rounds_within(found: Subjects, budget: float, delta: float, at_most: int) -> int:
    """As `max_rounds`, from what a single run or computation is made of."""
    (account,) = found.accounts
    last, limits = account.last, [at_most, account.last.sampler.num_rounds]
    if found.unit == "client" and last.facts is not None and not account.num_sums:
        own = last.facts.mechanism.options.get("num_rounds")
        limits.append(None if own is None else last.begin + own)
    most = min(int(limit) for limit in limits if limit is not None)
    events = lambda t: events_of(found.lasting(t))  # noqa: E731
    # Rényi divergences are quick for any number of rounds and give too few of them: a place to begin.
    begin = search.most_rounds(lambda t: curves.renyi_figure(events(t), delta), budget, most)
    within = search.most_rounds(lambda t: epsilon_of(found.lasting(t), delta), budget, most, max(begin, 1))
    if within == 0:
        of_subjects(found.lasting(1), delta)  # says so where it is the sampler's capacity
    return within
