"""What a party of secure aggregation refuses, and whom it blames: one type for each reason.

Every type is a `SecureAggregationError`, so that a driver catches one thing, and carries the id of the client that the
evidence points at. Configurations that cannot work are plain `ValueError` and `TypeError` when they are built.
"""

# Names of 32 bits: the server's, and nobody's; clients have the numbers below.
SERVER, NOBODY = 2**32 - 1, 2**32 - 2


class SecureAggregationError(ValueError):
    """A message, or a whole round, that a party refuses.

    Attributes:
      offender: id of the client whom the evidence points at, `SERVER` for the server, None where it points at nobody.

    Example:
      >>> error = WrongRound("client 3 answers round 6 in round 7.", offender=3)
      >>> error.offender, isinstance(error, SecureAggregationError)
      (3, True)
    """

    def __init__(self, text: str, *, offender: int | None = None) -> None:
        super().__init__(text)
        self.offender = offender


class Malformed(SecureAggregationError):
    """Bytes that are no message of this version, or are longer than the round allows."""


class WrongRound(SecureAggregationError):
    """A message of another round: late, early or replayed."""


class WrongStage(SecureAggregationError):
    """A message that nobody waits for at this stage of the round."""


class AskedTwice(SecureAggregationError):
    """A step that a client takes once a round was asked for again."""


class UnknownClient(SecureAggregationError):
    """A sender that does not belong to the round, or no longer does."""


class Duplicate(SecureAggregationError):
    """A second message of a client in one stage, or a key that somebody else has shown already."""


class BadKey(SecureAggregationError):
    """A public key that no exchange may be made with, or that is not the one that was advertised."""


class BadSignature(SecureAggregationError):
    """A signature that does not verify, or an identity that is not known."""


class BadCiphertext(SecureAggregationError):
    """A sealed share that does not open: changed on the way, sealed for somebody else, or by somebody else."""


class BadShares(SecureAggregationError):
    """Shares of one secret that do not agree with each other, or with what the secret's owner committed to."""


class WrongNames(SecureAggregationError):
    """Names that overlap, that nobody knows, or that are missing, in what is asked or answered."""


class TooFew(SecureAggregationError):
    """Fewer clients than the threshold, or than the smallest sum that may be opened: the round fails closed."""


class RoundAborted(SecureAggregationError):
    """The other side left the round and said why."""


def party(name: int) -> str:
    """The words for a party in an error's text.

    Example:
      >>> party(3), party(SERVER)
      ('client 3', 'the server')
    """
    return "the server" if name == SERVER else f"client {name}"
