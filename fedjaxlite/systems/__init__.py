"""Systems: devices with a clock, and what a server does that does not wait for the slowest.

    service.py     how long a client takes             staleness.py   what an old update counts
    devices.py     speeds and bandwidths               traces.py      who is there when
    files.py       devices and traces of files: tables, and pickles of plain values alone
    timed.py       rounds on the clock                 round_times.py how long one takes
    candidates.py  who may begin next                  events.py      who is at work, who is done next
    presence.py    who can begin at all, and now       filling.py     from one step of a server to the next
    buffered.py    servers with a buffer: fed_buff, fed_async

What comes in: how long things take, who is there, and when. What is trained is not known here.
"""

from fedjaxlite.systems import service as service
from fedjaxlite.systems import staleness as staleness
from fedjaxlite.systems.buffered import fed_async as fed_async
from fedjaxlite.systems.buffered import fed_buff as fed_buff
from fedjaxlite.systems.devices import Devices as Devices
from fedjaxlite.systems.devices import drawn_devices as drawn_devices
from fedjaxlite.systems.devices import seconds_of as seconds_of
from fedjaxlite.systems.files import availability_from_file as availability_from_file
from fedjaxlite.systems.files import devices_from_file as devices_from_file
from fedjaxlite.systems.service import Service as Service
from fedjaxlite.systems.staleness import Staleness as Staleness
from fedjaxlite.systems.timed import timed as timed
from fedjaxlite.systems.traces import Availability as Availability
from fedjaxlite.systems.traces import availability as availability
from fedjaxlite.systems.traces import drawn_availability as drawn_availability
from fedjaxlite.systems.traces import is_there as is_there
from fedjaxlite.systems.traces import seconds_left as seconds_left
from fedjaxlite.systems.traces import seconds_until as seconds_until

__all__ = [
    "Availability",
    "Devices",
    "Service",
    "Staleness",
    "availability",
    "availability_from_file",
    "devices_from_file",
    "drawn_availability",
    "drawn_devices",
    "fed_async",
    "fed_buff",
    "is_there",
    "seconds_left",
    "seconds_of",
    "seconds_until",
    "service",
    "staleness",
    "timed",
]
