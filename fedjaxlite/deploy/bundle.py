"""What a device needs of this library, as one file: three rooms, and nothing of the algorithm.

`write_device` copies `deploy/device`, `transport` and `privacy/secagg` under the name `fedjaxlite_device`, with their
imports of each other renamed, into a zip that Python runs. A device has that file, jax, numpy, flatbuffers (which reads
a program) and, to enroll and for secure sums, cryptography.
"""

import ast
import hashlib
import io
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from fedjaxlite import checks

PACKAGE = "fedjaxlite_device"
NEEDED = ("numpy", "jax", "ml_dtypes", "cryptography")
"""What the three rooms import beside the standard library; flatbuffers is imported by JAX."""

_HERE = Path(__file__).resolve().parent.parent
_ROOMS = {"device": "deploy/device", "transport": "transport", "secagg": "privacy/secagg"}
# The secure sum's own transport and its demonstration: here the deployment's protocol carries it.
_LEFT_OUT = re.compile(r"secagg/(demo\.py|transport/.*)")
_NAMES = (
    (re.compile(r"\bfrom fedjaxlite\.privacy import secagg\b"), f"from {PACKAGE} import secagg"),
    (re.compile(r"\bfedjaxlite\.privacy\.secagg\b"), f"{PACKAGE}.secagg"),
    (re.compile(r"\bfedjaxlite\.deploy\.device\b"), f"{PACKAGE}.device"),
    (re.compile(r"\bfedjaxlite\.transport\b"), f"{PACKAGE}.transport"),
)
_ABOUT = '"""The device of a federated run: parts of fedjaxlite (Apache License 2.0), without its algorithms."""\n'
_START = f"import sys\n\nfrom {PACKAGE}.__main__ import main\n\nsys.exit(main())\n"


def write_device(path: str | os.PathLike[str]) -> str:
    """Writes the file that runs on a device: `python fedjaxlite_device.pyz --help`.

    Args:
      path: where to; an existing file is replaced.

    Returns:
      Its sha256, hex: the same for the same version of this library.

    Raises:
      ValueError: a file of the rooms imports what a device does not have.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     len(write_device(f"{folder}/fedjaxlite_device.pyz"))
      64
    """
    checks.one_instance((str, os.PathLike), "the path of a file to write", path=path)
    if Path(path).is_dir():
        raise IsADirectoryError(f"`path` is {os.fspath(path)!r}, a folder; expected the path of a file to write.")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, source in sorted(sources().items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, source)
    content = b"#!/usr/bin/env python3\n" + packed.getvalue()
    Path(path).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def sources() -> dict[str, str]:
    """The files of the bundle, by their names in it.

    Raises:
      ValueError: one imports what a device does not have.
    """
    found = {"__main__.py": _START, f"{PACKAGE}/__init__.py": _ABOUT}
    found[f"{PACKAGE}/__main__.py"] = _renamed(Path(__file__).with_name("bundle_main.py").read_text(encoding="utf-8"))
    for room, place in _ROOMS.items():
        for path in sorted((_HERE / place).rglob("*.py")):
            name = f"{room}/{path.relative_to(_HERE / place).as_posix()}"
            if not _LEFT_OUT.fullmatch(name):
                found[f"{PACKAGE}/{name}"] = _renamed(path.read_text(encoding="utf-8"))
    allowed = {*sys.stdlib_module_names, *NEEDED, PACKAGE}
    for name, source in found.items():
        foreign = sorted(set(roots(source)) - allowed)
        if foreign:
            raise ValueError(f"{name} imports {', '.join(foreign)}, and a device has {', '.join(NEEDED)} alone.")
    return found


def roots(source: str) -> Iterator[str]:
    """The packages that a source imports, inside of functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0] if not node.level else PACKAGE


def _renamed(source: str) -> str:
    for pattern, name in _NAMES:
        source = pattern.sub(name, source)
    return source
