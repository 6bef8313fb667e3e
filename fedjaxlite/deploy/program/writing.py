"""The file of a client's program, written: the same bytes for the same program, whenever and wherever that is."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

_NEVER = (1980, 1, 1, 0, 0, 0)
"""The date of all entries: a zip has to have one."""


def artifact_of(manifest: Mapping[str, Any], entries: Mapping[str, bytes]) -> tuple[bytes, dict[str, Any]]:
    """The artifact, and its manifest with the sha256 of every entry.

    Args:
      manifest: all that `fedjaxlite.deploy.device.artifact` asks for but "sha256".
      entries: "program.bin", "start.bin" and, where there is one, "evaluate.bin".

    Guarantees:
      The bytes are a function of the arguments and of the zlib that deflates them: no dates, no names of machines.
    """
    hashes = {name: hashlib.sha256(entries[name]).hexdigest() for name in sorted(entries)}
    whole = {**manifest, "sha256": hashes}
    text = json.dumps(whole, indent=1, sort_keys=True, allow_nan=False).encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (("manifest.json", text), *sorted(entries.items())):
            entry = zipfile.ZipInfo(name, _NEVER)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(entry, data, compresslevel=9)
    return file.getvalue(), json.loads(text)
