"""fedjaxlite: federated learning as pure functions, for thousands of simulated clients in one XLA program.

    import fedjaxlite as fl
    from fedjaxlite import algorithms, privacy

Four axes that never mix: the algorithm (what clients and server compute), the aggregator (what crosses the wire), the
participation (who takes part), and the execution (on what, and how many at once).
"""

import importlib
from typing import TYPE_CHECKING, Any

from fedjaxlite import checks as checks
from fedjaxlite import distributed as distributed
from fedjaxlite import losses as losses
from fedjaxlite import metrics as metrics
from fedjaxlite import observers as observers
from fedjaxlite import partition as partition
from fedjaxlite import sampling as sampling
from fedjaxlite import systems as systems
from fedjaxlite.data.client_report import ClientReport as ClientReport
from fedjaxlite.data.client_view import Batches as Batches
from fedjaxlite.data.client_view import ClientData as ClientData
from fedjaxlite.data.client_view import client_view as client_view
from fedjaxlite.data.client_view import repeat as repeat
from fedjaxlite.data.heterogeneity import Heterogeneity as Heterogeneity
from fedjaxlite.data.heterogeneity import heterogeneity as heterogeneity
from fedjaxlite.data.population import Population as Population
from fedjaxlite.data.prepared_cohort import PreparedCohort as PreparedCohort
from fedjaxlite.data.prepared_cohort import cohort_clients as cohort_clients
from fedjaxlite.data.prepared_cohort import prepare_cohort as prepare_cohort
from fedjaxlite.evaluation.central import evaluate as evaluate
from fedjaxlite.evaluation.per_client import evaluate_clients as evaluate_clients
from fedjaxlite.evaluation.per_client import evaluate_personalized as evaluate_personalized
from fedjaxlite.evaluation.predictions import predict as predict
from fedjaxlite.execution.bytes_sent import Traffic as Traffic
from fedjaxlite.execution.cohort_pass import PassInfo as PassInfo
from fedjaxlite.execution.composition import Rounds as Rounds
from fedjaxlite.execution.composition import rounds as rounds
from fedjaxlite.execution.federated_sum import Computation as Computation
from fedjaxlite.execution.federated_sum import federated_sum as federated_sum
from fedjaxlite.execution.layout import Execution as Execution
from fedjaxlite.execution.round_state import RoundState as RoundState
from fedjaxlite.keys import NoiseKeys as NoiseKeys
from fedjaxlite.keys import noise_keys as noise_keys
from fedjaxlite.local.batch_loss import BatchLoss as BatchLoss
from fedjaxlite.local.batch_loss import batch_loss as batch_loss
from fedjaxlite.local.gradients import value_and_grad as value_and_grad
from fedjaxlite.local.local_sgd import LocalResult as LocalResult
from fedjaxlite.local.local_sgd import full_gradient as full_gradient
from fedjaxlite.local.local_sgd import local_sgd as local_sgd
from fedjaxlite.local.optimizer_check import check_optimizer as check_optimizer
from fedjaxlite.losses import LossAux as LossAux
from fedjaxlite.lowering import lower as lower
from fedjaxlite.observers import records as records
from fedjaxlite.platforms import use_cpu_cores as use_cpu_cores
from fedjaxlite.plots.who import plot_partition as plot_partition
from fedjaxlite.protocol.algorithm import Aggregate as Aggregate
from fedjaxlite.protocol.algorithm import Algorithm as Algorithm
from fedjaxlite.protocol.algorithm import ClientOutput as ClientOutput
from fedjaxlite.protocol.parameter_parts import partition_params as partition_params
from fedjaxlite.protocol.server_step import apply_delta as apply_delta
from fedjaxlite.rehearsal.plan import plan as plan
from fedjaxlite.sampling import Cohort as Cohort
from fedjaxlite.sampling import Sampler as Sampler
from fedjaxlite.sweeps.result import Sweep as Sweep
from fedjaxlite.sweeps.sweep import sweep as sweep
from fedjaxlite.training.train import train as train
from fedjaxlite.training.warm_start import warm_start as warm_start
from fedjaxlite.variables import Variables as Variables
from fedjaxlite.variables import trainable as trainable
from fedjaxlite.variables import with_state as with_state
from fedjaxlite.variables import with_trainable as with_trainable
from fedjaxlite.wire import compression as compression
from fedjaxlite.wire import robust as robust
from fedjaxlite.wire.aggregator import Aggregator as Aggregator
from fedjaxlite.wire.aggregator import Bounds as Bounds
from fedjaxlite.wire.aggregator import ClientInfo as ClientInfo
from fedjaxlite.wire.aggregator import Code as Code
from fedjaxlite.wire.aggregator import Message as Message
from fedjaxlite.wire.aggregator import Stacked as Stacked
from fedjaxlite.wire.aggregator import Wire as Wire
from fedjaxlite.wire.chain import chain as chain
from fedjaxlite.wire.clips import clip_by_global_norm as clip_by_global_norm
from fedjaxlite.wire.clips import clip_by_value as clip_by_value
from fedjaxlite.wire.clips import global_norm as global_norm
from fedjaxlite.wire.entropy import measure_entropy as measure_entropy
from fedjaxlite.wire.head import wire_of as wire_of
from fedjaxlite.wire.means import mean as mean
from fedjaxlite.wire.means import weighted_mean as weighted_mean
from fedjaxlite.wire.messages import message_from_bytes as message_from_bytes
from fedjaxlite.wire.messages import message_to_bytes as message_to_bytes
from fedjaxlite.wire.quantization import quantize as quantize
from fedjaxlite.wire.rows import Rows as Rows
from fedjaxlite.wire.rows import Shares as Shares
from fedjaxlite.wire.stacking import restack as restack
from fedjaxlite.wire.stacking import rule as rule
from fedjaxlite.wire.stacking import stack as stack

if TYPE_CHECKING:
    from fedjaxlite import algorithms as algorithms
    from fedjaxlite import attacks as attacks
    from fedjaxlite import baselines as baselines
    from fedjaxlite import datasets as datasets
    from fedjaxlite import deploy as deploy
    from fedjaxlite import interop as interop
    from fedjaxlite import models as models
    from fedjaxlite import plots as plots
    from fedjaxlite import preprocessing as preprocessing
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
    "ClientReport",
    "Code",
    "Cohort",
    "Computation",
    "Execution",
    "Heterogeneity",
    "LocalResult",
    "LossAux",
    "Message",
    "NoiseKeys",
    "PassInfo",
    "Population",
    "PreparedCohort",
    "RoundState",
    "Rounds",
    "Rows",
    "Sampler",
    "Shares",
    "Stacked",
    "Sweep",
    "Traffic",
    "Variables",
    "Wire",
    "algorithms",
    "apply_delta",
    "attacks",
    "baselines",
    "batch_loss",
    "chain",
    "check_optimizer",
    "checks",
    "client_view",
    "clip_by_global_norm",
    "clip_by_value",
    "cohort_clients",
    "compression",
    "datasets",
    "deploy",
    "distributed",
    "evaluate",
    "evaluate_clients",
    "evaluate_personalized",
    "federated_sum",
    "full_gradient",
    "global_norm",
    "heterogeneity",
    "interop",
    "local_sgd",
    "losses",
    "lower",
    "mean",
    "measure_entropy",
    "message_from_bytes",
    "message_to_bytes",
    "metrics",
    "models",
    "noise_keys",
    "observers",
    "partition",
    "partition_params",
    "plan",
    "plot_partition",
    "plots",
    "predict",
    "prepare_cohort",
    "preprocessing",
    "privacy",
    "quantize",
    "records",
    "repeat",
    "restack",
    "robust",
    "rounds",
    "rule",
    "sampling",
    "stack",
    "sweep",
    "systems",
    "testing",
    "train",
    "trainable",
    "use_cpu_cores",
    "value_and_grad",
    "warm_start",
    "weighted_mean",
    "wire_of",
    "with_state",
    "with_trainable",
]

# Loaded on first use: some of them stand above the engine, and all of them are optional to a given program.
_LAZY_MODULES = (
    "algorithms",
    "attacks",
    "baselines",
    "datasets",
    "deploy",
    "interop",
    "models",
    "plots",
    "preprocessing",
    "privacy",
    "testing",
)


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return importlib.import_module(f"fedjaxlite.{name}")
    raise AttributeError(f"module 'fedjaxlite' has no attribute {name!r}; see fedjaxlite.__all__ for what it has.")
