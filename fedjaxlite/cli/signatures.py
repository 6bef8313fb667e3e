"""Words of the command line for functions and their arguments, read by signature.

eden:2   adam:0.01,b1=0.9   mlp:features=64x10     a name of the library, and arguments by place or by name
package.module:function                            what is one's own
"""

import importlib
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from fedjaxlite import checks

WORDS = {"true": True, "false": False, "none": None}
EMPTY = inspect.Parameter.empty
Reader = Callable[[str, str, Any], Any]
"""`(where, text, annotation) -> value`; `where` says for messages whose text it is."""

_IMPORT = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?::(.*))?")
_UNIONS = (types.UnionType, get_origin(Literal[0] | None))  # of types, and of what is none
_SEQUENCES = (tuple, list, Sequence)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def nearest(word: str, known: Iterable[str]) -> str:
    """A question after the name that was probably meant, or nothing.

    Example:
      >>> nearest("edn", ["eden", "sign"])
      ' Did you mean eden?'
    """
    near = checks.nearest(word, known)
    return "" if near is None else f" Did you mean {near}?"


def chosen(option: str, word: str, table: Iterable[str]) -> str:
    """The name in a table that a word is; "-" may stand for "_".

    Raises:
      ValueError: that names the nearest, and all of them.
    """
    name, names = word.strip().replace("-", "_").lower(), sorted(table)
    if name not in names:
        raise ValueError(f"{option} names {name!r}; expected one of {', '.join(names)}.{nearest(name, names)}")
    return name


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function by name, with annotations that are objects wherever they can be found."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, AttributeError, SyntaxError, TypeError):  # an annotation that only a type checker can read
        signature = inspect.signature(function)
    return dict(signature.parameters)


def arguments_of(
    option: str,
    text: str,
    name: str,
    parameters: Mapping[str, inspect.Parameter],
    words: str,
    read: Reader | None = None,
) -> dict[str, Any]:
    """Arguments by place or by name, with commas between, as a function takes them.

    Args:
      option: whose text it is, for messages.
      text: all of it, for messages.
      name: the function's.
      parameters: its own.
      words: such as "0.01,b1=0.9".
      read: reads a value; None takes numbers and words as they are.

    Raises:
      ValueError: for an argument that is not there, or is given twice.
    """
    names, given = [n for n, p in parameters.items() if p.kind not in _VARIADIC], {}
    for place, word in enumerate(filter(None, (part.strip() for part in _parts(words)))):
        key, equals, value = (part.strip() for part in word.partition("="))
        if not equals:
            if place >= len(names):
                raise ValueError(f"{option} gives {text!r}; {name} takes {', '.join(names) or 'no arguments'}.")
            key, value = names[place], word
        if key not in names:
            hint = nearest(key, names)
            raise ValueError(f"{option} gives {text!r}; {name} takes {', '.join(names) or 'no arguments'}.{hint}")
        if key in given:
            raise ValueError(f"{option} gives {text!r}, with {key} twice; once is enough.")
        given[key] = (
            plain(value) if read is None else read(f"{key} in {option} {text}", value, parameters[key].annotation)
        )
    return given


def check_complete(option: str, name: str, parameters: Mapping[str, inspect.Parameter], given: Iterable[str]) -> None:
    """Refuses a call that lacks an argument without a default."""
    left = [n for n, p in parameters.items() if p.default is EMPTY and p.kind not in _VARIADIC and n not in set(given)]
    if left:
        raise ValueError(f"{option} names {name} without {', '.join(left)}; write {name}:{','.join(left).upper()}.")


def called(
    option: str,
    text: str,
    name: str,
    function: Callable[..., Any],
    words: str,
    *,
    told: Mapping[str, Any] | None = None,
    read: Reader | None = None,
) -> Any:
    """What a function gives for arguments behind a colon; what it refuses is told with the option in front.

    Args:
      option: whose text it is, for messages.
      text: all of it, for messages.
      name: the function's.
      function: it.
      words: such as "f=3,iterations=5".
      told: arguments that do not come from the text.
      read: as in `arguments_of`.

    Raises:
      ValueError: for arguments that it does not have, lacks or refuses.
    """
    told = {} if told is None else told
    parameters = {n: p for n, p in parameters_of(function).items() if n not in told}
    given = arguments_of(option, text, name, parameters, words, read)
    check_complete(option, name, parameters, given)
    try:
        return function(**told, **given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{option} {text}: {error}") from None


def plain(text: str) -> Any:
    """A number, a truth, nothing, or the word itself.

    Example:
      >>> [plain(text) for text in ("3", "0.5", "true", "none", "fo")]
      [3, 0.5, True, None, 'fo']
    """
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def typed(where: str, text: str, annotation: Any) -> Any:
    """A value as an annotation says: numbers, truths, None, words, tuples as 64x10, functions as package.module:name.

    Args:
      where: whose text it is, for messages.
      text: the value.
      annotation: of the parameter; without one, or with Any, it is what it looks like.

    Raises:
      ValueError: for a text that is none of what the annotation allows.

    Example:
      >>> typed("--set steps", "20", int | None), typed("--model", "64x10", tuple[int, ...])
      (20, (64, 10))
    """
    kinds = _kinds(annotation)
    if type(None) in kinds and text.strip().lower() == "none":  # before it is a word
        return None
    for kind in kinds:
        found, value = _as(kind, text.strip(), where)
        if found:
            return value
    raise ValueError(f"{where} is {text!r}; expected {described(annotation)}.")


def described(annotation: Any) -> str:
    """An annotation in words."""
    words = {bool: "true or false", int: "an int", float: "a number", str: "a word", type(None): "none"}
    told = []
    for kind in _kinds(annotation):
        if get_origin(kind) is Literal:
            told += [str(choice) for choice in get_args(kind)]
        elif get_origin(kind) in _SEQUENCES:
            told.append("numbers with x between, such as 64x10")
        elif _is_callable(kind):
            told.append("a function, package.module:name")
        else:
            told.append(words.get(kind, "a number or a word"))
    return f"{', '.join(told[:-1])} or {told[-1]}" if len(told) > 1 else told[0]


def _kinds(annotation: Any) -> tuple[Any, ...]:
    union = get_origin(annotation) in _UNIONS
    return tuple(kind for part in get_args(annotation) for kind in _kinds(part)) if union else (annotation,)


def _is_callable(kind: Any) -> bool:
    return Callable in (kind, get_origin(kind))


def _as(kind: Any, text: str, where: str) -> tuple[bool, Any]:
    """Whether a text is of a kind, and then its value."""
    value = plain(text)
    if get_origin(kind) is Literal:
        found = [choice for choice in get_args(kind) if str(choice) == text]
        return bool(found), found[0] if found else None
    if get_origin(kind) in _SEQUENCES:
        parts = [plain(part) for part in _inside(text)]
        return bool(parts) and all(not isinstance(part, str) for part in parts), tuple(parts)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool), value
    if kind in (int, bool, type(None)):
        return type(value) is kind, value
    if kind is str:
        return True, text
    if is_import(text):
        return True, imported(where, text)
    if _is_callable(kind):
        return False, None
    return True, [plain(part) for part in _inside(text)] if text.startswith("[") else value


def _inside(text: str) -> list[str]:
    """The numbers of `64x10`, `(64,10)` or `[64, 10]`."""
    bare = text.strip("()[] ")
    return [part.strip() for part in re.split(r"[x,]", bare) if part.strip()]


def _parts(words: str) -> list[str]:
    """What stands between commas, but for those in brackets."""
    return re.split(r",(?![^(\[]*[)\]])", words)


def is_import(text: str) -> bool:
    """Whether a text has the form of `package.module:name`.

    Example:
      >>> [is_import(text) for text in ("mine.losses:mine", "mnist:3.0.1", "mlp:features=64x10")]
      [True, False, False]
    """
    return _IMPORT.fullmatch(text.strip()) is not None


def imported(option: str, text: str) -> Any:
    """What a module has under a name: `package.module:name`, from the working directory or what is installed.

    Args:
      option: whose text it is, for messages.
      text: such as "mine.methods:my_algorithm"; what stands behind a second colon is left out.

    Raises:
      ValueError: if there is no such module, it cannot be imported, or has no such name.
    """
    found = _IMPORT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{option} is {text!r}; expected package.module:name.")
    module, path = found[1], found[2]
    value = _module(option, text, module)
    for name in path.split("."):
        if not hasattr(value, name):
            public = [known for known in dir(value) if not known.startswith("_")]
            told = f"{option} is {text!r}, and {module} has no {name!r}.{nearest(name, public)}"
            raise ValueError(told)
        value = getattr(value, name)
    return value


def arguments_after(text: str) -> str:
    """What stands behind the second colon of `package.module:name:arguments`."""
    found = _IMPORT.fullmatch(text.strip())
    return (found[3] or "") if found else ""


def _module(option: str, text: str, name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it, also where this is an installed program
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        parents = [".".join(name.split(".")[: i + 1]) for i in range(name.count(".") + 1)]
        if error.name not in parents:
            raise ValueError(f"{option} is {text!r}, and {name} imports {error.name!r}, which is not here.") from error
        raise ValueError(
            f"{option} is {text!r}, and there is no module {error.name!r} in {here} nor among what is installed."
        ) from error
    except Exception as error:
        raise ValueError(
            f"{option} is {text!r}, and {name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
