"""Client rates, local steps and other hyperparameters that change from round to round, for any algorithm.

    round t:    algorithm_t = make(client_lr=client_lr(t), steps=steps(t), ...)
                clients and server compute what algorithm_t says, on a state that all rounds share

The server counts the rounds and tells clients the number. Values are traced, so all rounds are one program. The rate of
a server optimizer needs none of this: it is optax's own schedule, since its state counts the server's steps.

Sources:
  McMahan, Moore, Ramage, Hampson, Agüera y Arcas (2017), https://arxiv.org/abs/1602.05629, section 3 (CIFAR: a client
  rate that decays each round).
  Li, Huang, Yang, Wang, Zhang (2020), "On the Convergence of FedAvg on Non-IID Data", https://arxiv.org/abs/1907.02189,
  theorems 1 and 4: FedAvg needs a rate that decays.
  Mills, Hu, Min (2023), "Faster Federated Learning with Decaying Number of Local SGD Steps",
  https://arxiv.org/abs/2305.09628.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl

Schedule = Callable[[Any], Any]


class ScheduledState(NamedTuple):
    """The server's state under schedules.

    Attributes:
      inner: the algorithm's own.
      round: int32 scalar, rounds so far.
    """

    inner: Any
    round: jax.Array

    @property
    def params(self) -> Any:
        """The algorithm's model, where its own state has a field of that name."""
        return self.inner.params


class _Shared(NamedTuple):
    inner: Any
    round: jax.Array


def scheduled(make: Callable[..., fl.Algorithm], **schedules: Schedule) -> fl.Algorithm:
    """An algorithm whose hyperparameters are functions of the round.

    Args:
      make: a function of the scheduled hyperparameters, by keyword, that makes the algorithm of one round. It is called
        with traced values, so what it makes may depend on them in numbers, not in structure: the states of all rounds
        have one structure. Client rates, mu, alpha, and numbers of local steps or epochs that are the same for all
        clients may be traced; batch sizes and cohort sizes may not.
      **schedules: for each hyperparameter a function of the round (int32 scalar, from 0), such as any optax schedule.
        `steps` and `epochs` are rounded to the nearest whole number, at least 1.

    Returns:
      an `fl.Algorithm` that broadcasts the round beside what the algorithm broadcasts. Its info has the values that
      clients used, under their names. Under `Execution(max_steps=)` loops of scheduled length run to that bound.

    Raises:
      TypeError: if `make` or a schedule is no function, or `make` gives no Algorithm.
      ValueError: without a schedule.

    Example:
      >>> import optax
      >>> from fedjaxlite import algorithms
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> make = lambda client_lr, steps: algorithms.fed_avg(loss, client_optimizer=optax.sgd(client_lr), steps=steps)
      >>> scheduled(make, client_lr=optax.exponential_decay(0.1, 1, 0.99), steps=lambda t: 20 / (1 + t)).name
      'scheduled(fed_avg)'
    """
    fl.checks.is_callable(make=make, remedy="It makes the algorithm from the scheduled values.")
    fl.checks.is_function_of("round", remedy="It gives the value of a round, such as an optax schedule.", **schedules)
    if not schedules:
        raise ValueError(
            "no hyperparameter is scheduled; expected at least one, such as client_lr=optax.linear_schedule(...)."
        )
    _check_takes(make, schedules)
    first = {name: _concrete(value) for name, value in _values(schedules, 0).items()}
    template = make(**first)
    if not isinstance(template, fl.Algorithm):
        raise TypeError(f"`make` returned a {type(template).__name__}; expected an fl.Algorithm.")
    tell = template.params if template.broadcast is None else template.broadcast

    def client_update(shared: _Shared, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        values = _values(schedules, shared.round)
        output = make(**values).client_update(shared.inner, client_state, data, key)
        return output._replace(info={**output.info, **values})

    def server_update(state: ScheduledState, aggregate: fl.Aggregate, key: jax.Array) -> ScheduledState:
        inner = make(**_values(schedules, state.round)).server_update(state.inner, aggregate, key)
        return ScheduledState(inner, state.round + 1)

    return fl.Algorithm(
        lambda params: ScheduledState(template.init(params), jnp.int32(0)),
        client_update,
        server_update,
        params=lambda state: template.params(state.inner),
        broadcast=lambda state: _Shared(tell(state.inner), state.round),
        init_client=template.init_client,
        client_params=lambda shared, client_state: template.client_params(shared.inner, client_state),
        resident=lambda shared: template.resident(shared.inner),
        scalar_bounds=template.scalar_bounds,
        name=f"scheduled({template.name})",
        hparams={**template.hparams, **dict.fromkeys(schedules, "scheduled")},
        mechanisms=_stated(make, schedules, template.mechanisms),
    )


def _stated(make: Callable[..., fl.Algorithm], schedules: Mapping[str, Schedule], first: tuple[Any, ...]) -> Any:
    """What the algorithm states of noise in its local work, with "scheduled" for what is another in other rounds."""
    if not first:
        return ()
    traced: list[Any] = []

    def trace(values: dict[str, jax.Array]) -> None:
        traced.append(make(**values).mechanisms)

    jax.eval_shape(trace, _values(schedules, 0))
    return jax.tree.map(lambda own, found: "scheduled" if fl.checks.is_traced(found) else own, first, traced[0])


def _check_takes(make: Callable[..., Any], names: Any) -> None:
    try:
        inspect.signature(make).bind(**dict.fromkeys(names))
    except TypeError as error:
        takes = f"{getattr(make, '__name__', 'a function')}{inspect.signature(make)}"
        raise TypeError(
            f"`make` is {takes}, and the schedules are of {', '.join(names)}; expected a function of these keywords."
        ) from error
    except ValueError:  # no signature to read
        return


def checked_rate(**named: Any) -> Any:
    """A plain number above 0, or a schedule of rounds as it is; refuses everything else, by the argument's name."""
    ((name, rate),) = named.items()
    if callable(rate):
        fl.checks.is_function_of("round", **named)
        with jax.numpy_dtype_promotion("standard"):  # optax's own schedules mix ints and floats
            given = rate(jnp.int32(0))
        _check_given(name, given)
        return rate
    return fl.checks.positive("Or give an optax schedule by rounds.", **{name: rate})


def _values(schedules: Mapping[str, Schedule], round_number: Any) -> dict[str, jax.Array]:
    """The hyperparameters of a round, as scalars: int32 for steps and epochs, float32 else."""
    values = {}
    for name, schedule in schedules.items():
        with jax.numpy_dtype_promotion("standard"):  # optax's own schedules mix ints and floats
            given = schedule(jnp.asarray(round_number, jnp.int32))
        _check_given(name, given)
        value = jnp.asarray(given).astype(jnp.float32)
        if value.shape != ():
            raise ValueError(
                f"the schedule of `{name}` gave an array of shape {list(value.shape)}; expected one number. Reduce it, "
                "or schedule each of them under a name of its own."
            )
        whole = name in ("steps", "epochs")
        values[name] = jnp.maximum(jnp.round(value), 1.0).astype(jnp.int32) if whole else value
    return values


def _check_given(name: str, given: Any) -> None:
    if not isinstance(given, (int, float, np.ndarray, np.generic, jax.Array)):
        raise TypeError(f"the schedule of `{name}` gave {fl.checks.shown(given)}; expected one number.")


def _concrete(value: jax.Array) -> Any:
    """A Python number where there is one, which is checked as such."""
    return value if fl.checks.is_traced(value) else value.item()
