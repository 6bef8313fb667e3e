"""Codecs by name: `eden:2`, `top_k:0.01+qsgd:16`, `eden:bits=2,unbiased=false`."""

import inspect
from typing import Any

import jax.numpy as jnp

import fedjaxlite as fl
from fedjaxlite.cli import signatures
from fedjaxlite.cli.settings import Settings


def codecs(option: str, spec: str) -> tuple[fl.Aggregator, ...]:
    """The codecs that a text names, in a row; "+" stands between them.

    Args:
      option: whose text it is, for messages.
      spec: such as "eden:2": a function of `fl.compression` or `quantize`, its arguments by place or by name behind a
        colon, with commas between.

    Raises:
      ValueError: for a name that is no codec's, an argument that it does not have, and whatever the codec refuses.

    Example:
      >>> [codec.name for codec in codecs("--compress", "clip_by_value:1.0+quantize:4,rounding=nearest")]
      ['clip_by_value', 'quantize']
    """
    return tuple(_codec(option, part.strip()) for part in spec.split("+"))


def known() -> dict[str, Any]:
    """The codecs that can be named, with their signatures' first words."""
    found = {name: getattr(fl.compression, name) for name in fl.compression.__all__}
    codecs = {n: f for n, f in found.items() if inspect.isfunction(f) and _returns_codec(f) and not _takes_codecs(f)}
    return {**codecs, "quantize": fl.quantize, "clip_by_value": fl.clip_by_value}


def _returns_codec(function: Any) -> bool:
    return function.__annotations__.get("return") in (fl.Aggregator, "Aggregator")


def _takes_codecs(function: Any) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    return inspect.Parameter.VAR_POSITIONAL in kinds


def _codec(option: str, text: str) -> fl.Aggregator:
    word, _, rest = text.partition(":")
    table = known()
    name = signatures.chosen(option, word, table)
    return signatures.called(option, text, name, table[name], rest)


def on_the_way_up(settings: Settings) -> tuple[fl.Aggregator, ...]:
    """What stands behind the clip: codecs, in a memory of their errors where asked for, and the secure sum."""
    chosen = codecs("--compress", settings.compress) if settings.compress is not None else ()
    if settings.quantize_bits is not None:
        chosen = (*chosen, fl.quantize(bits=settings.quantize_bits))
    if settings.error_feedback and not chosen:
        raise ValueError("--error-feedback needs what leaves something out: give --compress or --quantize-bits too.")
    if settings.feedback_kind is not None and not settings.error_feedback:
        raise ValueError(f"--feedback-kind {settings.feedback_kind} says nothing without --error-feedback; give both.")
    if settings.error_feedback and settings.noise_multiplier is not None:
        raise ValueError(
            "--error-feedback makes messages longer than the clip norm, which the noise is made for. Leave one out."
        )
    if settings.feedback_kind not in (None, "ef14") and settings.aggregator != "mean":
        raise ValueError(
            f"--feedback-kind {settings.feedback_kind} keeps a mean over all clients, those too that are not in the "
            "round, and needs them to weigh alike. Give --aggregator mean too, or take ef14."
        )
    if settings.measure_entropy and settings.secure_sum:
        raise ValueError("--measure-entropy says nothing of --secure-sum: what is masked looks random. Leave one out.")
    if settings.secure_sum:
        if settings.clip_norm is None:
            raise ValueError(
                "--secure-sum sums integers and needs --clip-norm, which bounds the range that they cover."
            )
        chosen = chosen if _to_integers(chosen, settings.clip_norm) else (*chosen, fl.quantize(bits=16))
    if settings.error_feedback:
        kind = settings.feedback_kind or "ef14"
        inside = chosen if settings.clip_norm is None else (fl.clip_by_global_norm(settings.clip_norm), *chosen)
        chosen = (fl.compression.error_feedback(*inside, kind=kind),)
    if settings.secure_sum:
        chosen = (*chosen, fl.privacy.mask())
    return (*chosen, fl.measure_entropy()) if settings.measure_entropy else chosen


def _to_integers(chosen: tuple[fl.Aggregator, ...], clip_norm: float) -> bool:
    """Whether codecs end in the integers that a mask takes."""
    wire = fl.wire_of(jnp.zeros(64), weight=1, capacity=2, num_clients=2)
    chain = fl.chain(fl.mean(), fl.clip_by_global_norm(clip_norm), *chosen)
    return chain.init(wire)[1].group == "mod32"


def on_the_way_down(settings: Settings, algorithm: fl.Algorithm) -> fl.Algorithm:
    """The algorithm, whose model is compressed on its way to clients where asked for."""
    if settings.compress_down is None:
        return algorithm
    return fl.compression.downlink(algorithm, *codecs("--compress-down", settings.compress_down))
