"""The options of the command line, in the page that names a command: `<!-- options: run -->`, `export flower`."""

import re
from collections.abc import Iterator
from typing import Any

import typer.main

from fedjaxlite.cli.app import app

PLACE = re.compile(r"<!-- options: (\w+(?: \w+)*) -->")


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """What MkDocs calls for every page."""
    del kwargs
    return PLACE.sub(lambda found: tables(found[1]), markdown)


def tables(name: str) -> str:
    """A command's description, and a table of options for each panel of its help."""
    commands = all_commands()
    if name not in commands:
        raise ValueError(f"a page asks for the options of {name!r}; the commands are {', '.join(commands)}.")
    command = commands[name]
    panels: dict[str, list[str]] = {}
    for option in command.params:
        panel = getattr(option, "rich_help_panel", None) or "Options"
        if getattr(option, "help", None):
            panels.setdefault(panel, []).append(_row(option))
    parts = [command.help or ""]
    for panel, rows in panels.items():
        title = [] if len(panels) == 1 else [f"**{panel}**\n"]
        parts.append("\n".join([*title, "| option | meaning | default |", "| --- | --- | --- |", *rows]))
    return "\n\n".join(parts)


def all_commands() -> dict[str, Any]:
    """Every command that does something, by its words: `run`, `export flower`."""
    return dict(_below(typer.main.get_command(app), ()))


def _below(group: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _below(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


def _row(option: Any) -> str:
    names = ", ".join(f"`{name}`{{ .option }}" for name in (*option.opts, *option.secondary_opts))
    if option.param_type_name == "argument":
        names = f"`{option.name.upper()}`"
    shown = getattr(option, "show_default", None)
    if isinstance(shown, str):
        default = shown
    elif shown is False or option.default is None or option.default is False:
        default = ""
    else:
        default = f"`{option.default}`"
    cells = (names, option.help or "", default)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
