"""Losses: `loss_fn(params, batch, key)` gives one loss per example, `[B]`, alone or with a `LossAux`.

`batch` is a dict of arrays `[B, ...]`: "x", "y", and the reserved "mask" `[B]`, True for real examples. `key=None`
means evaluation: no dropout, and running statistics instead of the batch's.

Losses and metrics of this room are float32 whatever the model's outputs are, under `jax_enable_x64` too: outputs and
targets become float32 first, so that gradients of float64 parameters are float64 with the accuracy of float32.

What comes in: losses of a model's outputs and targets, one family a file, and what they share. A loss of one's own is
a plain function and needs nothing from here.
"""

from fedjaxlite.losses.classification import binary_cross_entropy as binary_cross_entropy
from fedjaxlite.losses.classification import cross_entropy as cross_entropy
from fedjaxlite.losses.focal import focal as focal
from fedjaxlite.losses.loss import Loss as Loss
from fedjaxlite.losses.loss import LossAux as LossAux
from fedjaxlite.losses.loss import declare as declare
from fedjaxlite.losses.ordinal import ordinal as ordinal
from fedjaxlite.losses.regression import huber as huber
from fedjaxlite.losses.regression import quantile as quantile
from fedjaxlite.losses.regression import squared_error as squared_error
from fedjaxlite.losses.sequences import sequence_cross_entropy as sequence_cross_entropy
