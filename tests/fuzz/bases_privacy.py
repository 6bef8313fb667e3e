"""Valid calls of mechanisms, accountants, attacks, audits and secure aggregation."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from bases_engine import ALGORITHM, KEY, LINEAR, ONE, PEOPLE, SGD, init_rounds, is_probability, loss, use_local
from calls import Base

import fedjaxlite as fl
from fedjaxlite import privacy
from fedjaxlite.privacy import accounting, attacks, audit, secagg


def composed(*codecs: Any) -> fl.Rounds:
    return fl.rounds(
        ALGORITHM, sampler=fl.sampling.uniform(3), aggregator=fl.chain(fl.mean(over=3), *codecs), execution=ONE
    )


def noised(codec: Any) -> None:
    """Puts a mechanism into rounds."""
    init_rounds(aggregator=fl.chain(fl.mean(over=6), codec))


def clipped_first(codec: Any) -> None:
    """Puts a codec to integers, or of masks, into rounds behind what it wants before it."""
    init_rounds(aggregator=fl.chain(fl.mean(over=6), fl.clip_by_value(1.0), codec))


def masked(codec: Any) -> None:
    """Puts masks behind a quantizer."""
    init_rounds(aggregator=fl.chain(fl.mean(over=6), fl.clip_by_value(1.0), fl.quantize(bits=8), codec))


RUN = composed(privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0))
TRAIN = privacy.dp_sgd(
    loss,
    client_optimizer=SGD,
    rate=1.0,
    expected_batch_size=3,
    steps=1,
    clip_norm=1.0,
    noise_multiplier=1.0,
)
LOCAL_RUN = fl.rounds(
    fl.algorithms.fed_avg_of(TRAIN), sampler=fl.sampling.uniform(3), aggregator=fl.mean(), execution=ONE
)
ASKED: dict[str, Any] = {"rounds": RUN, "population": PEOPLE, "num_rounds": 2, "delta": 1e-5}
ASKED_WORDS = {"population": ("clients",), "params": ("parameters",)}

MECHANISMS = {
    "gaussian": Base(privacy.gaussian, {"clip_norm": 1.0, "noise_multiplier": 1.0}, use=noised, costly=True),
    "laplace": Base(privacy.laplace, {"clip_norm": 1.0, "noise_multiplier": 1.0}, use=noised, costly=True),
    "adaptive_gaussian": Base(
        privacy.adaptive_gaussian, {"noise_multiplier": 1.0, "bit_noise_std": 3.0}, use=noised, costly=True
    ),
    "banded_gaussian": Base(
        privacy.banded_gaussian,
        {"clip_norm": 1.0, "noise_multiplier": 1.0, "num_rounds": 4, "bands": 2},
        costly=True,
    ),
    "tree_gaussian": Base(
        privacy.tree_gaussian,
        {"clip_norm": 1.0, "noise_multiplier": 1.0, "num_rounds": 4},
        use=noised,
        costly=True,
    ),
    "discrete_gaussian": Base(
        privacy.discrete_gaussian,
        {"clip_norm": 1.0, "noise_multiplier": 1.0, "bits": 16, "min_survivors": 4},
        use=noised,
        costly=True,
        words={"min_survivors": ("survivors",)},
    ),
    "skellam": Base(
        privacy.skellam,
        {"clip_norm": 1.0, "noise_multiplier": 1.0, "bits": 16, "min_survivors": 4},
        use=noised,
        costly=True,
    ),
    "local_gaussian": Base(
        privacy.local_gaussian, {"clip_norm": 1.0, "epsilon": 1.0, "delta": 1e-5}, use=noised, costly=True
    ),
    "local_laplace": Base(privacy.local_laplace, {"clip_norm": 1.0, "epsilon": 1.0}, use=noised, costly=True),
    "priv_unit": Base(privacy.priv_unit, {"clip_norm": 1.0, "epsilon": 8.0}, use=noised, costly=True),
    "mask": Base(privacy.mask, {}, use=masked, costly=True),
    "secure_sum": Base(privacy.secure_sum, {}, use=clipped_first, costly=True),
    "dp_sgd": Base(
        privacy.dp_sgd,
        {
            "loss_fn": loss,
            "client_optimizer": SGD,
            "rate": 0.5,
            "expected_batch_size": 2,
            "steps": 1,
            "clip_norm": 1.0,
            "noise_multiplier": 1.0,
        },
        use=use_local,
        costly=True,
        words={"loss_fn": ("the loss function",)},
    ),
}

ACCOUNTANTS = {
    "dp_sgd_epsilon": Base(
        privacy.dp_sgd_epsilon,
        {"train": TRAIN, "participations": 1, "delta": 1e-5},
        costly=True,
        sound=lambda e: e >= 0,
    ),
    "epsilon": Base(privacy.epsilon, ASKED, costly=True, words=ASKED_WORDS),
    "examples_epsilon": Base(
        privacy.examples_epsilon,
        {"rounds": LOCAL_RUN, "population": PEOPLE, "num_rounds": 2, "delta": 1e-5},
        costly=True,
    ),
    "guarantee": Base(privacy.guarantee, ASKED, costly=True, words=ASKED_WORDS),
    "report": Base(privacy.report, ASKED, costly=True, words=ASKED_WORDS),
    "max_rounds": Base(
        privacy.max_rounds,
        {"rounds": RUN, "population": PEOPLE, "epsilon": 5.0, "delta": 1e-5},
        costly=True,
        words=ASKED_WORDS,
    ),
    "running_epsilon": Base(privacy.running_epsilon, {"delta": 1e-5}),
    "stop_at_epsilon": Base(privacy.stop_at_epsilon, {"epsilon": 1.0, "delta": 1e-5}),
    "calibrate": Base(
        privacy.calibrate,
        {
            "make_rounds": lambda z: composed(privacy.gaussian(clip_norm=1.0, noise_multiplier=z)),
            "population": PEOPLE,
            "epsilon": 1.0,
            "delta": 1e-5,
            "num_rounds": 2,
        },
        costly=True,
        words={**ASKED_WORDS, "make_rounds": ("`rounds`",)},
    ),
    "gaussian_delta": Base(
        privacy.gaussian_delta, {"noise_multiplier": 1.0, "epsilon": 1.0}, sound=is_probability, costly=True
    ),
    "gaussian_epsilon": Base(
        privacy.gaussian_epsilon, {"noise_multiplier": 1.0, "delta": 1e-5}, sound=lambda e: e >= 0, costly=True
    ),
    "accounting.composed_epsilon": Base(
        accounting.composed_epsilon, {"epsilon": 0.1, "delta_each": 1e-7, "compositions": 10, "delta": 1e-5}
    ),
    "accounting.rdp_epsilon": Base(accounting.rdp_epsilon, {"orders": [2.0, 4.0], "rdp": [0.1, 0.2], "delta": 1e-5}),
    "accounting.zcdp_epsilon": Base(accounting.zcdp_epsilon, {"rho": 0.5, "delta": 1e-5}),
}

SCORES = np.array([0.0, 0.5, 1.0, 0.2, 0.9, 0.1])
MEMBER = np.array([False, True, True, False, True, False])
CURVE = attacks.roc(SCORES, MEMBER)
SHADOW = np.array([[0.0, 0.1], [0.1, 0.3], [2.0, 1.0], [2.1, 1.2]])
SHADOW_MEMBER = np.array([[False, True], [False, False], [True, True], [True, False]])


def update_fn(params: Any, x: Any, y: Any) -> Any:
    """What leaks of a batch of one."""
    del y
    return jnp.tanh(x @ params)


ATTACKS = {
    "auc": Base(attacks.auc, {"curve": CURVE}, sound=is_probability),
    "roc": Base(attacks.roc, {"scores": SCORES, "member": MEMBER}),
    "tpr_at_fpr": Base(attacks.tpr_at_fpr, {"curve": CURVE, "fpr": 0.1}, sound=is_probability),
    "client_scores": Base(attacks.client_scores, {"released": jnp.ones(4), "candidates": jnp.eye(4)}),
    "confidence": Base(attacks.confidence, {"logits": jnp.zeros((2, 3)), "labels": jnp.array([0, 1])}),
    "correlation": Base(attacks.correlation, {"x": np.eye(3), "reference": np.eye(3)}),
    "cosine": Base(attacks.cosine, {"a": jnp.ones(3), "b": jnp.ones(3)}),
    "psnr": Base(attacks.psnr, {"x": np.eye(3), "reference": np.eye(3)[::-1]}),
    "dlg": Base(attacks.dlg, {"update_fn": update_fn, "shape": (1, 2)}),
    "invert_gradients": Base(
        attacks.invert_gradients, {"update_fn": update_fn, "shape": (1, 2), "total_variation": 0.0}
    ),
    "gradient_update": Base(attacks.gradient_update, {"loss_fn": loss}),
    "local_update": Base(attacks.local_update, {"loss_fn": loss, "learning_rate": 0.1, "epochs": 1, "batch_size": 2}),
    "idlg_label": Base(attacks.idlg_label, {"kernel": jnp.ones((3, 2))}),
    "invert_linear": Base(attacks.invert_linear, {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}),
    "linear_candidates": Base(attacks.linear_candidates, {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}),
    "label_counts": Base(attacks.label_counts, {"bias": jnp.array([-0.2, 0.1, 0.1]), "batch_size": 4}),
    "lira": Base(attacks.lira, {"scores": [2.0, 1.0], "shadow_scores": SHADOW, "shadow_member": SHADOW_MEMBER}),
    "lira_leave_one_out": Base(attacks.lira_leave_one_out, {"scores": SHADOW, "member": SHADOW_MEMBER}),
    "loss_scores": Base(
        attacks.loss_scores,
        {
            "loss_fn": loss,
            "params": {"w": jnp.zeros(3), "b": jnp.float32(0)},
            "examples": {"x": np.ones((2, 3), np.float32), "y": np.ones(2, np.float32)},
        },
        words={"loss_fn": ("the loss function",), "params": ("parameter",), "examples": ("feature",)},
    ),
    "match": Base(attacks.match, {"reconstructions": np.eye(3), "originals": np.eye(3)}),
    "soft_cross_entropy": Base(attacks.soft_cross_entropy, {"model": LINEAR}),
}

AUDIT = {
    "epsilon_many_runs": Base(
        audit.epsilon_many_runs, {"scores_in": np.ones(40), "scores_out": np.zeros(40), "delta": 1e-5}
    ),
    "epsilon_one_run": Base(
        audit.epsilon_one_run,
        {"scores": np.linspace(0, 1, 40), "included": np.arange(40) >= 20, "delta": 1e-5},
        costly=True,
    ),
    "with_canaries": Base(
        audit.with_canaries,
        {"algorithm": ALGORITHM, "num_canaries": 2, "first_client": 3, "scale": 9.0, "key": KEY},
        use=init_rounds,
        costly=True,
    ),
}

FIVE = secagg.parameters(num_clients=5, length=2, min_survivors=2)
SECAGG = {
    "parameters": Base(
        secagg.parameters,
        {"num_clients": 5, "length": 2, "min_survivors": 2},
        words={"neighbors": ("threshold", "neighbor"), "cohort_colluders": ("colluders in the round",)},
    ),
    "identities": Base(secagg.identities, {"ids": [0, 1]}),
    "run_in_memory": Base(
        secagg.run_in_memory,
        {"vectors": {u: np.full(2, u, np.uint32) for u in range(5)}, "parameters": FIVE},
        costly=True,
        words={"vectors": ("vector",)},
    ),
    "traffic": Base(secagg.traffic, {"parameters": FIVE, "num_present": 5}),
}

PRIVACY: dict[str, Base] = {f"privacy.{name}": base for name, base in {**MECHANISMS, **ACCOUNTANTS}.items()}
PRIVACY |= {f"privacy.attacks.{name}": base for name, base in ATTACKS.items()}
PRIVACY |= {f"privacy.audit.{name}": base for name, base in AUDIT.items()}
PRIVACY |= {f"privacy.secagg.{name}": base for name, base in SECAGG.items()}
