"""Which public functions there are, which arguments a call of them may have, and mutations of these."""

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

from bases_algorithms import ALGORITHMS
from bases_attacks import ATTACKS
from bases_backdoors import BACKDOORS
from bases_compression import COMPRESSION
from bases_deploy import DEPLOY
from bases_engine import ENGINE
from bases_formats import FORMATS
from bases_metrics import METRICS
from bases_on_disk import ON_DISK
from bases_preprocessing import PREPROCESSING
from bases_privacy import PRIVACY
from bases_robust_centers import CENTERS
from bases_robust_coordinates import ROBUST_COORDINATES
from bases_robust_distances import ROBUST_DISTANCES
from bases_robust_grid import ROBUST_GRID
from bases_robust_seam import SEAM
from bases_sweeps import SWEEPS
from bases_systems import SYSTEMS
from bases_tables import TABLES
from calls import Base
from odd_values import ODD, TRACED

import fedjaxlite as fl
from fedjaxlite import (
    algorithms,
    baselines,
    compression,
    losses,
    metrics,
    models,
    partition,
    preprocessing,
    privacy,
    sampling,
    systems,
)

BASES: dict[str, Base] = {
    **ENGINE,
    **COMPRESSION,
    **ALGORITHMS,
    **PRIVACY,
    **TABLES,
    **FORMATS,
    **ON_DISK,
    **PREPROCESSING,
    **SWEEPS,
    **SYSTEMS,
    **DEPLOY,
    **METRICS,
    **CENTERS,
    **SEAM,
    **ATTACKS,
    **BACKDOORS,
    **ROBUST_COORDINATES,
    **ROBUST_DISTANCES,
    **ROBUST_GRID,
}

LABELS = (*ODD, *TRACED)

MODULES: dict[str, ModuleType] = {
    "": fl,
    "datasets.": fl.datasets,
    "deploy.": fl.deploy,
    "deploy.device.": fl.deploy.device,
    "distributed.": fl.distributed,
    "interop.": fl.interop,
    "sampling.": sampling,
    "systems.": systems,
    "systems.service.": systems.service,
    "systems.staleness.": systems.staleness,
    "partition.": partition,
    "models.": models,
    "losses.": losses,
    "metrics.": metrics,
    "baselines.": baselines,
    "algorithms.": algorithms,
    "attacks.": fl.attacks,
    "algorithms.analytics.": algorithms.analytics,
    "algorithms.lora.": algorithms.lora,
    "compression.": compression,
    "robust.": fl.robust,
    "preprocessing.": preprocessing,
    "privacy.": privacy,
    "privacy.accounting.": privacy.accounting,
    "privacy.attacks.": privacy.attacks,
    "privacy.audit.": privacy.audit,
    "privacy.secagg.": privacy.secagg,
}

FILES_AND_PICTURES = "writes files or draws pictures; it has tests of its own"
RECORD = "a record that the library fills in, or a bundle that `fl.rounds` and its like look at"
WITH_FUNCTIONS_AROUND = "a step of a protocol, with states that only the step before makes"
LEFT_OUT = {
    **dict.fromkeys(("plan", "plot_partition", "train", "use_cpu_cores"), FILES_AND_PICTURES),
    **dict.fromkeys(("privacy.attacks.plot_reconstructions", "privacy.attacks.plot_roc"), FILES_AND_PICTURES),
    **dict.fromkeys(
        ("trainable", "with_state", "with_trainable", "algorithms.lora.merge"), "takes pytrees as they are, under jit"
    ),
    **dict.fromkeys(
        ("compression.rotate", "compression.rotate_back", "compression.walsh_hadamard"),
        "takes a vector as it is, under jit",
    ),
    "distributed.initialize": "acts on the process as a whole; what it refuses has tests of its own",
    "datasets.load": "passes its options on to a data set; its errors have tests of their own",
    "datasets.from_array_record": "reads by a package that need not be there; its errors have tests of their own",
    "metrics.total": "takes arrays as they are, under jit",
    "compression.downlink": "takes its codecs by place; the base of this name gives them",
    "privacy.secagg.answer": WITH_FUNCTIONS_AROUND,
    "robust.apply": "takes arrays as they are, under jit",
    "robust.mean": "takes no arguments",
    "systems.staleness.constant": "takes no arguments",
    "systems.staleness.told": "takes no arguments",
    **dict.fromkeys(
        ("systems.seconds_of", "systems.is_there", "systems.seconds_left", "systems.seconds_until"),
        "takes arrays as they are, under jit",
    ),
    "deploy.serve": "a server, which listens until its run is over; its errors have tests of their own",
    **dict.fromkeys(
        [f"deploy.device.{name}" for name in ("enroll", "join", "program_for", "evaluate", "dry_run")],
        "runs on a device, on its folder, which has no checks of arguments; what it refuses has tests of its own",
    ),
    "privacy.secagg.SecureAggregationError": "an error",
}
"""Public functions that no call is made of, and why."""


def public() -> Iterator[tuple[str, Any]]:
    """Every public name that can be called, with what it is."""
    for prefix, module in MODULES.items():
        own = getattr(module, "__all__", None)
        for name in vars(module) if own is None else own:
            found = getattr(module, name)
            home = getattr(found, "__module__", "")
            at_home = home.startswith("fedjaxlite") if own else home == module.__name__ and not name.startswith("_")
            if callable(found) and at_home:
                yield prefix + name, found


def is_record(found: Any) -> bool:
    """Whether a name is a type: what it holds is checked where it is used."""
    return inspect.isclass(found)


def arguments_of(base: Base) -> tuple[str, ...]:
    """The names of what a call can be given; those of `**options` are named by the base."""
    parameters = inspect.signature(base.function).parameters.values()
    plain = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return tuple(dict.fromkeys([*plain, *base.arguments]))


def takes_any_keyword(base: Base) -> bool:
    """Whether every keyword means something: the names of schedules, of optimizers."""
    return base.function in (algorithms.scheduled, fl.check_optimizer)


class Mutation(NamedTuple):
    """A valid call with odd values for some arguments.

    Attributes:
      name: of the function, a key of `BASES`.
      odd: for some arguments, the label of an odd value.
      misspelled: a keyword that the function does not have, or None.
    """

    name: str
    odd: dict[str, str]
    misspelled: str | None = None


def every_single() -> list[Mutation]:
    """Each argument of each function with each odd value, and each function with a misspelled keyword."""
    calls = [
        Mutation(name, {argument: label})
        for name, base in BASES.items()
        for argument in arguments_of(base)
        for label in LABELS
    ]
    return calls + [Mutation(name, {}, "epoch") for name, base in BASES.items() if not takes_any_keyword(base)]
