"""A run without rules and attacks has nothing of them in its program: none of their code is asked when it is traced."""

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import helpers
import jax
import pytest

import fedjaxlite as fl
from fedjaxlite import attacks, privacy
from fedjaxlite.execution import cohort_pass
from fedjaxlite.wire import rows, stacking

ROOMS = ("fedjaxlite.attacks", "fedjaxlite.wire.robust", "fedjaxlite.execution.side_by_side")
PARAMS = helpers.linear_params()
CHAINS: dict[str, Callable[[], fl.Aggregator]] = {
    "mean": fl.mean,
    "quantize": lambda: fl.chain(fl.weighted_mean(weight_cap=256), fl.clip_by_global_norm(1.0), fl.quantize(bits=8)),
    "gaussian": lambda: fl.chain(fl.mean(over=4), privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)),
    "mask": lambda: fl.chain(fl.mean(over=4), fl.clip_by_value(1.0), fl.quantize(bits=8), privacy.mask()),
}


def _lowered(chain: fl.Aggregator, algorithm: fl.Algorithm) -> str:
    run = fl.rounds(
        algorithm,
        sampler=fl.sampling.uniform(4),
        aggregator=chain,
        execution=fl.Execution(lanes=2, devices=helpers.available(2)),
    )
    people, key = helpers.regression(), jax.random.key(0)
    state = jax.eval_shape(lambda: run.init(PARAMS, people, key=key, noise_key=key, cohort_key=key))
    return run.lower(state, people).as_text()


def _refuse(*args: Any, **options: Any) -> Any:
    raise AssertionError("code of rules or attacks was asked")


def _without_rules(patch: pytest.MonkeyPatch) -> None:
    """Breaks every function of the rooms of rules and attacks, and the engine's own for messages side by side."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(ROOMS)]
    for module in [*modules, rows, stacking, attacks]:
        for name, thing in list(vars(module).items()):
            if inspect.isfunction(thing) and thing.__module__.startswith((*ROOMS, rows.__name__, stacking.__name__)):
                patch.setattr(module, name, _refuse)
    for name in ("held_by", "room", "rows_on_devices", "Stacked"):
        patch.setattr(cohort_pass, name, _refuse)


@pytest.mark.parametrize(("name", "stateful"), [(name, False) for name in CHAINS] + [("mean", True)])
def test_no_code_of_rules_has_a_part_in_it(name: str, stateful: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = helpers.scaffold() if stateful else helpers.fed_avg()
    chain = CHAINS[name]()
    _without_rules(monkeypatch)
    text = _lowered(chain, algorithm)
    assert "all_to_all" not in text
    assert "all_reduce" in text or helpers.available(2) == 1


def test_a_rule_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = fl.chain(fl.mean(), fl.robust.mean())
    assert "all_to_all" in _lowered(chain, helpers.fed_avg()) or helpers.available(2) == 1
    _without_rules(monkeypatch)
    with pytest.raises(AssertionError, match="code of rules or attacks was asked"):
        _lowered(chain, helpers.fed_avg())


def test_rooms_of_rules_were_loaded() -> None:
    loaded = [name for name in sys.modules if name.startswith(ROOMS)]
    assert len(loaded) > 10
    assert all(isinstance(sys.modules[name], ModuleType) for name in loaded)
