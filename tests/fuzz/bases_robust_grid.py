"""Valid calls of what chooses a rule or an attack by its number."""

from bases_robust_distances import before_a_rule, behind_a_mean
from calls import Base

from fedjaxlite import attacks, robust

ROBUST_GRID: dict[str, Base] = {
    "robust.one_of": Base(robust.one_of, {"rules": [robust.mean(), robust.median()], "which": 1}, use=behind_a_mean),
    "attacks.one_of": Base(
        attacks.one_of, {"attacks": [attacks.ipm([0]), attacks.alie([0])], "which": 1}, use=before_a_rule
    ),
}
"""By public name."""
