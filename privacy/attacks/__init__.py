"""Attacks: what an update, a sum of updates or a trained model gives away.

They are here to be run against one's own configuration before somebody else does.

    linear.py, labels.py   inputs of a linear layer and labels, in closed form
    gradients.py           data whose update looks like the one seen: DLG, inverting gradients
    updates.py             the attacker's model of a client
    membership.py          who was in the data, who was in the sum
    scores.py, curves.py   how well it went; figures.py draws it
"""

from fedjaxlite.privacy.attacks.curves import Roc as Roc
from fedjaxlite.privacy.attacks.curves import auc as auc
from fedjaxlite.privacy.attacks.curves import roc as roc
from fedjaxlite.privacy.attacks.curves import tpr_at_fpr as tpr_at_fpr
from fedjaxlite.privacy.attacks.figures import plot_reconstructions as plot_reconstructions
from fedjaxlite.privacy.attacks.figures import plot_roc as plot_roc
from fedjaxlite.privacy.attacks.gradients import Inversion as Inversion
from fedjaxlite.privacy.attacks.gradients import dlg as dlg
from fedjaxlite.privacy.attacks.gradients import invert_gradients as invert_gradients
from fedjaxlite.privacy.attacks.labels import idlg_label as idlg_label
from fedjaxlite.privacy.attacks.labels import label_counts as label_counts
from fedjaxlite.privacy.attacks.linear import Candidates as Candidates
from fedjaxlite.privacy.attacks.linear import invert_linear as invert_linear
from fedjaxlite.privacy.attacks.linear import linear_candidates as linear_candidates
from fedjaxlite.privacy.attacks.membership import client_scores as client_scores
from fedjaxlite.privacy.attacks.membership import confidence as confidence
from fedjaxlite.privacy.attacks.membership import lira as lira
from fedjaxlite.privacy.attacks.membership import lira_leave_one_out as lira_leave_one_out
from fedjaxlite.privacy.attacks.membership import loss_scores as loss_scores
from fedjaxlite.privacy.attacks.scores import Matching as Matching
from fedjaxlite.privacy.attacks.scores import correlation as correlation
from fedjaxlite.privacy.attacks.scores import cosine as cosine
from fedjaxlite.privacy.attacks.scores import match as match
from fedjaxlite.privacy.attacks.scores import psnr as psnr
from fedjaxlite.privacy.attacks.updates import gradient_update as gradient_update
from fedjaxlite.privacy.attacks.updates import local_update as local_update
from fedjaxlite.privacy.attacks.updates import soft_cross_entropy as soft_cross_entropy

__all__ = [
    "Candidates",
    "Inversion",
    "Matching",
    "Roc",
    "auc",
    "client_scores",
    "confidence",
    "correlation",
    "cosine",
    "dlg",
    "gradient_update",
    "idlg_label",
    "invert_gradients",
    "invert_linear",
    "label_counts",
    "linear_candidates",
    "lira",
    "lira_leave_one_out",
    "local_update",
    "loss_scores",
    "match",
    "plot_reconstructions",
    "plot_roc",
    "psnr",
    "roc",
    "soft_cross_entropy",
    "tpr_at_fpr",
]
