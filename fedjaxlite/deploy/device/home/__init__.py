"""What a device keeps: a folder that its owner alone can read.

    folder.py   who the device is: key, certificate, authority, the pinned program
    states.py   the client's state, and the update that is sent and not yet settled
    ledger.py   what left the device, a line for every message

A file here is written whole or not at all, so that a device that loses its power finds the old one or the new one.
"""

from fedjaxlite.deploy.device.home.folder import Home as Home
from fedjaxlite.deploy.device.home.folder import HomeDamaged as HomeDamaged
from fedjaxlite.deploy.device.home.folder import locked as locked
from fedjaxlite.deploy.device.home.folder import pin as pin
from fedjaxlite.deploy.device.home.folder import read as read
from fedjaxlite.deploy.device.home.folder import write as write
from fedjaxlite.deploy.device.home.states import Kept as Kept
from fedjaxlite.deploy.device.home.states import Progress as Progress
from fedjaxlite.deploy.device.home.states import begin as begin
from fedjaxlite.deploy.device.home.states import committed as committed
from fedjaxlite.deploy.device.home.states import dropped as dropped
from fedjaxlite.deploy.device.home.states import keep as keep
from fedjaxlite.deploy.device.home.states import message_of as message_of
from fedjaxlite.deploy.device.home.states import pending as pending
from fedjaxlite.deploy.device.home.states import progress as progress
from fedjaxlite.deploy.device.home.states import settle as settle
