"""Privacy for federated learning: what the server may see, and what can be said of what it sees.

    mechanisms.py    what a chain says of its noise, for the accountant
    central/         noise on the sum: Gaussian, Laplace, adaptive clipping
    correlated/      noise that later rounds partly take back: DP-FTRL
    distributed/     noise that clients add to integers, for modular sums
    local/           noise on every update, and DP-SGD inside of a client
    masking/         masks in the round: the server sees a sum and no message
    secagg/          the protocol behind them, between processes
    accounting/      epsilon, from the program that runs
    attacks/ audit/  what leaks, measured

Every mechanism is one codec of `fl.chain`: it clips in encode, noises where its trust model says, and leaves facts on
the wire of which the accountant makes a guarantee.
"""

from fedjaxlite.privacy import accounting as accounting
from fedjaxlite.privacy import attacks as attacks
from fedjaxlite.privacy import audit as audit
from fedjaxlite.privacy import secagg as secagg
from fedjaxlite.privacy.accounting import Guarantee as Guarantee
from fedjaxlite.privacy.accounting import Report as Report
from fedjaxlite.privacy.accounting import calibrate as calibrate
from fedjaxlite.privacy.accounting import epsilon as epsilon
from fedjaxlite.privacy.accounting import examples_epsilon as examples_epsilon
from fedjaxlite.privacy.accounting import gaussian_delta as gaussian_delta
from fedjaxlite.privacy.accounting import gaussian_epsilon as gaussian_epsilon
from fedjaxlite.privacy.accounting import guarantee as guarantee
from fedjaxlite.privacy.accounting import max_rounds as max_rounds
from fedjaxlite.privacy.accounting import report as report
from fedjaxlite.privacy.accounting import running_epsilon as running_epsilon
from fedjaxlite.privacy.accounting import stop_at_epsilon as stop_at_epsilon
from fedjaxlite.privacy.central.adaptive_clip import adaptive_gaussian as adaptive_gaussian
from fedjaxlite.privacy.central.gaussian import gaussian as gaussian
from fedjaxlite.privacy.central.laplace import laplace as laplace
from fedjaxlite.privacy.correlated.codecs import banded_gaussian as banded_gaussian
from fedjaxlite.privacy.correlated.codecs import tree_gaussian as tree_gaussian
from fedjaxlite.privacy.distributed.codecs import discrete_gaussian as discrete_gaussian
from fedjaxlite.privacy.distributed.codecs import skellam as skellam
from fedjaxlite.privacy.local.dp_sgd import dp_sgd as dp_sgd
from fedjaxlite.privacy.local.dp_sgd import dp_sgd_epsilon as dp_sgd_epsilon
from fedjaxlite.privacy.local.local_dp import local_gaussian as local_gaussian
from fedjaxlite.privacy.local.local_dp import local_laplace as local_laplace
from fedjaxlite.privacy.local.priv_unit import priv_unit as priv_unit
from fedjaxlite.privacy.masking.masks import mask as mask
from fedjaxlite.privacy.masking.secure_sum import secure_sum as secure_sum
from fedjaxlite.privacy.mechanisms import ExampleMechanism as ExampleMechanism
from fedjaxlite.privacy.mechanisms import Mechanism as Mechanism
from fedjaxlite.privacy.mechanisms import Release as Release

__all__ = [
    "ExampleMechanism",
    "Guarantee",
    "Mechanism",
    "Release",
    "Report",
    "accounting",
    "adaptive_gaussian",
    "attacks",
    "audit",
    "banded_gaussian",
    "calibrate",
    "discrete_gaussian",
    "dp_sgd",
    "dp_sgd_epsilon",
    "epsilon",
    "examples_epsilon",
    "gaussian",
    "gaussian_delta",
    "gaussian_epsilon",
    "guarantee",
    "laplace",
    "local_gaussian",
    "local_laplace",
    "mask",
    "max_rounds",
    "priv_unit",
    "report",
    "running_epsilon",
    "secagg",
    "secure_sum",
    "skellam",
    "stop_at_epsilon",
    "tree_gaussian",
]
