"""The user's shardings of the parameters, held against the parameters: an entry for each of them, or a clear error."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.execution.model_axis.mesh import AXIS, model_axes

PyTree = Any
Names = tuple[Any, ...]


class Entry(NamedTuple):
    """How one parameter is sharded.

    Attributes:
      path: the names on the way to it.
      shape: its shape.
      axes: for each of its axes the axes of the mesh that share it.
      pieces: how many different pieces there are.
    """

    path: Names
    shape: tuple[int, ...]
    axes: tuple[tuple[str, ...], ...]
    pieces: int = 1


Table = tuple[Entry, ...]


def table_of(given: Any, params: PyTree, mesh: jax.sharding.Mesh, *, strict: bool) -> Table:
    """How every parameter is sharded.

    Args:
      given: `Execution.param_shardings`: a pytree of specs like the parameters or with fewer levels, or a function.
      params: the model, or its shapes.
      mesh: of `mesh.checked`.
      strict: whether what does not fit is refused; else those parameters lie whole on every device.

    Raises:
      TypeError, ValueError: what does not fit, with the path.
    """
    leaves = [(checks.path_names(path), path, leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]]
    if given is None:
        if strict and math.prod(model_axes(mesh).values()) > 1:
            raise ValueError(_missing_all(mesh))
        return tuple(Entry(names, jnp.shape(leaf), ((),) * jnp.ndim(leaf)) for names, _, leaf in leaves)
    spec_of = _by_function(given) if callable(given) and not _is_spec(given) else _by_tree(given, params, strict)
    table = []
    for names, path, leaf in leaves:
        shape = tuple(jnp.shape(leaf))
        try:
            axes = _checked(spec_of(names, path, leaf), shape, f"params{jax.tree_util.keystr(path)}", mesh)
        except ValueError:
            if strict:
                raise
            axes = ((),) * len(shape)
        table.append(Entry(names, shape, axes, math.prod(mesh.shape[name] for entry in axes for name in entry)))
    return tuple(table)


def check_form(given: Any, mesh: jax.sharding.Mesh | None) -> None:
    """Refuses shardings that fit no parameters, before there are any."""
    if given is None:
        return
    if not model_axes(mesh):
        raise ValueError(
            "`param_shardings` is given, and there is no mesh with an axis for the model to shard over. Give "
            f'`mesh`, such as jax.sharding.Mesh(devices.reshape(2, 2), ("{AXIS}", "model")), or leave it out.'
        )
    if callable(given) and not _is_spec(given):
        checks.is_function_of("path", "leaf", remedy="It returns a jax.P for each parameter.", param_shardings=given)
        return
    for path, spec in _flat(given):
        if not _is_spec(spec):
            raise TypeError(_no_spec(spec, f"`param_shardings`{jax.tree_util.keystr(path)} is"))


def _by_function(given: Callable[[Names, Any], Any]) -> Callable[..., Any]:
    return lambda names, path, leaf: given(names, leaf)


def _by_tree(given: Any, params: PyTree, strict: bool) -> Callable[..., Any]:
    """Looks up the spec at a parameter's path, or at what is above it."""
    specs = {checks.path_names(path): (path, spec) for path, spec in _flat(given)}
    paths = [checks.path_names(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    for names, (path, _) in specs.items():
        if strict and not any(whole[: len(names)] == names for whole in paths):
            raise ValueError(
                f"`param_shardings` has an entry at {checks.path_str(path)}, where `params` has nothing; its structure "
                f"is that of the parameters, or the beginning of it.{_meant(path, params)}"
            )

    def spec_of(names: Names, path: Any, leaf: Any) -> Any:
        del leaf
        found = [names[:n] for n in range(len(names) + 1) if names[:n] in specs]
        if not found:
            if not strict:
                return None
            raise ValueError(
                f"`param_shardings` says nothing of params{jax.tree_util.keystr(path)}. Give it a jax.P there or "
                "above it; None is a copy on every device of a lane."
            )
        return specs[found[0]][1]

    return spec_of


def _meant(path: Any, params: PyTree) -> str:
    known = [checks.path_str(p) for p, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    return checks.did_you_mean(checks.path_str(path), known)


def _flat(given: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(given, is_leaf=_is_spec)[0]


def _is_spec(value: Any) -> bool:
    return value is None or isinstance(value, (jax.P, jax.NamedSharding))


def _checked(spec: Any, shape: tuple[int, ...], where: str, mesh: jax.sharding.Mesh) -> tuple[tuple[str, ...], ...]:
    """The axes of a spec, one entry for each axis of the parameter."""
    if not _is_spec(spec):
        raise TypeError(_no_spec(spec, f"`param_shardings` gives {where}"))
    said = f"`param_shardings` gives {where}, which has the shape {list(shape)}, {_shown(spec)}"
    if isinstance(spec, jax.NamedSharding):
        if dict(spec.mesh.shape) != dict(mesh.shape):
            raise ValueError(
                f"{said} on a mesh of {dict(spec.mesh.shape)}, and `mesh` is one of {dict(mesh.shape)}. Give the spec "
                "alone, a jax.P."
            )
        spec = spec.spec
    entries = () if spec is None else tuple(spec)
    if len(entries) > len(shape):
        raise ValueError(f"{said}: {len(entries)} entries for {len(shape)} axes. Expected one for each axis, or fewer.")
    axes = [_axes_of(entry, said, mesh) for entry in entries]
    named = [name for entry in axes for name in entry]
    if len(set(named)) < len(named):
        raise ValueError(f"{said}, which names an axis of the mesh twice; expected each at most once.")
    for place, (entry, size) in enumerate(zip(axes, shape, strict=False)):
        pieces = math.prod(mesh.shape[name] for name in entry)
        if size % pieces:
            raise ValueError(
                f"{said}: the {size} entries of axis {place} are no multiple of the {pieces} devices along "
                f"{' x '.join(entry)}. Shard another axis, or pad the model."
            )
    return (*axes, *((),) * (len(shape) - len(axes)))


def _axes_of(entry: Any, said: str, mesh: jax.sharding.Mesh) -> tuple[str, ...]:
    if entry is jax.P.UNCONSTRAINED:
        raise ValueError(f"{said}, which leaves an axis open; expected names of axes of the mesh, or None.")
    names = () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
    known = model_axes(mesh)
    for name in names:
        if name == AXIS:
            raise ValueError(
                f"{said}: over {AXIS!r} clients are trained side by side, each with a whole model. Expected axes of "
                f"the model: {', '.join(map(repr, known))}."
            )
        if name not in known:
            raise ValueError(
                f"{said}: the mesh has no axis {name!r}. Expected axes of the model: {', '.join(map(repr, known))}."
            )
    return names


def _shown(spec: Any) -> str:
    if spec is None:
        return "None"
    return str(spec.spec if isinstance(spec, jax.NamedSharding) else spec)


def _no_spec(spec: Any, beginning: str) -> str:
    return (
        f"{beginning} {checks.shown(spec)}; expected a jax.P, such as jax.P(None, 'model'), a jax.NamedSharding, or "
        "None for a copy on every device of a lane."
    )


def _missing_all(mesh: jax.sharding.Mesh) -> str:
    sizes = " x ".join(f"{name!r} ({size})" for name, size in model_axes(mesh).items())
    return (
        f"`mesh` has {sizes} beside {AXIS!r}, and `param_shardings` is None: every device of a lane would compute the "
        "same. Say how the parameters are sharded, as a pytree of jax.P like `params` or a function of (path, leaf)."
    )
