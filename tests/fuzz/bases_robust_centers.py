"""Valid calls of rules that look for a center or compare with the server's data."""

from typing import Any

import numpy as np
from bases_engine import PEOPLE, init_rounds
from calls import Base

import fedjaxlite as fl
from fedjaxlite import robust


def as_a_rule(*codecs: fl.Aggregator) -> Any:
    """Ends the chain of rounds with a rule."""
    return init_rounds(aggregator=fl.chain(fl.mean(), *codecs))


def before_a_rule(codec: fl.Aggregator) -> Any:
    """Puts a codec before a rule, into rounds."""
    return as_a_rule(codec, robust.mean())


def use_server(served: robust.Served) -> None:
    """Draws a cohort with the server in it."""
    served.sampler.check(served.population.num_clients)


DATA = {name: np.asarray(array[:2]) for name, array in PEOPLE.features.items()}

CENTERS: dict[str, Base] = {
    "robust.geometric_median": Base(
        robust.geometric_median,
        {"tolerance": 1e-3, "smoothing": 1e-6, "max_steps": 5, "start": "mean"},
        use=as_a_rule,
        costly=True,
    ),
    "robust.centered_clipping": Base(
        robust.centered_clipping, {"clip_norm": 1.0, "steps": 2}, use=as_a_rule, costly=True
    ),
    "robust.dnc": Base(
        robust.dnc,
        {"f": 1, "c": 1.0, "steps": 1, "coordinates": 3},
        use=as_a_rule,
        words={"c": ("dnc",), "f": ("dnc",), "steps": ("dnc",)},
        costly=True,
    ),
    "robust.norm_filter": Base(robust.norm_filter, {"max_norm": 2.0}, use=before_a_rule, costly=True),
    "robust.worker_momentum": Base(robust.worker_momentum, {"beta": 0.5}, use=before_a_rule, costly=True),
    "robust.fl_trust": Base(robust.fl_trust, {"server": 1}, use=as_a_rule, costly=True),
    "robust.zeno_pp": Base(
        robust.zeno_pp, {"server": 1, "rho": 0.1, "epsilon": 0.1, "rate": 1.0}, use=as_a_rule, costly=True
    ),
    "robust.server_client": Base(
        robust.server_client,
        {"population": PEOPLE, "sampler": fl.sampling.uniform(2), "data": DATA, "name": None},
        use=use_server,
    ),
}
