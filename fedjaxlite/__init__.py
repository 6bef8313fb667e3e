"""fedjaxlite: federated learning as pure functions, for thousands of simulated clients in one XLA program.

    import fedjaxlite as fl
    from fedjaxlite import algorithms, privacy

Four axes that never mix: the algorithm (what clients and server compute), the aggregator (what crosses the wire), the
participation (who takes part), and the execution (on what, and how many at once).
"""

import importlib
from typing import TYPE_CHECKING, Any

from fedjaxlite import checks as checks
from fedjaxlite import losses as losses
from fedjaxlite import observers as observers
from fedjaxlite import partition as partition
from fedjaxlite import sampling as sampling
from fedjaxlite.aggregation import Aggregator as Aggregator
from fedjaxlite.aggregation import Bounds as Bounds
from fedjaxlite.aggregation import ClientInfo as ClientInfo
from fedjaxlite.aggregation import Message as Message
from fedjaxlite.aggregation import Stacked as Stacked
from fedjaxlite.aggregation import Wire as Wire
from fedjaxlite.aggregation import chain as chain
from fedjaxlite.algorithm import Aggregate as Aggregate
from fedjaxlite.algorithm import Algorithm as Algorithm
from fedjaxlite.algorithm import ClientOutput as ClientOutput
from fedjaxlite.client_data import Batches as Batches
from fedjaxlite.client_data import ClientData as ClientData
from fedjaxlite.client_data import client_view as client_view
from fedjaxlite.client_data import repeat as repeat
from fedjaxlite.codecs import clip_by_global_norm as clip_by_global_norm
from fedjaxlite.codecs import clip_by_value as clip_by_value
from fedjaxlite.codecs import global_norm as global_norm
from fedjaxlite.codecs import mean as mean
from fedjaxlite.codecs import weighted_mean as weighted_mean
from fedjaxlite.devices import use_cpu_cores as use_cpu_cores
from fedjaxlite.evaluate import evaluate as evaluate
from fedjaxlite.evaluate import evaluate_clients as evaluate_clients
from fedjaxlite.evaluate import evaluate_personalized as evaluate_personalized
from fedjaxlite.execution import Execution as Execution
from fedjaxlite.federated import PassInfo as PassInfo
from fedjaxlite.federated_sum import federated_sum as federated_sum
from fedjaxlite.gradients import BatchLoss as BatchLoss
from fedjaxlite.gradients import batch_loss as batch_loss
from fedjaxlite.gradients import value_and_grad as value_and_grad
from fedjaxlite.heterogeneity import Heterogeneity as Heterogeneity
from fedjaxlite.heterogeneity import heterogeneity as heterogeneity
from fedjaxlite.heterogeneity import plot_partition as plot_partition
from fedjaxlite.local import LocalResult as LocalResult
from fedjaxlite.local import full_gradient as full_gradient
from fedjaxlite.local import local_sgd as local_sgd
from fedjaxlite.losses import LossAux as LossAux
from fedjaxlite.lowering import lower as lower
from fedjaxlite.optimizers import check_optimizer as check_optimizer
from fedjaxlite.partitioned import partition_params as partition_params
from fedjaxlite.plan import plan as plan
from fedjaxlite.population import Population as Population
from fedjaxlite.prepared import PreparedCohort as PreparedCohort
from fedjaxlite.prepared import prepare_cohort as prepare_cohort
from fedjaxlite.program import Traffic as Traffic
from fedjaxlite.quantization import quantize as quantize
from fedjaxlite.rounds import Rounds as Rounds
from fedjaxlite.rounds import rounds as rounds
from fedjaxlite.sampling import Cohort as Cohort
from fedjaxlite.sampling import Sampler as Sampler
from fedjaxlite.server import apply_delta as apply_delta
from fedjaxlite.stacking import stack as stack
from fedjaxlite.state import RoundState as RoundState
from fedjaxlite.train import train as train
from fedjaxlite.variables import Variables as Variables
from fedjaxlite.variables import trainable as trainable
from fedjaxlite.variables import with_state as with_state
from fedjaxlite.variables import with_trainable as with_trainable
from fedjaxlite.warm_start import warm_start as warm_start

if TYPE_CHECKING:
    from fedjaxlite import algorithms as algorithms
    from fedjaxlite import datasets as datasets
    from fedjaxlite import models as models
    from fedjaxlite import plots as plots
    from fedjaxlite import privacy as privacy
    from fedjaxlite import testing as testing

__version__ = "0.1.0"

__all__ = [
    "Aggregate",
    "Aggregator",
    "Algorithm",
    "BatchLoss",
    "Batches",
    "Bounds",
    "ClientData",
    "ClientInfo",
    "ClientOutput",
    "Cohort",
    "Execution",
    "Heterogeneity",
    "LocalResult",
    "LossAux",
    "Message",
    "PassInfo",
    "Population",
    "PreparedCohort",
    "RoundState",
    "Rounds",
    "Sampler",
    "Stacked",
    "Traffic",
    "Variables",
    "Wire",
    "algorithms",
    "apply_delta",
    "batch_loss",
    "chain",
    "check_optimizer",
    "checks",
    "client_view",
    "clip_by_global_norm",
    "clip_by_value",
    "datasets",
    "evaluate",
    "evaluate_clients",
    "evaluate_personalized",
    "federated_sum",
    "full_gradient",
    "global_norm",
    "heterogeneity",
    "local_sgd",
    "losses",
    "lower",
    "mean",
    "models",
    "observers",
    "partition",
    "partition_params",
    "plan",
    "plot_partition",
    "plots",
    "prepare_cohort",
    "privacy",
    "quantize",
    "repeat",
    "rounds",
    "sampling",
    "stack",
    "testing",
    "train",
    "trainable",
    "use_cpu_cores",
    "value_and_grad",
    "warm_start",
    "weighted_mean",
    "with_state",
    "with_trainable",
]

# Loaded on first use: some of them stand above the engine, and all of them are optional to a given program.
_LAZY_MODULES = ("algorithms", "datasets", "models", "plots", "privacy", "testing")


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return importlib.import_module(f"fedjaxlite.{name}")
    raise AttributeError(f"module 'fedjaxlite' has no attribute {name!r}; see fedjaxlite.__all__ for what it has.")
