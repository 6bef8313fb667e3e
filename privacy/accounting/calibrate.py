"""The inverse of epsilon: how much noise, or how many rounds, for a budget."""

from collections.abc import Callable
from typing import Any

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import conversions, curves, history, search
from fedjaxlite.privacy.accounting.curves import figures, rough_figure
from fedjaxlite.privacy.accounting.epsilon import epsilon_of, of_account, warn_of_delta
from fedjaxlite.privacy.accounting.history import Account, events_of


def calibrate(
    make_rounds: Callable[[float], Any],
    population: Any,
    *,
    epsilon: float,
    delta: float,
    num_rounds: int,
    params: Any = None,
) -> float:
    """The least noise multiplier for which a run stays within a budget.

    Args:
      make_rounds: `make_rounds(noise_multiplier)` composes the run, as `fl.rounds` returns it.
      population: the training data, or the number of clients.
      epsilon: the budget, above 0.
      delta: in (0, 1), below one over the number of clients.
      num_rounds: T.
      params: as in `privacy.epsilon`.

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
    fl.checks.is_callable(make_rounds=make_rounds)
    fl.checks.positive("It is the budget.", epsilon=epsilon)
    conversions.check_delta(delta)

    def account_at(noise_multiplier: float) -> Account:
        return history.read(make_rounds(noise_multiplier), population, params)

    account = account_at(1.0)
    warn_of_delta(delta, account.facts.num_clients)
    if 2 * curves.cut_chance(events_of(account, num_rounds)) >= delta:
        of_account(account, num_rounds, delta)  # refused: no noise can help

    def roughly(coarser: float) -> Callable[[float], float]:
        return lambda z: rough_figure(events_of(account_at(z), num_rounds), float(delta), coarser)

    return search.least_noise(
        lambda z: min(figures(events_of(account_at(z), num_rounds), float(delta))),
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
) -> int:
    """The most rounds that stay within a budget.

    Args:
      rounds: from `fl.rounds`.
      population: the training data, or the number of clients.
      epsilon: the budget, above 0.
      delta: in (0, 1), below one over the number of clients.
      params: as in `privacy.epsilon`.
      at_most: where to stop looking; also no more than the sampler and the mechanism are made for.
      state: as in `privacy.epsilon`.

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
    fl.checks.positive_int(at_most=at_most)
    fl.checks.positive("It is the budget.", epsilon=epsilon)
    conversions.check_delta(delta)
    account = history.read(rounds, population, params, state)
    warn_of_delta(delta, account.facts.num_clients)
    return rounds_within(account, float(epsilon), delta, at_most)


def rounds_within(account: Account, budget: float, delta: float, at_most: int) -> int:
    """As `max_rounds`, from what the run is made of."""
    facts, own = account.facts, account.facts.mechanism.options.get("num_rounds")
    limits = (at_most, facts.sampler.num_rounds, None if own is None else account.parts[-1].begin + own)
    most = min(int(limit) for limit in limits if limit is not None)
    # Rényi divergences are quick for any number of rounds and give too few of them: a place to begin.
    begin = search.most_rounds(lambda t: curves.renyi_figure(events_of(account, t), delta), budget, most)
    found = search.most_rounds(lambda t: epsilon_of(account, t, delta), budget, most, max(begin, 1))
    if found == 0:
        of_account(account, 1, delta)  # says so where it is the sampler's capacity
    return found
