"""Every method held to every law, and to what it did before.

Each is compiled once; `methods/covering.py` chooses aggregators and layouts so that all pairs meet. `-m slow` runs the
variants of methods, and the whole product of methods, aggregators and layouts: about 2000 programs.
"""

import inspect
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import get_type_hints

import pytest
from methods import METHODS, covering, golden, participation
from methods.covering import AGGREGATORS, Cell
from methods.trial import LAWS, Trial, trial, with_empty_client

import fedjaxlite as fl
from fedjaxlite import algorithms, testing
from fedjaxlite.training.identity import PARTS, programs

pytestmark = pytest.mark.usefixtures("full_precision")

BY_NAME = {method.name: method for method in METHODS}
# Those whose clients and server are those of another one, which is held every day, but for an argument, an optimizer or
# which parts of the model are shared.
LIKE_ANOTHER = {
    "fed_sgd": "fed_avg",
    "fed_avg_of": "fed_avg",  # which is that of `fl.local_sgd`
    "q_fed_sgd": "q_fed_avg",
    "fed_avg_m": "fed_adam",
    "fed_adagrad": "fed_adam",
    "fed_yogi": "fed_adam",
    "fed_prox_adaptive": "fed_prox",
    "mime_lite": "mime/momentum",
    "fed_per": "fed_rep",
    "fed_bn": "fed_rep",
    "lg_fed_avg": "fed_rep",
}
# A method's first entry is held every day, its variants ("scaffold/option 1") by `-m slow`.
FIRST = list({method.name.split("/")[0]: method for method in reversed(METHODS)}.values())[::-1]
EVERYDAY = [method for method in FIRST if method.name not in LIKE_ANOTHER]
VARIANTS = [method for method in METHODS if method not in EVERYDAY]
CELLS = {**covering.assigned(EVERYDAY), **covering.assigned(VARIANTS)}
TESTS = [law for law in LAWS if law != "layout"] + ["golden", "fingerprint"]
# Programs are traced once more for their fingerprints: every day the first method of each aggregator in each layout.
TOLD = set({CELLS[method.name]: method.name for method in reversed(EVERYDAY)}.values())


@lru_cache(maxsize=1)
def held(name: str) -> Trial:
    """A method's program, which its tests share; they come one after the other."""
    return trial(BY_NAME[name], CELLS[name])


@pytest.mark.parametrize(
    ("name", "law"),
    [
        pytest.param(
            method.name, law, marks=[pytest.mark.slow] if law == "fingerprint" and method.name not in TOLD else []
        )
        for method in EVERYDAY
        for law in TESTS
    ]
    + [pytest.param(method.name, law, marks=pytest.mark.slow) for method in VARIANTS for law in TESTS],
)
def test_method(name: str, law: str) -> None:
    if law == "golden":
        check_golden(name)
    elif law == "fingerprint":
        check_fingerprint(name)
    else:
        LAWS[law](held(name))


def check_golden(name: str) -> None:
    entry = golden.entry(held(name))
    if golden.UPDATE:
        golden.update(name, entry, list(BY_NAME))
    # A quantized entry that rounds to another level on another machine moves the mean by so much.
    atol = 1e-4 if entry["aggregator"] == "quantize" else 1e-6
    golden.compare(name, entry, golden.recorded().get(name), atol=atol)


def check_fingerprint(name: str) -> None:
    """What a method computes has one fingerprint in every layout, seen through as many lanes; checkpoints rest on it."""
    here, there = held(name).reference, held(name).other
    lanes = here.run.execution.lanes
    one, two = (programs(runner.run, runner.first, runner.population, lanes) for runner in (here, there))
    assert {part: one[part] for part in PARTS} == {part: two[part] for part in PARTS}


@pytest.mark.parametrize("name", [method.name for method in METHODS if method.refuses_quantize is not None])
def test_integer_sums_are_refused_in_words(name: str) -> None:
    method = BY_NAME[name]
    population, chain = method.population(), AGGREGATORS["quantize"]()
    run = fl.rounds(method.make(), sampler=participation.sampler(population.num_clients), aggregator=chain)
    with pytest.raises((TypeError, ValueError), match=re.escape(method.refuses_quantize or "")):
        run.wire(method.params(), population)


def test_every_algorithm_has_an_entry() -> None:
    named = {method.name.split("/")[0] for method in METHODS}
    missing = [name for name in makers_of_algorithms() if name not in named]
    assert not missing, f"{missing} of fedjaxlite.algorithms have no entry in tests/methods: add one for each."


def makers_of_algorithms() -> Iterator[str]:
    for name in algorithms.__all__:
        thing = getattr(algorithms, name)
        if inspect.isfunction(thing) and get_type_hints(thing).get("return") is fl.Algorithm:
            yield name


def test_what_is_left_to_another_method_is_held_there() -> None:
    assert set(LIKE_ANOTHER.values()) <= {method.name for method in EVERYDAY}
    assert len(EVERYDAY) + len(LIKE_ANOTHER) == len(FIRST)


def test_layouts_and_aggregators_meet_in_all_pairs() -> None:
    assert {CELLS[name] for name in TOLD} == {CELLS[method.name] for method in EVERYDAY}
    met = set().union(*(covering.pairs(CELLS[method.name]) for method in EVERYDAY))
    assert covering.all_pairs() <= met, f"never met: {sorted(covering.all_pairs() - met)}"


def test_the_participations_hold_what_can_happen() -> None:
    table = participation.cohorts(6)
    which = participation.SCENARIOS.index
    reports = table.reported.sum(-1)
    assert (reports[which("everyone")] == 6).all()
    assert (reports[which("poisson")] == 0).any()
    assert (table.selected & ~table.reported)[which("stragglers")].any()
    assert ((table.work > 0) & (table.work < 1) & table.reported)[which("stragglers")].any()
    for scenario in ("stragglers", "poisson"):
        assert set.intersection(*map(set, participation.idle(6, scenario))), "somebody never reports"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "aggregator"), [(m.name, aggregator) for m in METHODS for aggregator in covering.aggregators(m)]
)
def test_method_in_every_execution(name: str, aggregator: str) -> None:
    reference = None
    for layout, way in covering.executions():
        one = trial(BY_NAME[name], Cell(aggregator, layout, way), reference)
        reference = one.reference
        for law in LAWS.values():
            law(one)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
def test_method_as_a_program(name: str) -> None:
    """Without compilation, vmapped over seeds, and differentiated."""
    method = BY_NAME[name]
    testing.check_algorithm(
        method.make(),
        method.params(),
        with_empty_client(method.population()),  # those that are told the number of clients count it
        laws=("jit", "vmap", "derivatives"),
        layouts=(),
        num_rounds=2,
        atol=method.atol,
    )
