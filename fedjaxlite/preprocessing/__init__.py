"""Preprocessing that is computed at the clients: standardise, clip, impute, encode, as a pipeline.

    pipeline.py       steps in a row: fitted one after the other, each on what those before it made of the data
    fitted.py         what was learned: applied to populations, arrays or one example, printed, kept in a file
    step.py           what a step is; one of your own is a Step of two functions
    rows.py           rows on their way through steps
    standardize.py    mean 0 and deviation 1, of all clients together or of each by itself
    quantiles.py      columns cut to an interval between two quantiles
    impute.py         missing values filled in by mean, median, most frequent code or a number
    categories.py     codes as columns of zeros and ones
    vocabulary.py     the most frequent tokens, renumbered
    sums.py           what all of them ask clients: sums of columns through any aggregator, bounded where it has limits
    moments.py        means and deviations without the cancellation of float32
    columns.py        columns, bounds and ranges as arguments

What comes in: transformations of features whose numbers come from federated sums, under privacy where asked for, and
cost what they cost: `Fitted.computations` are for `privacy.epsilon`.
"""

from fedjaxlite.preprocessing.categories import one_hot as one_hot
from fedjaxlite.preprocessing.fitted import Fitted as Fitted
from fedjaxlite.preprocessing.impute import impute as impute
from fedjaxlite.preprocessing.pipeline import Pipeline as Pipeline
from fedjaxlite.preprocessing.pipeline import pipeline as pipeline
from fedjaxlite.preprocessing.quantiles import clip_quantiles as clip_quantiles
from fedjaxlite.preprocessing.standardize import standardize as standardize
from fedjaxlite.preprocessing.standardize import standardize_locally as standardize_locally
from fedjaxlite.preprocessing.step import Step as Step
from fedjaxlite.preprocessing.vocabulary import vocabulary as vocabulary
