"""A deployed run as a Flower app, for people who have a fleet there: `fl.deploy.export_flower`.

    export.py    writes the app: the program, the node's half, the server's half and what stays with the server
    texts.py     its pyproject.toml, README.md and LICENSE
    rebuilding.py  the rounds again, in the process of the server, from a function that the user names
    serving.py   the server's rounds over Flower's grid
    app/         the two files that Flower runs, as they are written into the app

What comes in: Flower's side of a deployment. What is computed stands in `deploy/program` and `deploy/server`. Flower
itself is imported by `serving` and by the files of the app alone, in the processes that Flower starts.
"""

from fedjaxlite.deploy.flower.export import FlowerApp as FlowerApp
from fedjaxlite.deploy.flower.export import export_flower as export_flower
