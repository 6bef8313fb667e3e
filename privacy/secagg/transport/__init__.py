"""A secure sum over TCP: server and clients as separate processes that carry the pure steps.

TLS 1.3 in both directions with a certificate for each party, issued for one run by an authority that everybody trusts
from the start. What that gives: nobody outside the cohort gets a message in, reads one, changes one or plays one again;
a client's name is the one in its certificate, whatever its messages say; clients know that they talk to this server.
What it does not give: that the server is honest. Against that stands the protocol itself, and its signed variant when
`server="lying"`. How certificates reach the parties is out of scope.

Frames are length-prefixed and bounded by what the round allows; every wait has a limit; a message that is refused is
logged with whom it names, and the round goes on without it.

Files: `client`, `server`, and `terms`: names and errors of a secure sum on what `fedjaxlite.transport` has for any
protocol.
"""

from fedjaxlite.privacy.secagg.transport.client import take_part as take_part
from fedjaxlite.privacy.secagg.transport.server import serve_round as serve_round
from fedjaxlite.privacy.secagg.transport.terms import identities as identities
from fedjaxlite.privacy.secagg.transport.terms import issue as issue
from fedjaxlite.transport.credentials import Credentials as Credentials
from fedjaxlite.transport.credentials import client_context as client_context
from fedjaxlite.transport.credentials import server_context as server_context
from fedjaxlite.transport.frames import Timeouts as Timeouts
