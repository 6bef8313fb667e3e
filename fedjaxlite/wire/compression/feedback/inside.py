"""Which codecs may stand inside of a memory of errors: those whose single messages can be read."""

from typing import Any

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import (
    AS_SENT,
    KEEP_TOTAL,
    NO_CLIENT_STATE,
    Aggregator,
)


def checked(name: str, codecs: tuple[Any, ...]) -> tuple[Aggregator, ...]:
    """The codecs inside of `name`; refuses those whose messages cannot be read one by one."""
    kind = "a codec, such as fl.compression.top_k(fraction=0.1)"
    checks.one_instance(Aggregator, kind, **{f"{name}[{i}]": codec for i, codec in enumerate(codecs)})
    if not codecs:
        raise ValueError(
            f"`{name}` got no codec; expected what compresses, such as fl.compression.top_k(fraction=0.1)."
        )
    for codec in codecs:
        if codec.role != "value":
            raise ValueError(
                f"`{name}` got {codec.name}, a {codec.role}; expected codecs that compress one client's value. Put "
                f"{codec.name} into the chain beside `{name}`."
            )
        if codec.init_client is not NO_CLIENT_STATE:
            raise ValueError(f"`{name}` got {codec.name}, which keeps a state at clients itself. Use one of the two.")
        if codec.read is AS_SENT and codec.decode is not KEEP_TOTAL:
            raise ValueError(
                f"`{name}` got {codec.name}, which works on the sum of messages, and needs what can be read of one. "
                f"Put {codec.name} into the chain before `{name}`."
            )
    return codecs
