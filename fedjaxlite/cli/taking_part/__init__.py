"""Who takes part in a run of the command line, and when: samplers, and the clock around them.

    samplers.py   clients by name: uniform, poisson, cyclic, available; oort, refl, power_of_choice
    times.py      how long clients take, and when they are there: --service and --availability
    clock.py      options of the clock that go together, and the sampler that they make

What comes in: what turns the options of participation into samplers of `fl.sampling` and `fl.systems`.
"""

from fedjaxlite.cli.taking_part.clock import check as check
from fedjaxlite.cli.taking_part.clock import sampler as sampler
