"""How many bytes a round costs a client: the formula, message by message."""

from typing import NamedTuple

from fedjaxlite.privacy.secagg import arguments
from fedjaxlite.privacy.secagg.keys import KEY_BYTES, SIGNATURE_BYTES
from fedjaxlite.privacy.secagg.messages import HEADER, SEALED_BYTES
from fedjaxlite.privacy.secagg.parameters import Parameters
from fedjaxlite.privacy.secagg.shamir import SHARE_BYTES

_NAME = _COUNT = 4


class Traffic(NamedTuple):
    """Bytes of one client in one round.

    Attributes:
      up: what it sends.
      down: what it gets.
      vector: the part of `up` that is the vector itself: 4 a word, as many as it would cost in the clear as float32.
    """

    up: int
    down: int
    vector: int


def traffic(parameters: Parameters, num_present: int) -> Traffic:
    """The bytes of a client in a round in which all `num_present` clients stay to the end.

    With h the holders of a secret and k = h - 1 neighbors, each client sends its keys, k sealed boxes, the vector and
    2 h shares at most, of which a round needs h. Dropouts only make messages shorter, and move shares from one list to
    the other.

    Args:
      parameters: what was agreed on.
      num_present: how many clients take part.

    Returns:
      A `Traffic`, in bytes, without what the transport adds.

    Example:
      >>> from fedjaxlite.privacy.secagg import parameters
      >>> traffic(parameters(num_clients=100, length=1_663_370, neighbors=32, threshold=17), 100)
      Traffic(up=6658542, down=6569, vector=6653480)
    """
    arguments.one_instance(Parameters, "what secagg.parameters(...) returns", parameters=parameters)
    num_present = arguments.in_range(1, parameters.num_clients, num_present=num_present)
    holders, lying = parameters.holders(num_present), parameters.server == "lying"
    k = holders - 1
    signature = SIGNATURE_BYTES if lying else 0
    keys = 2 * KEY_BYTES + 1 + signature
    boxes = _COUNT + k * (_NAME + SEALED_BYTES)
    shares = 2 * _COUNT + holders * (_NAME + SHARE_BYTES)
    vector = 4 * parameters.length
    up = [keys, KEY_BYTES + boxes, _COUNT + vector, shares]
    rows = (num_present if lying else holders) * (_NAME + keys)
    roster = KEY_BYTES + _COUNT + num_present * _NAME + _COUNT + rows
    request = 3 * _COUNT + k * _NAME
    down = [roster, boxes, request]
    if lying:
        up.append(SIGNATURE_BYTES)
        down[2] += num_present * (_NAME + SIGNATURE_BYTES)
        down.append(_COUNT + num_present * _NAME)
    return Traffic(sum(up) + len(up) * HEADER.size, sum(down) + len(down) * HEADER.size, vector)
