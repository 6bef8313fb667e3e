"""What an option is, and the panels of the help."""

from typing import Any

import typer

DATA, TRAINING, WHO, WIRE = "Data", "Model and training", "Participation", "What crosses the wire"
PRIVACY, ROBUST, EVALUATION = "Differential privacy", "Bad clients", "Evaluation"
MACHINE, OUTPUT = "Execution", "Output"
SWEEP, CLOCK = "Several runs at once", "The clock"


def option(panel: str, text: str, *names: str, **more: Any) -> Any:
    """An option of Typer in a panel of the help."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)
