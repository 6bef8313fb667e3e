"""Valid calls of the steps of preprocessing, and of pipelines of them."""

from typing import Any

import numpy as np
from bases_engine import COHORT, KEY, ONE, PEOPLE
from calls import Base

from fedjaxlite import preprocessing


def use_step(step: Any) -> None:
    """Makes what a step asks clients, and applies it where it asks nothing."""
    made = preprocessing.pipeline(step)
    if not made.computations():
        made.fit(PEOPLE)


def use_fitted(fitted: Any) -> None:
    """Applies what was learned, and prints it."""
    fitted(PEOPLE)
    repr(fitted)


GIVEN = preprocessing.pipeline(preprocessing.impute("x", by=0.0))
FITTED = GIVEN.fit(PEOPLE)

STEPS = {
    "standardize": Base(preprocessing.standardize, {"feature": "x"}, use=use_step),
    "standardize_locally": Base(
        preprocessing.standardize_locally,
        {"feature": "x", "min_examples": 2},
        use=use_step,
        words={"feature": ("the feature",)},
    ),
    "clip_quantiles": Base(preprocessing.clip_quantiles, {"feature": "x", "low": 0.1, "high": 0.9}, use=use_step),
    "impute": Base(preprocessing.impute, {"feature": "x", "by": "mean"}, use=use_step),
    "one_hot": Base(
        preprocessing.one_hot,
        {"feature": "label", "codes": (0, 2)},
        use=use_step,
        words={"codes": ("categories",), "categories": ("codes",)},
    ),
    "vocabulary": Base(preprocessing.vocabulary, {"feature": "label", "size": 2, "num_ids": 3}, use=use_step),
    "pipeline": Base(
        preprocessing.pipeline,
        {"*": (preprocessing.standardize("x", columns=["b"]),), "column_names": {"x": ["a", "b", "c"]}},
        use=lambda made: made.computations(),
        words={"*": ("steps",), "column_names": ("columns",)},
    ),
    "Pipeline.fit": Base(
        GIVEN.fit,
        {"population": PEOPLE, "key": KEY, "cohort": COHORT, "execution": ONE},
        use=use_fitted,
    ),
    "Pipeline.computations": Base(preprocessing.pipeline(preprocessing.standardize("x")).computations, {}),
    "Fitted": Base(
        FITTED.__call__,
        {"data": {"x": np.ones((2, 3), np.float32)}},
        words={"data": ("feature",)},
    ),
}
PREPROCESSING: dict[str, Base] = {f"preprocessing.{name}": base for name, base in STEPS.items()}
