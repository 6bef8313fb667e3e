"""A user's package for tests of the command line, and a few clients with a model and its loss."""

from pathlib import Path
from typing import Any

import numpy as np

import fedjaxlite as fl

PEOPLE = fl.Population.from_arrays(
    {"x": np.linspace(0, 1, 96, dtype=np.float32).reshape(12, 8), "y": np.arange(12, dtype=np.int32) % 3},
    client_ids=np.repeat(np.arange(4), 3),
)
MODEL = fl.models.mlp(features=(4, 3), input_shape=(8,))
LOSS = fl.losses.cross_entropy(MODEL)

MINE = '''
"""What a user writes."""
import jax.numpy as jnp
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms

NUMBER = 3


def slower(loss_fn, *, client_lr: float, num_clients: int, factor: float = 0.5, schedule=None) -> fl.Algorithm:
    """Federated averaging at a part of the rate."""
    assert num_clients == 6
    return algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(factor * client_lr), epochs=1)._replace(name="slower")


def no_algorithm(loss_fn):
    return 3


def nothing_of_a_loss(*, client_lr=0.1):
    return None


def wide(input_shape, num_classes, width: int = 4):
    return fl.models.mlp(features=(width, num_classes), input_shape=input_shape)


def no_model():
    return 3


def squared(params, batch, key):
    return jnp.square(batch["x"].reshape(len(batch["y"]), -1) @ params["dense_0"]["kernel"]).mean(1)


def weighted(model, factor: float = 2.0):
    inside = fl.losses.cross_entropy(model)
    def loss(params, batch, key):
        per_example, aux = inside(params, batch, key)
        return factor * per_example, aux
    return loss


def people():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)).astype(np.float32)
    return fl.Population.from_arrays({"x": x, "y": x.sum(1)}, client_ids=np.repeat(np.arange(6), 10))


def pair():
    x = np.eye(60, 5, dtype=np.float32)
    data = {"x": x, "y": (np.arange(60) % 3).astype(np.int32)}
    return data, data


def no_data():
    return {"x": 1}, 2, 3


def adam():
    return optax.adam(0.01)


def falling(round):
    return 1.0 / (1.0 + round)
'''


def package(folder: Path, monkeypatch: Any) -> str:
    """Makes a folder the working directory, with a package that no other test has imported; its module's name."""
    name = f"mine_{folder.name}".replace("-", "_")
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("")
    (folder / name / "things.py").write_text(MINE)
    (folder / name / "broken.py").write_text("import nothing_that_is_installed\n")
    (folder / name / "wrong.py").write_text("this is no Python\n")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))  # takes the entry of the working directory back afterwards
    return f"{name}.things"
