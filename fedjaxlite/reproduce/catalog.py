"""Which tables there are. A table's code is loaded when it is asked for."""

import importlib
from typing import NamedTuple

from fedjaxlite import checks
from fedjaxlite.reproduce.seeds import Arguments
from fedjaxlite.reproduce.table import Table


class Entry(NamedTuple):
    """Where a table is.

    Attributes:
      module: below `fedjaxlite.reproduce`.
      function: `function(Arguments) -> Table`.
      about: one line.
    """

    module: str
    function: str
    about: str


TABLES = {
    "mcmahan2017-table1": Entry("papers.mcmahan2017", "table1", "FedAvg: rounds by clients a round (MNIST; 2NN, CNN)"),
    "mcmahan2017-table2": Entry(
        "papers.mcmahan2017", "table2", "FedAvg: rounds by local work (MNIST CNN, Shakespeare LSTM)"
    ),
    "mcmahan2017-figure1": Entry(
        "papers.mcmahan2017_figure1", "figure1", "averaging two models, by their initialization"
    ),
    "li2020": Entry("papers.li2020", "li2020", "FedProx: stragglers dropped, or their partial work taken (synthetic)"),
    "li2020-fair": Entry("papers.li2020_fair", "li2020_fair", "q-FedAvg: accuracies over clients by q (synthetic)"),
    "karimireddy2020": Entry("papers.karimireddy2020", "karimireddy2020", "SCAFFOLD and FedAvg by similarity (digits)"),
    "ghosh2020": Entry("papers.ghosh2020", "ghosh2020", "IFCA: planted clusters found again (rotated digits)"),
    "personalization": Entry(
        "studies.personalization", "personalization", "personal models against one and none (digits)"
    ),
    "audit": Entry("studies.audit", "audit", "epsilon claimed and measured: DP-FedAvg as it should be, and with bugs"),
    "compression": Entry(
        "studies.compression", "compression", "accuracy against bytes: every codec (MNIST, Shakespeare)"
    ),
    "backdoor": Entry(
        "studies.backdoor", "backdoor", "model replacement under robust rules: success and accuracy (MNIST)"
    ),
    "clock": Entry(
        "studies.clock", "clock", "virtual seconds to an accuracy: servers that wait and servers that do not (MNIST)"
    ),
    "reddi2021": Entry("papers.reddi2021", "reddi2021", "FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi on three tasks"),
    "andrew2021": Entry("papers.andrew2021", "andrew2021", "adaptive clipping against fixed clip norms (MNIST)"),
    "kairouz2021": Entry("papers.kairouz2021", "kairouz2021", "accuracy against epsilon: DP-FedAvg, DP-FTRL (MNIST)"),
    "kairouz2021-text": Entry("papers.kairouz2021", "kairouz2021_text", "accuracy against epsilon (Shakespeare)"),
    "leak-digits": Entry("studies.leak", "leak_digits", "images put together from what a server sees (digits)"),
    "leak-mnist": Entry("studies.leak", "leak_mnist", "images put together from what a server sees (MNIST)"),
    "robust": Entry("studies.robust", "robust", "rules against attacks: attacks, rules, f, heterogeneity (MNIST)"),
    "leak-members": Entry(
        "studies.leak_members", "leak_members", "who took part, from the model and from a sum (digits)"
    ),
}


def load(name: str, given: Arguments) -> Table:
    """The table of a name, for these arguments.

    Raises:
      ValueError: for a name that is none.
    """
    if name not in TABLES:
        hint = checks.did_you_mean(name, TABLES)
        raise ValueError(f"there is no table {name!r}; expected one of {', '.join(TABLES)}.{hint}")
    entry = TABLES[name]
    module = importlib.import_module(f"fedjaxlite.reproduce.{entry.module}")
    return getattr(module, entry.function)(given)
