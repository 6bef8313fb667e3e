"""Attacks: what bad clients do, to measure what a rule withstands; `fl.attacks`.

    who.py             which clients are bad
    fixed_number.py    a sampler of so many bad clients in each round
    alone/             each bad client by itself: wrappers of an algorithm
    data/              other examples and labels: label flipping
    backdoors/         triggers, and how they get into a model: poisoned data, model replacement, Neurotoxin
    together/          bad clients who see all honest messages of a round: codecs of rows before the rule
    measured/          what that did to a rule
    one_of.py          an attack by a number that may be traced

What comes in: wrappers of an algorithm, of its data or of a round's messages, pure in their keys. The engine knows none
of them: what sees the honest messages of a round is a codec of rows (`fl.restack`) before the rule.
"""

from fedjaxlite.attacks.alone.free_rider import free_rider as free_rider
from fedjaxlite.attacks.alone.gaussian import gaussian as gaussian
from fedjaxlite.attacks.alone.sign_flip import sign_flip as sign_flip
from fedjaxlite.attacks.backdoors.backdoor import backdoor as backdoor
from fedjaxlite.attacks.backdoors.dba import dba as dba
from fedjaxlite.attacks.backdoors.edge_case import edge_case as edge_case
from fedjaxlite.attacks.backdoors.model_replacement import model_replacement as model_replacement
from fedjaxlite.attacks.backdoors.neurotoxin import neurotoxin as neurotoxin
from fedjaxlite.attacks.backdoors.trigger import Trigger as Trigger
from fedjaxlite.attacks.backdoors.trigger import split_trigger as split_trigger
from fedjaxlite.attacks.backdoors.trigger import stamp as stamp
from fedjaxlite.attacks.backdoors.trigger import trigger_pattern as trigger_pattern
from fedjaxlite.attacks.backdoors.trigger import triggered as triggered
from fedjaxlite.attacks.data.label_flip import label_flip as label_flip
from fedjaxlite.attacks.fixed_number import fixed_number as fixed_number
from fedjaxlite.attacks.measured.judged import JudgedState as JudgedState
from fedjaxlite.attacks.measured.judged import judged as judged
from fedjaxlite.attacks.measured.largest_kappa import Placement as Placement
from fedjaxlite.attacks.measured.largest_kappa import largest_kappa as largest_kappa
from fedjaxlite.attacks.one_of import one_of as one_of
from fedjaxlite.attacks.together.alie import alie as alie
from fedjaxlite.attacks.together.ipm import ipm as ipm
from fedjaxlite.attacks.together.mimic import MimicState as MimicState
from fedjaxlite.attacks.together.mimic import mimic as mimic
from fedjaxlite.attacks.together.min_max import min_max as min_max
from fedjaxlite.attacks.together.min_max import min_sum as min_sum
from fedjaxlite.attacks.together.optimal import optimal_alie as optimal_alie
from fedjaxlite.attacks.together.optimal import optimal_ipm as optimal_ipm
from fedjaxlite.attacks.who import Bad as Bad
from fedjaxlite.attacks.who import is_bad as is_bad
from fedjaxlite.attacks.who import pool as pool
from fedjaxlite.attacks.who import share as share

__all__ = [
    "Bad",
    "JudgedState",
    "MimicState",
    "Placement",
    "Trigger",
    "alie",
    "backdoor",
    "dba",
    "edge_case",
    "fixed_number",
    "free_rider",
    "gaussian",
    "ipm",
    "is_bad",
    "judged",
    "label_flip",
    "largest_kappa",
    "mimic",
    "min_max",
    "min_sum",
    "model_replacement",
    "neurotoxin",
    "one_of",
    "optimal_alie",
    "optimal_ipm",
    "pool",
    "share",
    "sign_flip",
    "split_trigger",
    "stamp",
    "trigger_pattern",
    "triggered",
]
