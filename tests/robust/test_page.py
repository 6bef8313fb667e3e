"""The page on rules and attacks leaves none out, and its figures are those of the library."""

import inspect
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.cli import robust as by_name

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "robustness.md").read_text()
F = 2


def table(section: str) -> list[list[str]]:
    """The cells of the first table of a section, without its head."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [re.split(r"\s*\|\s*", line)[1:-1] for line in text.splitlines() if line.startswith("| ")]
    return rows[2:]


def names(section: str) -> set[str]:
    return {name for row in table(section) for name in re.findall(r"`(\w+)", row[0])}


def evaluated(formula: str, *, n: int, f: int) -> float:
    """A formula of the page as a number."""
    text = formula.replace("²", "**2").replace(" - ", "-")
    text = re.sub(r"(?<=[\w)]) (?=[\w(])", "*", text)  # 4 (1 + r)
    return eval(text, {"__builtins__": {}}, {"n": n, "f": f, "r": f / (n - 2 * f)})


def test_no_rule_and_no_attack_is_left_out() -> None:
    of_servers = {"fl_trust", "zeno_pp"}
    assert names("The rules") == {*by_name.rules(), *of_servers}
    assert names("Before a rule") == {*by_name.steps_before()}
    assert names("The attacks") == {*by_name.attacks(), "edge_case"}


@pytest.mark.parametrize("row", table("The rules"), ids=lambda row: row[0].strip("`"))
def test_a_rule_is_defined_for_as_many_clients_as_the_page_says(row: list[str]) -> None:
    rule = made(row[0])
    text = row[2]
    least = 3 if text == "threshold" else int(evaluated(text, n=9, f=F))
    build(rule, least)
    if least > 1:
        with pytest.raises(ValueError, match=f"needs at least {least} "):
            build(rule, least - 1)


@pytest.mark.parametrize("row", table("The rules"), ids=lambda row: row[0].strip("`"))
@pytest.mark.parametrize(("n", "f"), [(11, 1), (11, 2), (15, 3)])
def test_bounds_of_rules_are_those_of_the_library(row: list[str], n: int, f: int) -> None:
    rule = made(row[0], f)
    if rule.name in ("fl_trust", "zeno_pp", "centered_clipping", "monna", "rlr", "dnc", "bulyan"):
        assert fl.robust.kappa_bound(rule, n=n, f=f) is None
        return
    found = fl.robust.kappa_bound(rule, n=n, f=f)
    if row[3] == "none":
        assert found == np.inf
    elif row[3].startswith("as "):
        assert found == fl.robust.kappa_bound("krum", n=n, f=f)
    else:
        told = [evaluated(part, n=n, f=f) for part in row[3].removeprefix("the less of ").split(" and ")]
        assert found == pytest.approx(min(told))


def test_what_stands_before_a_rule_makes_its_bound() -> None:
    for row in table("Before a rule"):
        if "κ" in row[3]:
            name = re.findall(r"`(\w+)", row[0])[0]
            kappa = fl.robust.kappa_bound("median", n=11, f=2)
            told = evaluated(row[3].replace("κ", str(kappa)), n=11, f=2)
            assert fl.robust.kappa_bound([name, "median"], n=11, f=2) == pytest.approx(told)


def test_rules_that_take_weights_are_said_to() -> None:
    for row in table("The rules"):
        rule = made(row[0])
        head = fl.chain(fl.weighted_mean(), rule)
        if row[4] == "yes":
            head.init(fl.wire_of(jnp.zeros(3), capacity=11))
        else:
            with pytest.raises(ValueError, match="takes no weights"):
                head.init(fl.wire_of(jnp.zeros(3), capacity=11))
        if "weighted=True" in row[4]:
            weighted = getattr(fl.robust, rule.name)(**{**dict(rule.hparams), "weighted": True})
            fl.chain(fl.weighted_mean(), weighted).init(fl.wire_of(jnp.zeros(3), capacity=11))


def made(cell: str, f: int = F) -> Any:
    """The rule of a row, such as `krum(f=, neighbors="byzfl")`."""
    name, words = re.match(r"`(\w+)\((.*)\)`", cell).groups()  # type: ignore[union-attr]
    function = getattr(fl.robust, name)
    needed = [key for key, one in inspect.signature(function).parameters.items() if one.default is one.empty]
    given: dict[str, Any] = {key: {"f": f, "threshold": 3}.get(key, 1) for key in needed}
    given |= dict(re.findall(r'(\w+)="(\w+)"', words))
    return function(**given)


def build(rule: fl.Aggregator, capacity: int) -> None:
    wire = fl.wire_of(jnp.zeros(3), capacity=capacity, weight=np.float32(1))
    fl.chain(fl.mean(), rule).init(wire)
