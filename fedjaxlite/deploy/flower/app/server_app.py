"""What the server runs: it draws cohorts, hands out the model, decodes what comes back and takes the server's step.

It needs fedjaxlite, and the folder `server/` of this app, which no node gets: `server-folder` in the run's
configuration says where that is. Nodes get this file too, and never run it.
"""
# pyright: reportMissingImports=false

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds of the run."""
    from fedjaxlite.deploy.flower.serving import serve

    config = context.run_config
    serve(
        grid,
        Path(str(config["server-folder"])),
        num_rounds=int(config["num-rounds"]),
        min_clients=int(config["min-clients"]),
        round_seconds=float(config["round-seconds"]),
        evaluate_every=int(config["evaluate-every"]),
    )
