"""How long a client trains: the arguments that methods around local training share, checked in one place."""

from typing import Any

import fedjaxlite as fl


def local_length(*, batch_size: Any, epochs: Any, steps: Any, shuffle: Any) -> dict[str, Any]:
    """The length of local training by keyword, as `fl.local_sgd` takes it and a record tells it.

    Args:
      batch_size: B; None is the full batch.
      epochs: passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch.

    Returns:
      a dict of the four, numbers as plain ints or as the tracers that they are.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Example:
      >>> local_length(batch_size=10, epochs=None, steps=None, shuffle=True)
      {'batch_size': 10, 'epochs': 1, 'steps': None, 'shuffle': True}
    """
    epochs, steps = fl.checks.trip_count(epochs=epochs, steps=steps)
    return {
        "batch_size": None if batch_size is None else fl.checks.positive_int(batch_size=batch_size),
        "epochs": 1 if epochs is None and steps is None else epochs,
        "steps": steps,
        "shuffle": fl.checks.flag(shuffle=shuffle),
    }
