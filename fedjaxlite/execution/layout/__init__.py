"""Where rounds run.

    execution.py        what a user asks for, and the layout that it is on this machine
    lanes_that_fit.py   how many clients side by side
    over_devices.py     a program of one device on all of them, and sums over them
    placing.py          arrays on the devices

What comes in: what a round has to know of the machine. A mesh with axes for the model is `execution/model_axis/`.
"""

from fedjaxlite.execution.layout.execution import Execution as Execution
from fedjaxlite.execution.layout.execution import Layout as Layout
from fedjaxlite.execution.layout.execution import resolve as resolve
from fedjaxlite.execution.layout.execution import spans_processes as spans_processes
from fedjaxlite.execution.layout.execution import with_model as with_model
from fedjaxlite.execution.layout.lanes_that_fit import memory_of as memory_of
from fedjaxlite.execution.layout.lanes_that_fit import with_lanes as with_lanes
from fedjaxlite.execution.layout.over_devices import in_mesh as in_mesh
from fedjaxlite.execution.layout.over_devices import merge as merge
from fedjaxlite.execution.layout.over_devices import most_over_devices as most_over_devices
from fedjaxlite.execution.layout.over_devices import of_all_devices as of_all_devices
from fedjaxlite.execution.layout.over_devices import over_devices as over_devices
from fedjaxlite.execution.layout.placing import made_in_place as made_in_place
from fedjaxlite.execution.layout.placing import place as place
from fedjaxlite.execution.layout.placing import placed_shapes as placed_shapes
from fedjaxlite.execution.layout.placing import shardings_like as shardings_like
from fedjaxlite.execution.model_axis.mesh import AXIS as AXIS
