"""What the transport refuses. Each protocol turns these into errors of its own where it has a name for them."""


class TransportError(ValueError):
    """Anything that the transport refuses: catch this one."""


class FrameTooLong(TransportError):
    """A frame that announces more bytes than are taken; its connection is of no use afterwards."""


class UnknownPeer(TransportError):
    """A certificate that names no client."""


class EnrolmentRefused(TransportError):
    """A token, or a request for a certificate, that the authority does not take. Its text may be told to the asker."""
