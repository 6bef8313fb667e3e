"""Secure aggregation on the host: the server learns the sum of its clients' vectors, and no vector.

The protocol of Bonawitz et al. (2017) with double masks, t-of-n shares and dropout recovery, on the ring of Bell et al.
(2020), for a server that is semi-honest or that lies about who dropped out. A step is a pure function: `advertise`,
`share`, `mask`, `confirm`, `unmask` of `client`, and `server.step`. `run_in_memory` plays a round; `transport` carries
it over TCP between processes; `python -m fedjaxlite.privacy.secagg.demo` shows that.

Steps and who refuses what:

- 0 advertise: fresh X25519 keys, signed where the server may lie. Keys that repeat, or that no exchange may be made
  with, are refused. The ring follows from a hash of all keys.
- 1 share: the secret of the own mask and the private mask key, dealt t-of-N to the neighbors in sealed boxes.
- 2 mask: the vector under the own mask and one mask for each neighbor whose shares arrived.
- 3 confirm, where the server may lie: a signature on who survived.
- 4 reveal: for each neighbor a share of one secret: of its own mask if it survived, of its mask key if it dropped out.

What a semi-honest server learns: the sum over the survivors, who took part and how far, the ring, timing, lengths. The
sum itself tells about its parts: a sum of one is that client's vector, and two sums that differ by a client differ by
its vector. Only noise bounds that; `min_survivors` only keeps sums from being small, and it counts honest clients only
after the colluders are taken off. A model that is built to give inputs away does so through a sum too.

What a lying server can still do: keep a round from finishing; choose who is in the cohort, and so fill it with its own;
try many sets of keys of its own clients for a ring that it likes, which `graph.derive(security_bits=...)` has to allow
for, and which everyone-is-a-neighbor does not have to.

Python's integers are not constant-time; a client that shares its machine with an attacker has to know that.

Nothing in this folder needs JAX or the rest of the library: NumPy, and `cryptography`, which loads on first use
(pip install 'fedjaxlite[privacy]').
"""

from fedjaxlite.privacy.secagg import errors as errors
from fedjaxlite.privacy.secagg import graph as graph
from fedjaxlite.privacy.secagg import keys as keys
from fedjaxlite.privacy.secagg import masking as masking
from fedjaxlite.privacy.secagg import messages as messages
from fedjaxlite.privacy.secagg import shamir as shamir
from fedjaxlite.privacy.secagg.errors import SecureAggregationError as SecureAggregationError
from fedjaxlite.privacy.secagg.keys import Primitives as Primitives
from fedjaxlite.privacy.secagg.parameters import Parameters as Parameters
from fedjaxlite.privacy.secagg.parameters import parameters as parameters
from fedjaxlite.privacy.secagg.parties import client as client
from fedjaxlite.privacy.secagg.parties import server as server
from fedjaxlite.privacy.secagg.parties.client_state import ClientState as ClientState
from fedjaxlite.privacy.secagg.parties.client_state import Identity as Identity
from fedjaxlite.privacy.secagg.parties.driver import Played as Played
from fedjaxlite.privacy.secagg.parties.driver import answer as answer
from fedjaxlite.privacy.secagg.parties.driver import identities as identities
from fedjaxlite.privacy.secagg.parties.driver import run_in_memory as run_in_memory
from fedjaxlite.privacy.secagg.parties.server_state import RoundResult as RoundResult
from fedjaxlite.privacy.secagg.parties.server_state import ServerState as ServerState
from fedjaxlite.privacy.secagg.traffic import Traffic as Traffic
from fedjaxlite.privacy.secagg.traffic import traffic as traffic
