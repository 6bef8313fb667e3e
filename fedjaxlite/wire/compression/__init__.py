"""Compression: codecs that make messages small, one file a method, each as in its paper; `fl.compression`.

    entries/    fewer bits for every entry, leaf by leaf: QSGD, k levels, TernGrad, natural, signs, narrow floats
    rotated/    fewer bits after a random rotation: DRIVE and EDEN, rotated k levels, THC, QUIC-FL
    fewer/      fewer numbers: top-k, rand-k, count sketch, PowerSGD
    feedback/   what was left out comes later: error feedback at clients, and the model on its way down

What comes in: what shortens one client's message, with the bytes that it claims. What survives a sum stands before a
mask; what does not is decoded message by message.
"""

from fedjaxlite.wire.compression.entries.k_level import k_level as k_level
from fedjaxlite.wire.compression.entries.narrow import narrow as narrow
from fedjaxlite.wire.compression.entries.natural import natural as natural
from fedjaxlite.wire.compression.entries.nf4 import nf4 as nf4
from fedjaxlite.wire.compression.entries.qsgd import qsgd as qsgd
from fedjaxlite.wire.compression.entries.signs import sign as sign
from fedjaxlite.wire.compression.entries.tern_grad import tern_grad as tern_grad
from fedjaxlite.wire.compression.entries.votes import noisy_sign as noisy_sign
from fedjaxlite.wire.compression.entries.votes import sign_vote as sign_vote
from fedjaxlite.wire.compression.feedback.downlink import downlink as downlink
from fedjaxlite.wire.compression.feedback.error_feedback import error_feedback as error_feedback
from fedjaxlite.wire.compression.fewer.count_sketch import count_sketch as count_sketch
from fedjaxlite.wire.compression.fewer.power_sgd import power_sgd as power_sgd
from fedjaxlite.wire.compression.fewer.rand_k import rand_k as rand_k
from fedjaxlite.wire.compression.fewer.top_k import top_k as top_k
from fedjaxlite.wire.compression.rotated.eden import drive as drive
from fedjaxlite.wire.compression.rotated.eden import eden as eden
from fedjaxlite.wire.compression.rotated.k_level import rotated_k_level as rotated_k_level
from fedjaxlite.wire.compression.rotated.quic_fl import quic_fl as quic_fl
from fedjaxlite.wire.compression.rotated.thc import thc as thc
from fedjaxlite.wire.packing.rotation import padded_size as padded_size
from fedjaxlite.wire.packing.rotation import rotate as rotate
from fedjaxlite.wire.packing.rotation import rotate_back as rotate_back
from fedjaxlite.wire.packing.rotation import rotated_size as rotated_size
from fedjaxlite.wire.packing.rotation import walsh_hadamard as walsh_hadamard

__all__ = [
    "count_sketch",
    "downlink",
    "drive",
    "eden",
    "error_feedback",
    "k_level",
    "narrow",
    "natural",
    "nf4",
    "noisy_sign",
    "padded_size",
    "power_sgd",
    "qsgd",
    "quic_fl",
    "rand_k",
    "rotate",
    "rotate_back",
    "rotated_k_level",
    "rotated_size",
    "sign",
    "sign_vote",
    "tern_grad",
    "thc",
    "top_k",
    "walsh_hadamard",
]
