"""The methods as the command line names them: which there are, their arguments from options, and what they start from.

    known.py      the methods, and one's own       arguments.py   from options and --set to a call of the method
    values.py     optimizers, leaves, functions    start.py       first models, and what evaluates them
    listing.py    what `fedjaxlite methods` tells  counting.py    bytes, client state and gradients, by counting
    cost_table.py what that comes to

What comes in: what a method needs that its signature does not say. A method of `algorithms` with the loss first is
found by itself.
"""

from fedjaxlite.cli.methods.arguments import Facts as Facts
from fedjaxlite.cli.methods.arguments import algorithm_of as algorithm_of
from fedjaxlite.cli.methods.arguments import arguments_of as arguments_of
from fedjaxlite.cli.methods.known import Method as Method
from fedjaxlite.cli.methods.known import find as find
from fedjaxlite.cli.methods.start import check_personal as check_personal
from fedjaxlite.cli.methods.start import evaluations as evaluations
from fedjaxlite.cli.methods.start import first_params as first_params
from fedjaxlite.cli.methods.start import loss_of as loss_of
from fedjaxlite.cli.methods.start import personal_evaluations as personal_evaluations
