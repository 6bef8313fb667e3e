"""Figures of privacy are pure functions of few numbers: the tests of a module compute each of them once."""

from collections.abc import Iterator
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any

import pytest

from fedjaxlite.privacy.accounting import backend, conversions, curves


@pytest.fixture(scope="module", autouse=True)
def figures_are_computed_once() -> Iterator[None]:
    """The epsilon of every loss distribution that is asked for, kept until the end of a module."""
    composed = backend.composed_losses

    @cache
    def remembered(parts: Any, coarser: float = 1.0) -> Any:
        return SimpleNamespace(get_epsilon_for_delta=lru_cache(composed(parts, coarser).get_epsilon_for_delta))

    with pytest.MonkeyPatch.context() as patch:
        once = cache(conversions.pld_epsilon)
        patch.setattr(conversions, "pld_epsilon", once)
        patch.setattr(curves, "pld_epsilon", once)
        patch.setattr(backend, "composed_losses", remembered)
        yield
