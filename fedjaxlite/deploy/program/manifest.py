"""What a program's file says of itself."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite.deploy.device.artifact import DTYPES, FORMAT
from fedjaxlite.deploy.program.client_half import info_names
from fedjaxlite.deploy.program.leaves import leaves_of
from fedjaxlite.deploy.program.template import Template, download_specs
from fedjaxlite.execution.halves.client_half import ClientState
from fedjaxlite.execution.remembering import steps_of
from fedjaxlite.training.identity import library_version, plain

_KEY, _INT = jax.ShapeDtypeStruct((2,), np.dtype(np.uint32)), jax.ShapeDtypeStruct((), np.dtype(np.int32))


def manifest_of(template: Template, platforms: tuple[str, ...]) -> dict[str, Any]:
    """The manifest, but for what only the exported program tells: memory, calling convention, evaluation, hashes.

    Raises:
      ValueError: for arrays of a dtype that files do not hold; for a secure sum that breaks a rule.
    """
    algorithm, aggregator = template.program.algorithm, template.program.aggregator
    steps = steps_of(algorithm.hparams)
    features = template.population.features
    words = sum(leaf.size for leaf in jax.tree.leaves(template.message))
    message = [{"path": "words", "shape": [words], "dtype": "uint32"}]
    return {
        "format": FORMAT,
        "algorithm": algorithm.name,
        "aggregator": aggregator.name,
        "hyperparameters": {
            "algorithm": plain(algorithm.hparams),
            "aggregator": {part.name: plain(part.hparams) for part in aggregator.parts},
        },
        "capacity": template.capacity,
        "download": _specs("shared", template.shared) + _codec_specs(template),
        "state": _specs("state", template.state),
        "message": message if template.masked else _specs("message", template.message),
        "features": {
            name: {"shape": list(features[name].shape[1:]), "dtype": _dtype(f"features[{name!r}]", features[name])}
            for name in sorted(features)
        },
        "info": info_names(template),
        "noise": bool(template.draws_noise),
        "masked": template.masked,
        "secure_sum": _secure_sum(template, words) if template.masked else None,
        "steps": None if steps is None else int(steps(template.capacity, jnp.float32(1))),
        "platforms": list(platforms),
        "versions": {"jax": jax.__version__, "fedjaxlite": library_version()},
    }


def program_shapes(template: Template) -> list[Any]:
    """What the program takes: see `client_half`."""
    return [*evaluation_shapes(template)[:-1], _INT, _KEY, _INT, _KEY]


def evaluation_shapes(template: Template) -> list[Any]:
    """What an evaluation takes: see `client_measure`."""
    features, capacity = template.population.features, template.capacity
    rows = [jax.ShapeDtypeStruct((capacity, *features[n].shape[1:]), features[n].dtype) for n in sorted(features)]
    return [*download_specs(template), *leaves_of(template.state), *rows, _INT]


def start_of(template: Template, params: Any) -> list[np.ndarray]:
    """What every client keeps before its first round, as plain arrays."""
    params, update = jax.tree.map(jnp.asarray, params), template.found.output.update
    state = ClientState(template.program.algorithm.init_client(params), template.codecs.init_client(update))
    return [np.asarray(leaf) for leaf in leaves_of(state)]


def _specs(what: str, tree: Any) -> list[dict[str, Any]]:
    paths = [what + jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    leaves = leaves_of(tree)
    return [_spec(path, leaf) for path, leaf in zip(paths, leaves, strict=True)]


def _codec_specs(template: Template) -> list[dict[str, Any]]:
    """Of the codecs' state what clients read."""
    every = _specs("codecs", template.opened)
    return [every[place] for place in template.kept]


def _spec(path: str, leaf: Any) -> dict[str, Any]:
    return {"path": path, "shape": list(leaf.shape), "dtype": _dtype(path, leaf)}


def _dtype(path: str, leaf: Any) -> str:
    name = str(np.dtype(leaf.dtype))
    if name not in DTYPES:
        raise ValueError(
            f"{path} is of dtype {name}; expected one of those that a program's file holds: {sorted(DTYPES)}."
        )
    return name


def _secure_sum(template: Template, words: int) -> dict[str, Any]:
    """The arguments of `secagg.parameters` for these masks, checked by it."""
    from fedjaxlite.privacy.masking.mask_rules import default_min_survivors, default_neighbors
    from fedjaxlite.privacy.secagg.parameters import parameters

    told = next(part.hparams for part in template.program.aggregator.parts if part.role == "mask")
    capacity = template.program.sampler.capacity
    most = min(capacity - 1, told["neighbors"] or default_neighbors(capacity))
    fewest = told["min_survivors"] or default_min_survivors(capacity, most, told["colluders"])
    agreed: dict[str, Any] = {
        "num_clients": capacity,
        "length": words,
        "neighbors": most,
        "threshold": told["threshold"],
        "colluders": told["colluders"],
        "min_survivors": fewest,
    }
    parameters(**agreed)
    return agreed
