"""The server's half on the network: asyncio and TLS around any function that answers a client's message.

    desk.py        what the connections of a server share, and what is counted
    reception.py   who is let in: accepting, handshakes, certificates, revocation, one connection a client
    attending.py   one connection: a question in, its answer out, within limits
    serving.py     a server from its start to its end
    enrolments.py  the answer to `enroll`, from an authority's folder

What comes in: sockets, time and threads; what a round is does not. Bounds, for any peer without a certificate of the
authority and any number of them: `Limits.connections` sockets, of which `Limits.handshakes` are in their handshake for
`Timeouts.connect` seconds at most (and `Limits.grace` where others wait) and `Limits.strangers` are past it, each with
one frame of 17 KiB. For clients: one connection each; `Limits.memory` bytes of messages, twice while they are copied,
and buffers of some 0.3 MiB a connection, of which Python's TLS takes 0.25, or 1.5 MiB once models went through it; who
does not send the rest of a frame, or does not take an answer, within `Timeouts.frame` seconds is hung up on, and so is
who says nothing for `Timeouts.stage`.
"""

from fedjaxlite.deploy.service.desk import Counters as Counters
from fedjaxlite.deploy.service.enrolments import enrolling as enrolling
from fedjaxlite.deploy.service.serving import serve as serve
from fedjaxlite.deploy.service.serving import stop_on_signals as stop_on_signals
