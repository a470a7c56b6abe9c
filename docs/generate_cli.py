"""Writes ``docs/cli.md`` from the commands themselves: ``python docs/generate_cli.py``."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from basiq_async.cli import build_app

FILE = Path(__file__).with_name("cli.md")
_HEAD = "| | |\n|---|---|"
_OFTEN = 2
"""An option or argument that several commands have in the same words is told once."""
_LISTED = "The operations and their fields:"
_BEGIN = "<!-- Everything below is written by docs/generate_cli.py. -->"


def page() -> str:
    """Return the page: what stands above the mark by hand, and every command below it."""
    written = FILE.read_text(encoding="utf-8") if FILE.exists() else "# The command line\n\n" + _BEGIN
    above = written.partition(_BEGIN)[0].rstrip()
    program = get_command(build_app())
    counts = Counter(_rows(program))
    # Of two texts for one name, the rarer stays with its commands.
    common = {row.split("|")[1]: row for row, count in reversed(counts.most_common()) if count >= _OFTEN}
    often = list(common.values())
    shared = ["## Arguments and options of several commands", "", _HEAD, *reversed(often)]
    return "\n".join([above, "", _BEGIN, "", *shared, "", *_lines(program, "", often)]).rstrip() + "\n"


def _rows(command: Any) -> Iterator[str]:
    """Yield the row of each argument and option of a command and the commands below it."""
    yield from (_row(param) for param in (*_arguments(command), *_options(command)))
    for inner in getattr(command, "commands", {}).values():
        yield from _rows(inner)


def _options(command: Any) -> list[Any]:
    return [param for param in command.params if param.param_type_name == "option" and not param.hidden]


def _arguments(command: Any) -> list[Any]:
    return [param for param in command.params if param.param_type_name == "argument"]


def _row(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"| `{_argument(param)}` | {_text(param.help)} |"
    return f"| {_option(param)} | {_text(param.help)}{_default(param)} |"


def _lines(command: Any, name: str, often: Collection[str]) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    arguments, options = _arguments(command), _options(command)
    if name:
        usage = " ".join([name, *[_argument(param) for param in arguments]])
        yield f"## `{usage}`" if " " not in name else f"### `{usage}`"
        yield ""
        yield _help(command.help or "", name)
        yield ""
    if name and (not inner or len(options) > 1):
        if rows := [row for row in map(_row, (*arguments, *options)) if row not in often]:
            yield from (_HEAD, *rows, "")
        if shared := [f"`{param.opts[0]}`" for param in options if _row(param) in often]:
            yield f"And {', '.join(shared)}."
            yield ""
    for each, found in inner.items():
        yield from _lines(found, f"{name} {each}".strip(), often)


def _help(text: str, name: str) -> str:
    """Return the help of a command. A list of what a server can do is left to ``--help``."""
    said, listed, _ = inspect.cleandoc(text).partition(_LISTED)
    return f"{said.rstrip()} `{name} --help` lists the operations with their fields." if listed else said


def _argument(param: Any) -> str:
    shown = (param.metavar or param.name.upper()).strip("[]")
    return shown if param.required else f"[{shown}]"


def _option(param: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    if param.is_flag:
        return names
    return f"{names} `{(param.metavar or _kind(param)).replace('|', '&#124;')}`"


def _kind(param: Any) -> str:
    annotation = str(param.type_descriptor.annotation)
    return "N" if "int" in annotation or "float" in annotation else "TEXT"


def _text(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ").replace("*", "\\*")


def _default(param: Any) -> str:
    value = param.default
    parts = [f"Environment: `{param.envvar}`."] if param.envvar else []
    if param.required:
        parts.append("Required.")
    elif param.show_default and value not in (None, False, True, "", ()) and not callable(value):
        parts.append(f"Default: `{value}`.")
    return " " + " ".join(parts) if parts else ""


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
