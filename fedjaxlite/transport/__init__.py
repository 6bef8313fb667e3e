"""What carries both protocols between processes, secure sums and deployed rounds: TLS 1.3, frames, an authority.

Files: `frames` (length-prefixed, bounded in size and time), `credentials` (keys, certificates and TLS settings),
`certificates` (how one is made), `authority` (a folder that enrols clients with one-time tokens and revokes them),
`enrolment` (tokens, and how a client asks for its certificate), `record` (the authority's book, written all or
nothing), `whole_file` (how), `limits` (token buckets), `errors`.

The room imports nothing of the library: it is copied as it is to devices that do not have it. `cryptography` is needed
where a key or a certificate is made, and loads there (pip install 'fedjaxlite[privacy]'); who has a certificate talks
with the standard library alone.
"""

from fedjaxlite.transport.credentials import Credentials as Credentials
from fedjaxlite.transport.credentials import client_context as client_context
from fedjaxlite.transport.credentials import server_context as server_context
from fedjaxlite.transport.errors import EnrolmentRefused as EnrolmentRefused
from fedjaxlite.transport.errors import FrameTooLong as FrameTooLong
from fedjaxlite.transport.errors import TransportError as TransportError
from fedjaxlite.transport.errors import UnknownPeer as UnknownPeer
from fedjaxlite.transport.frames import Timeouts as Timeouts
