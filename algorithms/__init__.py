"""Federated algorithms, one file a method; each is built from public `fedjaxlite` names only.

Every function here returns an `fl.Algorithm`, and takes the loss first and hyperparameters by the paper's names, but
for the few beside: `analytics` (sums over clients without a model), `lora` (adapters), `by_name`, `last_layer` and
`norm_layers` (which leaves of a model), and what single methods need (`ifca_init`, `k_means_init`, `reconstruct`).
"""

from fedjaxlite.algorithms.groups_and_fairness.afl import afl as afl
from fedjaxlite.algorithms.groups_and_fairness.afl import project_to_simplex as project_to_simplex
from fedjaxlite.algorithms.groups_and_fairness.ifca import hyp_cluster as hyp_cluster
from fedjaxlite.algorithms.groups_and_fairness.ifca import ifca as ifca
from fedjaxlite.algorithms.groups_and_fairness.ifca import ifca_init as ifca_init
from fedjaxlite.algorithms.groups_and_fairness.q_fed_avg import q_fed_avg as q_fed_avg
from fedjaxlite.algorithms.groups_and_fairness.q_fed_avg import q_fed_sgd as q_fed_sgd
from fedjaxlite.algorithms.groups_and_fairness.term import term as term
from fedjaxlite.algorithms.low_communication.di_lo_co import di_lo_co as di_lo_co
from fedjaxlite.algorithms.low_communication.streaming_di_lo_co import streaming_di_lo_co as streaming_di_lo_co
from fedjaxlite.algorithms.one_model.fed_avg import fed_avg as fed_avg
from fedjaxlite.algorithms.one_model.fed_avg import fed_avg_of as fed_avg_of
from fedjaxlite.algorithms.one_model.fed_avg import fed_sgd as fed_sgd
from fedjaxlite.algorithms.one_model.fed_dyn import fed_dyn as fed_dyn
from fedjaxlite.algorithms.one_model.fed_exp import fed_exp as fed_exp
from fedjaxlite.algorithms.one_model.fed_kseed import fed_kseed as fed_kseed
from fedjaxlite.algorithms.one_model.fed_kseed import kseed_model as kseed_model
from fedjaxlite.algorithms.one_model.fed_lin import fed_lin as fed_lin
from fedjaxlite.algorithms.one_model.fed_nova import fed_nova as fed_nova
from fedjaxlite.algorithms.one_model.fed_opt import adaptive_server_optimizer as adaptive_server_optimizer
from fedjaxlite.algorithms.one_model.fed_opt import fed_adagrad as fed_adagrad
from fedjaxlite.algorithms.one_model.fed_opt import fed_adam as fed_adam
from fedjaxlite.algorithms.one_model.fed_opt import fed_avg_m as fed_avg_m
from fedjaxlite.algorithms.one_model.fed_opt import fed_yogi as fed_yogi
from fedjaxlite.algorithms.one_model.fed_pa import fed_pa as fed_pa
from fedjaxlite.algorithms.one_model.fed_prox import fed_prox as fed_prox
from fedjaxlite.algorithms.one_model.fed_prox import fed_prox_adaptive as fed_prox_adaptive
from fedjaxlite.algorithms.one_model.mime import mime as mime
from fedjaxlite.algorithms.one_model.mime import mime_lite as mime_lite
from fedjaxlite.algorithms.one_model.one_shot import one_shot as one_shot
from fedjaxlite.algorithms.one_model.scaffold import scaffold as scaffold
from fedjaxlite.algorithms.personal_models.apfl import apfl as apfl
from fedjaxlite.algorithms.personal_models.ditto import ditto as ditto
from fedjaxlite.algorithms.personal_models.fed_ala import fed_ala as fed_ala
from fedjaxlite.algorithms.personal_models.fine_tuning import fine_tuned as fine_tuned
from fedjaxlite.algorithms.personal_models.p_fed_me import p_fed_me as p_fed_me
from fedjaxlite.algorithms.personal_models.per_fed_avg import per_fed_avg as per_fed_avg
from fedjaxlite.algorithms.personal_models.reptile import reptile as reptile
from fedjaxlite.algorithms.pieces.leaves import by_name as by_name
from fedjaxlite.algorithms.pieces.leaves import last_layer as last_layer
from fedjaxlite.algorithms.pieces.leaves import norm_layers as norm_layers
from fedjaxlite.algorithms.pieces.schedules import scheduled as scheduled
from fedjaxlite.algorithms.shared_parts import lora as lora
from fedjaxlite.algorithms.shared_parts.fed_babu import fed_babu as fed_babu
from fedjaxlite.algorithms.shared_parts.fed_bn import fed_bn as fed_bn
from fedjaxlite.algorithms.shared_parts.fed_per import fed_per as fed_per
from fedjaxlite.algorithms.shared_parts.fed_recon import fed_recon as fed_recon
from fedjaxlite.algorithms.shared_parts.fed_recon import reconstruct as reconstruct
from fedjaxlite.algorithms.shared_parts.fed_rep import fed_rep as fed_rep
from fedjaxlite.algorithms.shared_parts.lg_fed_avg import lg_fed_avg as lg_fed_avg
from fedjaxlite.algorithms.without_a_model import analytics as analytics
from fedjaxlite.algorithms.without_a_model.k_means import k_means as k_means
from fedjaxlite.algorithms.without_a_model.k_means import k_means_init as k_means_init

__all__ = [
    "adaptive_server_optimizer",
    "afl",
    "analytics",
    "apfl",
    "by_name",
    "di_lo_co",
    "ditto",
    "fed_adagrad",
    "fed_adam",
    "fed_ala",
    "fed_avg",
    "fed_avg_m",
    "fed_avg_of",
    "fed_babu",
    "fed_bn",
    "fed_dyn",
    "fed_exp",
    "fed_kseed",
    "fed_lin",
    "fed_nova",
    "fed_pa",
    "fed_per",
    "fed_prox",
    "fed_prox_adaptive",
    "fed_recon",
    "fed_rep",
    "fed_sgd",
    "fed_yogi",
    "fine_tuned",
    "hyp_cluster",
    "ifca",
    "ifca_init",
    "k_means",
    "k_means_init",
    "kseed_model",
    "last_layer",
    "lg_fed_avg",
    "lora",
    "mime",
    "mime_lite",
    "norm_layers",
    "one_shot",
    "p_fed_me",
    "per_fed_avg",
    "project_to_simplex",
    "q_fed_avg",
    "q_fed_sgd",
    "reconstruct",
    "reptile",
    "scaffold",
    "scheduled",
    "streaming_di_lo_co",
    "term",
]
