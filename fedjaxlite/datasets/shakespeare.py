"""Shakespeare: predict the next character; every speaking role of every play is a client."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.data.population import Population
from fedjaxlite.datasets import folders

PAD, OOV, BOS, EOS = range(4)
"""Ids that stand for no character: padding, a character outside the vocabulary, begin and end of a client's text."""

CHARACTERS = "\n !\"#$%&'()*+,-./0123456789:;?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyz"
"""The 86 characters of the vocabulary, ascending; `CHARACTERS[i]` has the id i + 4."""

VOCAB_SIZE = 4 + len(CHARACTERS)
"""90, the number of ids."""

FILE = "shakespeare_plays.jsonl"


def load(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    seq_len: int = 80,
    num_clients: int | None = None,
    seed: int = 0,
) -> tuple[Population, Population]:
    r"""Speaking roles with at least two lines, each split in time: the last fifth of its lines is the test.

    At least one line of each role is in the test. A client's lines are joined by newlines, led by BOS and
    ended by EOS, and cut into windows: `y` is `x` one character on, every character is predicted exactly once, and the
    end of the last window is padded with PAD (0) in x and y. A loss takes the mean over positions where y is not 0, as
    `fl.losses.sequence_cross_entropy` does.

    Args:
      data_dir: the folder that holds `shakespeare_plays.jsonl`, one speech a line:
        `{"play": "hamlet", "role": "BERNARDO", "lines": ["Who's there?"]}`.
      path: another such file (.jsonl), or plain text (any other suffix) of speeches divided by blank lines, each led
        by a line `ROLE:`.
      seq_len: characters a window.
      num_clients: keep so many roles, drawn at random; None keeps all.
      seed: int of at least 0, for that draw.

    Returns:
      `(train, test)`, Populations of the same roles in order of appearance; x and y int32 `[n, seq_len]` of ids below
      `VOCAB_SIZE`; names such as "hamlet/BERNARDO".

    Raises:
      FileNotFoundError: no such file; the text says where it was looked for.
      ValueError: the file is of another form, or has fewer roles than asked for.

    Reference:
      McMahan et al. (2017), Communication-efficient learning of deep networks from decentralized data.
      https://arxiv.org/abs/1602.05629 (their edition has 1,146 such roles).

    Example:
      >>> import pathlib, tempfile
      >>> import fedjaxlite as fl
      >>> text = "ROMEO:\nBut soft!\nWhat light?\n\nJULIET:\nAy me!\nO Romeo\n"
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "play.txt")
      ...     _ = path.write_text(text)
      ...     train, test = fl.datasets.load("shakespeare", path=path, seq_len=12)
      >>> train.names.tolist(), fl.datasets.shakespeare.decode(test.client(0)["y"][0])
      (['ROMEO', 'JULIET'], 'What light?')
    """
    seq_len = int(checks.positive_int(seq_len=seq_len))
    roles = {role: lines for role, lines in _roles(_file(data_dir, path)).items() if len(lines) >= 2}
    names = list(roles)
    if num_clients is not None:
        num_clients = int(checks.positive_int(num_clients=num_clients))
        if num_clients > len(names):
            raise ValueError(f"num_clients={num_clients}, but there are {len(names)} roles with at least two lines.")
        names = [names[i] for i in sorted(host_arrays.generator(seed).permutation(len(names))[:num_clients])]
    train, test = [], []
    for name in names:
        lines = roles[name]
        cut = len(lines) - max(1, len(lines) // 5)
        train.append(_windows("\n".join(lines[:cut]), seq_len))
        test.append(_windows("\n".join(lines[cut:]), seq_len))
    return Population.from_clients(train, names=names), Population.from_clients(test, names=names)


def encode(text: str) -> np.ndarray:
    """The ids of a text's characters, int32 `[len(text)]`; OOV for those outside `CHARACTERS`.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.datasets.shakespeare.encode("To be").tolist()
      [54, 78, 5, 65, 68]
    """
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    return _IDS[np.minimum(points, len(_IDS) - 1)]


def decode(ids: np.ndarray) -> str:
    """The text of ids `[T]`: PAD, BOS and EOS vanish, OOV becomes U+FFFD.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.datasets.shakespeare.decode([2, 54, 78, 3, 0])
      'To'
    """
    symbols = ["", "\ufffd", "", "", *CHARACTERS]
    return "".join(symbols[i] for i in np.asarray(ids).ravel())


def _table() -> np.ndarray:
    ids = np.full(129, OOV, np.int32)
    ids[[ord(character) for character in CHARACTERS]] = np.arange(4, VOCAB_SIZE)
    return ids


_IDS = _table()


def _windows(text: str, seq_len: int) -> dict[str, np.ndarray]:
    stream = np.concatenate([[BOS], encode(text), [EOS]]).astype(np.int32)
    count = len(stream) - 1
    padded = -(-count // seq_len) * seq_len
    x, y = np.full(padded, PAD, np.int32), np.full(padded, PAD, np.int32)
    x[:count], y[:count] = stream[:-1], stream[1:]
    return {"x": x.reshape(-1, seq_len), "y": y.reshape(-1, seq_len)}


def _file(data_dir: str | os.PathLike[str] | None, path: str | os.PathLike[str] | None) -> Path:
    if path is not None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"`path` is {os.fspath(path)!r}; there is no such file.")
        return file
    found = folders.data_folders(data_dir)
    for folder in found:
        for place in (folder, folder.parent) if folder.name == "tfds" else (folder,):
            if (place / FILE).is_file():
                return place / FILE
    raise FileNotFoundError(
        f"the data set 'shakespeare' needs {FILE!r}; looked in {folders.looked_in(found)}. It holds one speech "
        'a line, as {"play": "hamlet", "role": "BERNARDO", "lines": ["Who\'s there?"]}. Pass data_dir=, or path= for '
        "such a file or for a plain text with `ROLE:` above every speech."
    )


def _roles(file: Path) -> dict[str, list[str]]:
    """The lines of each role, roles and lines in order of appearance."""
    roles: dict[str, list[str]] = {}
    text = file.read_text(encoding="utf-8")
    speeches = _from_json(file, text) if file.suffix == ".jsonl" else _from_text(file, text)
    for role, lines in speeches:
        roles.setdefault(role, []).extend(lines)
    return roles


def _from_json(file: Path, text: str) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            speech = json.loads(line)
            name, lines = f"{speech['play']}/{speech['role']}", speech["lines"]
            if not isinstance(lines, list) or not all(isinstance(part, str) for part in lines):
                raise TypeError("`lines` is no list of strings")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"line {number} of {str(file)!r} is no speech ({error}); expected "
                '{"play": "hamlet", "role": "BERNARDO", "lines": ["Who\'s there?"]}.'
            ) from error
        yield name, lines


def _from_text(file: Path, text: str) -> Iterator[tuple[str, list[str]]]:
    for number, block in enumerate(text.split("\n\n"), start=1):
        lines = [line for line in block.splitlines() if line.strip()]
        if not lines:
            continue
        if not lines[0].endswith(":"):
            raise ValueError(
                f"speech {number} of {str(file)!r} begins with {lines[0][:40]!r}; expected a line `ROLE:` above every "
                "speech, and a blank line below it."
            )
        yield lines[0].removesuffix(":"), lines[1:]
