"""Calls with odd arguments: each works, or is refused by an error of the library's own that names the argument.

The everyday suite makes a slice of them; `make slow` makes more than 10,000 and prints how they ended.
"""

import inspect
import random
from collections import Counter
from collections.abc import Iterator

import hypothesis
import jax
import pytest
from calls import Verdict, judged
from helpers import some_often
from hypothesis import strategies as st
from mutations import (
    BASES,
    LABELS,
    LEFT_OUT,
    Mutation,
    arguments_of,
    every_single,
    is_record,
    public,
    takes_any_keyword,
)

SLICE, COSTLY, SLOW, PAIRS = 800, 50, 12_000, 2000


@pytest.fixture(autouse=True)
def _whole_tracebacks() -> Iterator[None]:
    """JAX hides its own frames by default: an error of its own would look like one of the library's."""
    before = jax.config.values["jax_traceback_filtering"]
    jax.config.update("jax_traceback_filtering", "off")
    yield
    jax.config.update("jax_traceback_filtering", before)


def told(found: list[tuple[Mutation, Verdict]]) -> str:
    return "\n".join(f"{v.kind}: {m.name} with {m.odd} {m.misspelled or ''}: {v.detail}" for m, v in found[:40])


def run(mutations: list[Mutation]) -> Counter[str]:
    """Makes the calls; fails with all that ended badly."""
    verdicts = [(m, judged(BASES[m.name], m.name, m.odd, m.misspelled)) for m in mutations]
    bad = [(m, v) for m, v in verdicts if not v.good]
    assert not bad, f"{len(bad)} of {len(mutations)} calls ended badly:\n{told(bad)}"
    return Counter(v.kind for _, v in verdicts)


def test_every_public_function_is_fuzzed_or_left_out_for_a_reason() -> None:
    functions = {id(inspect.unwrap(base.function)) for base in BASES.values()}
    missing = [
        name for name, found in public() if not is_record(found) and name not in LEFT_OUT and id(found) not in functions
    ]
    assert missing == []


@pytest.mark.parametrize("name", some_often(sorted(name for name, base in BASES.items() if not base.costly), 3))
def test_the_calls_that_mutations_start_from_work(name: str) -> None:
    verdict = judged(BASES[name], name, {})
    assert verdict.kind == "works", verdict


def test_a_slice_of_odd_calls_works_or_is_refused_by_name() -> None:
    chosen = random.Random(0).sample(every_single(), k=3 * SLICE)
    cheap = [m for m in chosen if not BASES[m.name].costly][:SLICE]
    costly = [m for m in chosen if BASES[m.name].costly][:COSTLY]
    assert run(cheap + costly)["refused"] > SLICE / 2


@st.composite
def pairs(draw: st.DrawFn) -> Mutation:
    """Two arguments of a call at once."""
    name = draw(st.sampled_from(sorted(name for name, base in BASES.items() if arguments_of(base))))
    arguments = st.lists(st.sampled_from(arguments_of(BASES[name])), min_size=1, max_size=2, unique=True)
    return Mutation(name, {argument: draw(st.sampled_from(LABELS)) for argument in draw(arguments)})


@hypothesis.settings(max_examples=40)
@hypothesis.given(pairs())
def test_two_odd_arguments_at_once(mutation: Mutation) -> None:
    run([mutation])


def test_a_misspelled_keyword_is_reported_against_the_function_that_was_called() -> None:
    run([Mutation(name, {}, "epoch") for name, base in BASES.items() if not takes_any_keyword(base)])


@pytest.mark.slow
def test_many_odd_calls_work_or_are_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    every = every_single()
    counts = run(random.Random(1).sample(every, k=SLOW))
    with capsys.disabled():
        print(f"\n{SLOW} of {len(every)} calls: {dict(counts)}; 0 foreign, unnamed, nonsense or without an answer")


@pytest.mark.slow
@hypothesis.settings(max_examples=PAIRS)
@hypothesis.given(pairs())
def test_many_pairs_of_odd_arguments(mutation: Mutation) -> None:
    run([mutation])
