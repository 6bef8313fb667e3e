"""Robust rules: aggregation that some lying clients cannot wreck, one file a rule; `fl.robust`.

    coordinates/    entry by entry: median, trimmed mean, MeaMed, sign votes; and the plain mean
    distances/      by distances between messages: Krum, Multi-Krum, Bulyan, MDA, MoNNA
    centers/        a point near the most of them: geometric median, centered clipping, DnC; bounds on norms
    server_data/    against what the server computes on data of its own: FLTrust, Zeno++
    before/         what is done to all messages before a rule: bucketing, nearest-neighbor mixing, adaptive clipping,
                    weights of late ones
    products.py     norms and inner products of whole messages, around a center
    by_hand.py      a rule on plain arrays, without a run
    bounds.py       how far bad clients can move a rule: what is proved
    one_of.py       a rule by a number that may be traced
    tail.py         a rule and what stands before it, run inside of another codec

What comes in: what decides how much each client's message counts, from the messages alone or from the server's own
data. A rule needs every message apart; what only clips a norm is a sum, and says so.
"""

from fedjaxlite.wire.robust.before.arc import arc as arc
from fedjaxlite.wire.robust.before.bucketing import bucketing as bucketing
from fedjaxlite.wire.robust.before.nnm import nnm as nnm
from fedjaxlite.wire.robust.before.stale_weights import stale_weights as stale_weights
from fedjaxlite.wire.robust.before.worker_momentum import worker_momentum as worker_momentum
from fedjaxlite.wire.robust.bounds import kappa_bound as kappa_bound
from fedjaxlite.wire.robust.bounds import least_kappa as least_kappa
from fedjaxlite.wire.robust.by_hand import apply as apply
from fedjaxlite.wire.robust.centers.centered_clipping import centered_clipping as centered_clipping
from fedjaxlite.wire.robust.centers.dnc import dnc as dnc
from fedjaxlite.wire.robust.centers.geometric_median import geometric_median as geometric_median
from fedjaxlite.wire.robust.centers.norm_filter import norm_filter as norm_filter
from fedjaxlite.wire.robust.coordinates.meamed import meamed as meamed
from fedjaxlite.wire.robust.coordinates.mean import mean as mean
from fedjaxlite.wire.robust.coordinates.median import median as median
from fedjaxlite.wire.robust.coordinates.rlr import rlr as rlr
from fedjaxlite.wire.robust.coordinates.trimmed_mean import trimmed_mean as trimmed_mean
from fedjaxlite.wire.robust.distances.bulyan import bulyan as bulyan
from fedjaxlite.wire.robust.distances.krum import krum as krum
from fedjaxlite.wire.robust.distances.krum import multi_krum as multi_krum
from fedjaxlite.wire.robust.distances.mda import mda as mda
from fedjaxlite.wire.robust.distances.monna import monna as monna
from fedjaxlite.wire.robust.one_of import one_of as one_of
from fedjaxlite.wire.robust.server_data.fl_trust import fl_trust as fl_trust
from fedjaxlite.wire.robust.server_data.server_client import Served as Served
from fedjaxlite.wire.robust.server_data.server_client import server_client as server_client
from fedjaxlite.wire.robust.server_data.zeno_pp import zeno_pp as zeno_pp

__all__ = [
    "Served",
    "apply",
    "arc",
    "bucketing",
    "bulyan",
    "centered_clipping",
    "dnc",
    "fl_trust",
    "geometric_median",
    "kappa_bound",
    "krum",
    "least_kappa",
    "mda",
    "meamed",
    "mean",
    "median",
    "monna",
    "multi_krum",
    "nnm",
    "norm_filter",
    "one_of",
    "rlr",
    "server_client",
    "stale_weights",
    "trimmed_mean",
    "worker_momentum",
    "zeno_pp",
]
