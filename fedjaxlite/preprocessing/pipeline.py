"""A pipeline of steps: fitted one after the other at the clients, then applied to anything."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

import fedjaxlite as fl
from fedjaxlite.preprocessing import fitted as fitted_of
from fedjaxlite.preprocessing import rows as rows_of
from fedjaxlite.preprocessing.fitted import Fitted
from fedjaxlite.preprocessing.step import Step, learned
from fedjaxlite.preprocessing.sums import noise_of


class Pipeline(NamedTuple):
    """Steps in order, not fitted yet; made by `pipeline`.

    Attributes:
      steps: the steps.
      column_names: for some features, what its columns are called before the first step.
    """

    steps: tuple[Step, ...]
    column_names: Mapping[str, tuple[str, ...]] = {}

    def fit(
        self,
        population: fl.Population,
        *,
        key: jax.Array | None = None,
        aggregator: fl.Aggregator | None = None,
        cohort: fl.Cohort | None = None,
        noise_key: Any = None,
        execution: fl.Execution = fl.Execution(),  # noqa: B008  (a NamedTuple, immutable)
    ) -> Fitted:
        """Learns the numbers of all steps, each on the data as the steps before it have left them.

        Args:
          population: the training data.
          key: what codecs draw that others may know; `jax.random.key(0)` if None. Nothing else is random.
          aggregator: what every sum goes through, such as that of the run; `fl.mean()` if None.
          cohort: whose data are learned from, the same for all steps; everyone if None. It must not depend on the data
            where the aggregator adds noise.
          noise_key: as in `fl.federated_sum`; None is noise from the operating system, and private.
          execution: lanes and devices.

        Returns:
          what was learned, to be applied.

        Raises:
          TypeError, ValueError: for data without a step's feature or columns, columns without a value at any client,
            an aggregator that clips or adds noise where a step has no bounds.
        """
        fl.checks.one_instance(fl.Population, "a Population", population=population)
        fl.checks.concrete("Fit a pipeline outside of jit.", population=population)
        key = jax.random.key(0) if key is None else key
        fl.checks.is_key(key=key)
        if noise_key is not None:
            fl.checks.is_key(noise_key=noise_key.key if isinstance(noise_key, fl.NoiseKeys) else noise_key)
        computations = self._computations(aggregator, execution)
        cohort = everyone(population) if cohort is None else cohort
        fl.checks.one_instance(fl.Cohort, "a Cohort, such as fl.sampling.full(n).sample(...) gives", cohort=cohort)
        features, offsets, numbers = rows_of.untouched(population.features), np.asarray(population.offsets), []
        row_shapes = {step.feature: np.shape(features.get(step.feature, ()))[1:] for step in self.steps}
        names = rows_of.first_names(self.column_names, row_shapes)
        for number, (step, computation) in enumerate(zip(self.steps, computations, strict=True)):
            found = {}
            if computation is not None:
                current = rows_of.population_like(population, features)
                found = computation(
                    current, cohort, jax.random.fold_in(key, number), noise_key=noise_of(noise_key, number)
                )
            numbers.append(learned(step, found))
            rows_of.put(step, rows_of.numbers_for(step, numbers[-1], features, offsets), features, offsets)
            rows_of.rename(step, names, numbers[-1], features)
        made = tuple(computation for computation in computations if computation is not None)
        return Fitted(self.steps, tuple(numbers), row_shapes, names, made)

    def computations(
        self,
        aggregator: fl.Aggregator | None = None,
        execution: fl.Execution = fl.Execution(),  # noqa: B008
    ) -> tuple[fl.Computation, ...]:
        """What fitting will ask clients, for `privacy.epsilon` and `privacy.calibrate` before any data are touched.

        Args:
          aggregator: what every sum is to go through.
          execution: lanes and devices.

        Returns:
          a Computation for each step that learns something; `Fitted.computations` are the same.

        Raises:
          ValueError: for an aggregator that clips or adds noise where a step has no bounds.
        """
        return tuple(made for made in self._computations(aggregator, execution) if made is not None)

    def load(self, path: str | os.PathLike[str]) -> Fitted:
        """Reads what `Fitted.save` wrote for the same steps.

        Args:
          path: the file, ".npz" or ".json".

        Returns:
          a Fitted, without computations: what they cost was paid when they ran.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: the file is something else, or of other steps.
        """
        return fitted_of.load(path, self.steps)

    def _computations(
        self, aggregator: fl.Aggregator | None, execution: fl.Execution
    ) -> tuple[fl.Computation | None, ...]:
        if aggregator is not None:
            fl.checks.one_instance(fl.Aggregator, "an Aggregator, such as fl.mean()", aggregator=aggregator)
        fl.checks.one_instance(fl.Execution, "an fl.Execution", execution=execution)
        return tuple(None if step.learn is None else step.learn(aggregator, execution) for step in self.steps)

    def __repr__(self) -> str:
        """The steps by name."""
        return f"Pipeline({', '.join(step.name for step in self.steps)})"


def pipeline(*steps: Step, column_names: Mapping[str, Any] | None = None) -> Pipeline:
    """Steps that are fitted one after the other, each on what the steps before it made of the data.

    Args:
      *steps: at least one, such as `standardize("x")`.
      column_names: for some features, a name for each column, such as `{"x": table.columns}`. Steps may then say
        `columns=["age"]`, and `Fitted.columns` tells what became of them.

    Returns:
      a Pipeline: `pipeline(...).fit(population)` learns its numbers from the clients.

    Raises:
      TypeError, ValueError: for what is no step, or none at all; for columns by name that nobody has named.

    Example:
      >>> x = np.float32([[1, np.nan], [3, 0], [11, 1], [5, 1]])
      >>> people = fl.Population.from_arrays({"x": x}, client_ids=[0, 0, 1, 1], check_finite=False)
      >>> made = pipeline(
      ...     fl.preprocessing.impute("x"),
      ...     fl.preprocessing.standardize("x", columns=["age"]),
      ...     column_names={"x": ["age", "ill"]},
      ... )
      >>> made
      Pipeline(impute('x'), standardize('x'))
      >>> made.fit(people)(people).features["x"].astype(float).round(2).tolist()
      [[-1.07, 0.67], [-0.53, 0.0], [1.6, 1.0], [0.0, 1.0]]
    """
    if not steps:
        raise ValueError("`steps` is empty; expected at least one, such as fl.preprocessing.standardize('x').")
    for number, step in enumerate(steps):
        expected = "a Step, such as fl.preprocessing.standardize('x')"
        fl.checks.one_instance(Step, expected, **{f"steps[{number}]": step})
    first = rows_of.given_names(column_names, {step.feature for step in steps})
    names, bound = dict(first), []
    for step in steps:
        known = names.get(step.feature)
        step = step.bind(known) if step.bind is not None and known is not None else step
        if known is not None and step.renamed is not None:
            names[step.feature] = step.renamed(known, {})
        bound.append(step)
    unnamed = [step for step in bound if step.bind is not None]
    if unnamed:
        raise ValueError(
            f"`columns` of {unnamed[0].name} are names, {unnamed[0].options['columns']}, and nobody said which columns "
            f"have them; pass column_names={{{unnamed[0].feature!r}: [...]}} to the pipeline."
        )
    return Pipeline(tuple(bound), first)


def everyone(population: fl.Population) -> fl.Cohort:
    """The cohort of all clients."""
    return fl.sampling.full(population.num_clients).sample(jax.random.key(0), 0, population)
