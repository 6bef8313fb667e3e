"""Options of a run: what crosses the wire, and differential privacy."""

from typing import Annotated, Literal

from fedjaxlite.cli.options.option import PRIVACY, WIRE, option

Aggregator = Annotated[
    Literal["weighted", "mean"] | None,
    option(
        WIRE,
        "weighted by the clients' examples, or mean: all clients alike.",
        metavar="NAME",
        show_default="weighted; mean with noise",
    ),
]

ClipNorm = Annotated[float | None, option(WIRE, "Clip every update to this L2 norm.", metavar="NORM")]

QuantizeBits = Annotated[
    int | None, option(WIRE, "Bits per entry, summed as integers; needs --clip-norm.", metavar="BITS")
]

Compress = Annotated[
    str | None,
    option(
        WIRE,
        "Codecs for what clients send, with + between them: eden:2, qsgd:16, top_k:0.01+qsgd:16 ...; an unknown "
        "name lists all.",
        metavar="CODEC",
    ),
]

ErrorFeedback = Annotated[
    bool,
    option(WIRE, "Clients send later what --compress or --quantize-bits left out.", "--error-feedback"),
]

FeedbackKind = Annotated[
    Literal["ef14", "ef21", "ef21_sgdm"] | None,
    option(WIRE, "How: ef14, ef21 or ef21_sgdm.", metavar="NAME", show_default="ef14"),
]

CompressDown = Annotated[
    str | None,
    option(WIRE, "Codecs for the model on its way down, as differences to what clients hold.", metavar="CODEC"),
]

SecureSum = Annotated[
    bool,
    option(
        WIRE,
        "Mask every message, so that the server learns sums alone; needs --clip-norm. Entries are rounded to 16 "
        "bits unless --compress or --quantize-bits make integers.",
        "--secure-sum",
    ),
]

MeasureEntropy = Annotated[
    bool,
    option(WIRE, "Also record the bytes that an ideal code of each message would take.", "--measure-entropy"),
]

NoiseMultiplier = Annotated[
    float | None,
    option(
        PRIVACY,
        "Gaussian noise of so many clip norms on the sum over clients; needs --clip-norm, fedjaxlite[privacy].",
        metavar="Z",
    ),
]

Epsilon = Annotated[
    float | None,
    option(PRIVACY, "Choose the noise such that all --rounds together cost this epsilon.", metavar="EPS"),
]

MaxEpsilon = Annotated[
    float | None, option(PRIVACY, "End the run before it costs more than this epsilon.", metavar="EPS")
]

Delta = Annotated[
    float | None, option(PRIVACY, "The delta that goes with epsilon.", metavar="DELTA", show_default="N^-1.1")
]
