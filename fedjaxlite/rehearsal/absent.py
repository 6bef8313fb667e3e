"""Devices of an accelerator that is not at hand: good for compiling, not for running."""

import contextlib
import importlib
import importlib.util
import os
import shutil
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from fedjaxlite.rehearsal.chips import gpu_description
from fedjaxlite.rehearsal.targets import Target

# What keeps libtpu from asking a cloud machine's metadata for what is not there, and from holding the lock of TPUs that
# it will not use: processes may compile at the same time. It reads them as it is loaded.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# The plugin looks for libraries that programs run with, and compiling needs none of them.
_NO_GPU = {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
# Where the system keeps the toolkit, beside what pip installs.
_SYSTEM_CUDA = (Path("/usr/local/cuda"),)
_PLUGINS = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")


def devices_of(target: Target) -> tuple[Any, ...]:
    """The devices of a target, for `fl.Execution(devices=...)`, meshes and shardings of programs that are compiled.

    Nothing can be put on them. JAX's own devices stay what they are, in processes that have started on them too.

    Args:
      target: of `target_named`.

    Returns:
      as many devices as the target has.

    Raises:
      ModuleNotFoundError: the environment lacks the target's compiler; the text says what to install.
    """
    jax.devices()  # first: what is loaded below must not become what JAX runs on
    found = missing(target)
    if found:
        raise ModuleNotFoundError(found)
    return _topology(target)


def missing(target: Target) -> str:
    """One sentence on what the environment lacks for compiling for a target; empty where it lacks nothing."""
    if target.chip.platform == "tpu":
        there = importlib.util.find_spec("libtpu") is not None or os.path.isfile(os.environ.get("TPU_LIBRARY_PATH", ""))  # noqa: PTH113
        lacks = [] if there else ["libtpu"]
    else:
        lacks = [] if _plugin() else ["JAX's CUDA plugin"]
        lacks += [name for name, found in (("ptxas", _ptxas()), ("libdevice", _libdevice())) if not found]
    extra = f"rehearse-{target.chip.platform}"
    return (
        f"compiling for {target.name} needs {' and '.join(lacks)}, which is not installed here: "
        f'pip install "fedjaxlite[{extra}]".'
        if lacks
        else ""
    )


@cache
def _topology(target: Target) -> tuple[Any, ...]:
    if target.chip.platform == "tpu":
        with _environment(_NO_TPU):
            return tuple(_tpu_topology(target).devices)
    with _environment(_NO_GPU):
        return tuple(_gpu_topology(target).devices)


def _tpu_topology(target: Target) -> topologies.TopologyDescription:
    # A slice of up to eight chips is one machine's; a larger one is made of machines of four, which is the default.
    bounds = (*target.shape, 1, 1)[:3]
    options: dict[str, Any] = {"chips_per_host_bounds": bounds} if target.num_devices <= 8 else {}
    return topologies.get_topology_desc(platform="tpu", topology_name=target.name, **options)


def _gpu_topology(target: Target) -> topologies.TopologyDescription:
    # Partitions, machines of a partition, GPUs of a machine.
    chip, count = target.chip, target.num_devices
    shape = f"1x{max(1, count // 8)}x{min(count, 8)}"
    config = gpu_description(chip.title, chip.memory, chip.bandwidth, chip.gpu) if chip.gpu else ""
    options: dict[str, Any] = {"topology": shape, "target_config": config}

    def described() -> topologies.TopologyDescription:
        return topologies.get_topology_desc(f"fedjaxlite {target.name}", platform="cuda", **options)

    try:
        return described()
    except NotImplementedError:
        # JAX has started before, and the plugin was not registered since CUDA's own libraries are not here.
        importlib.import_module(_plugin()).initialize()
        return described()


def _plugin() -> str:
    """The module of the CUDA plugin, or nothing."""
    if importlib.util.find_spec("jax_plugins") is None:
        return ""
    return next((name for name in _PLUGINS if importlib.util.find_spec(name) is not None), "")


def _ptxas() -> bool:
    return shutil.which("ptxas") is not None or _in_cuda("bin/ptxas")


def _libdevice() -> bool:
    return _in_cuda("nvvm/libdevice/libdevice.10.bc")


def _in_cuda(path: str) -> bool:
    """Whether a file of the CUDA toolkit is here, of pip's packages or of the system."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(base) for base in spec.submodule_search_locations or ()] if spec else []
    folders = [folder for root in roots for folder in root.glob("*")]
    folders += [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH", "CUDA_ROOT") if os.environ.get(name)]
    return any((folder / path).is_file() for folder in (*folders, *_SYSTEM_CUDA))


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Generator[None]:
    """Sets what the environment does not have, for as long as it takes."""
    added = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
