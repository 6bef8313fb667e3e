"""LEAF's JSON files: users with lists of examples, many users to a file."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedjaxlite import checks
from fedjaxlite.data.incoming import choice, columns, gather
from fedjaxlite.datasets.formats import parts

_EXPECTED = 'expected LEAF\'s {"users": [...], "num_samples": [...], "user_data": {user: {"x": [...], "y": [...]}}}'


def from_leaf(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    features: Sequence[str] | Mapping[str, str] | None = None,
    encode: Mapping[str, Callable[[Any], Any]] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    clients: Sequence[str] | None = None,
    num_clients: int | None = None,
    check_finite: bool = True,
    allow_empty: bool = False,
) -> Any:
    """Reads data in LEAF's format: one client a user.

    One file is held at a time, beside the arrays read so far; Python needs three to ten times its size for it, the more
    the fewer digits its numbers have.
    Left out are `hierarchies` (a user's group, such as a play: LEAF's own split by sample leaves users out and their
    hierarchies in, so that the two lists need not agree), `raw` (a user's whole text, which is no example's), and
    users that stand in `user_data` alone, without an example (that same split leaves them there).

    Args:
      path: a folder of .json files, a file, or a list of files. A folder that holds the folders `train` and `test`
        gives both.
      features: which of a user's lists to take, such as ["x", "y"], or {"x": "image", "y": "y"} for names of one's
        own; None takes all.
      encode: for a list that holds no numbers, a function of one value, such as
        {"x": fl.datasets.encode_characters(...)}; it gives a number, or an array of one shape.
      shapes: the shape of one row, such as {"x": (28, 28, 1)} where FEMNIST has 784 numbers, or {"y": ()} for a list
        of one.
      clients: ids of users, whom the result has in this order; None takes all.
      num_clients: take the first so many and read no further; None takes all. For users at random take
        `population.select`.
      check_finite: refuse NaN and infinity.
      allow_empty: let a user have no example.

    Returns:
      A Population, users in the order of the files (all_data_2.json before all_data_10.json) and of `users` in each;
      or `(train, test)`, the test's users in the order of the training's where they are the same. Whole numbers are
      int32, others float32.

    Raises:
      FileNotFoundError: there is no such file, or no .json file in the folder.
      ValueError, TypeError: a file is not as LEAF writes it, or a list makes no array; the text names file and user.

    Guarantees:
      Every example of every user taken is there once; a user whose number of examples is not that of `num_samples`, or
      who is in two files, is refused.

    Source:
      Caldas et al. (2018), LEAF: a benchmark for federated settings. https://arxiv.org/abs/1812.01097

    Example:
      >>> import json, pathlib, tempfile
      >>> import fedjaxlite as fl
      >>> data = {"users": ["u1", "u0"], "num_samples": [1, 2],
      ...         "user_data": {"u0": {"x": ["ab", "ba"], "y": [1, 0]}, "u1": {"x": ["bb"], "y": [1]}}}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = pathlib.Path(folder, "all_data_0.json").write_text(json.dumps(data))
      ...     people = fl.datasets.from_leaf(folder, encode={"x": fl.datasets.encode_characters("ab")})
      >>> people.names.tolist(), people.client(1)["x"].tolist()
      (['u1', 'u0'], [[2, 3], [3, 2]])
    """
    wanted = choice.wanted(features, encode, shapes)
    chosen = choice.clients(clients, num_clients)
    options = {**checks_of(check_finite, allow_empty), "untyped": True}
    if isinstance(path, (list, tuple)):
        if not path:
            raise ValueError("`path` is empty; expected at least one file.")
        files, source = [parts.existing(file) for file in path], f"these {len(path)} files"
        folder = next((file for file in files if file.is_dir()), None)
        if folder is not None:
            raise ValueError(f"`path` lists {str(folder)!r}, which is a folder; expected files, or one folder alone.")
        return gather.of_clients(_chunks(files, wanted, chosen), wanted, chosen, source=source, **options)
    here = parts.existing(path)

    def read(place: Path) -> Any:
        chunks = _chunks(_files(place), wanted, chosen)
        return gather.of_clients(chunks, wanted, chosen, source=repr(str(place)), **options)

    halves = parts.train_and_test(here)
    return read(here) if halves is None else parts.both(halves, read)


def checks_of(check_finite: Any, allow_empty: Any) -> dict[str, bool]:
    """Two flags that readers share, checked."""
    return {"check_finite": checks.flag(check_finite=check_finite), "allow_empty": checks.flag(allow_empty=allow_empty)}


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    found = parts.sorted_naturally(place.glob("*.json"))
    if not found:
        inside = ", ".join(repr(p.name) for p in parts.sorted_naturally(place.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(f"there is no .json file in {str(place)!r}; it holds {inside}.")
    return found


def _chunks(files: list[Path], wanted: choice.Wanted, chosen: choice.Clients) -> Iterator[gather.Chunk]:
    """The users that are wanted, a file to a chunk, until all of them are found."""
    asked = None if chosen.names is None else set(chosen.names)
    left = chosen.most if asked is None else len(asked)
    for file in files:
        if left == 0:
            return
        users, user_data = _users(file)
        taken = [(user, n) for user, n in users if asked is None or user in asked][:left]
        left = None if left is None else left - len(taken)
        yield _chunk(taken, user_data, wanted, repr(str(file)))
        del user_data  # before the next file is read


def _chunk(users: list[tuple[str, int | None]], user_data: Any, wanted: choice.Wanted, source: str) -> gather.Chunk:
    raw: dict[str, list[Any]] = {}
    sizes: list[int] = []
    for user, stated in users:
        lists = {key: rows for key, rows in user_data.pop(user).items() if key != "raw"}
        if not raw:
            columns.check_columns(wanted, lists)
            raw = {key: [] for key in (lists if wanted.features is None else wanted.features)}
        if wanted.features is None and set(lists) != set(raw):
            raise ValueError(f"user {user!r} of {source} has {sorted(lists)}, but others have {sorted(raw)}.")
        size = None
        for key, rows_so_far in raw.items():
            rows = lists.get(key)
            if not isinstance(rows, list):
                raise ValueError(f"`{key}` of user {user!r} in {source} is {checks.shown(rows)}; expected a list.")
            if size is not None and len(rows) != size:
                lengths = {k: len(lists[k]) for k in raw if isinstance(lists.get(k), list)}
                raise ValueError(f"the lists of user {user!r} in {source} have lengths {lengths}; expected one length.")
            size = len(rows)
            rows_so_far.extend(rows)
        if stated is not None and stated != size:
            raise ValueError(
                f"user {user!r} in {source} has {size} examples, but `num_samples` says {stated}; the file is not "
                "whole."
            )
        sizes.append(size or 0)
    return gather.Chunk([user for user, _ in users], sizes, raw, source)


def _users(file: Path) -> tuple[list[tuple[str, int | None]], dict[str, Any]]:
    """The users of a file with the number of examples it states, and their data."""
    try:
        with file.open(encoding="utf-8") as opened:
            data = json.load(opened)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(file)!r} is no JSON: {error}.") from error
    if not isinstance(data, dict) or not isinstance(data.get("user_data"), dict) or not _is_list(data.get("users")):
        told = f"the keys {sorted(data)[:8]}" if isinstance(data, dict) else checks.shown(data)
        raise ValueError(f"{str(file)!r} holds {told}; {_EXPECTED}.")
    users, user_data = data["users"], data["user_data"]
    stated = data.get("num_samples", [None] * len(users))
    if not isinstance(stated, list) or len(stated) != len(users):
        raise ValueError(f"`num_samples` of {str(file)!r} does not say one number for each of {len(users)} users.")
    odd = next((user for user in users if not isinstance(user, str)), None)
    if odd is not None:
        raise ValueError(f"`users` of {str(file)!r} holds {odd!r}; expected ids that are strings, as keys of JSON are.")
    if len(set(users)) < len(users):
        twice = next(user for i, user in enumerate(users) if user in users[:i])
        raise ValueError(f"user {twice!r} stands twice in `users` of {str(file)!r}; expected every client once.")
    for user in users:
        if not isinstance(user_data.get(user), dict):
            raise ValueError(f"{str(file)!r} names user {user!r}, but has no data of that user; {_EXPECTED}.")
    for user in user_data.keys() - set(users):
        if any(_is_list(rows) and rows for rows in user_data[user].values()):
            raise ValueError(f"{str(file)!r} has examples of {user!r}, who is not among its `users`.")
    return list(zip(users, stated, strict=True)), user_data


def _is_list(value: Any) -> bool:
    return isinstance(value, list)
