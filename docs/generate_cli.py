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
_OFTEN = 4
"""An option that so many commands have in the same words is told once."""
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
    shared = ["## Options of several commands", "", _HEAD, *reversed(often)]
    return "\n".join([above, "", _BEGIN, "", *shared, "", *_lines(program, "basiq-async", often)]).rstrip() + "\n"


def _rows(command: Any) -> Iterator[str]:
    """Yield the row of each option of a command and the commands below it."""
    yield from (_row(param) for param in _options(command))
    for inner in getattr(command, "commands", {}).values():
        yield from _rows(inner)


def _options(command: Any) -> list[Any]:
    return [param for param in command.params if param.param_type_name == "option" and not param.hidden]


def _row(param: Any) -> str:
    return f"| {_option(param)} | {_text(param.help)}{_default(param)} |"


def _lines(command: Any, name: str, often: Collection[str]) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    if name != "basiq-async":
        yield f"## `{name}`" if name.count(" ") == 1 else f"### `{name}`"
        yield ""
        yield inspect.cleandoc(command.help or "")
        yield ""
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = _options(command)
    if name != "basiq-async" and (not inner or len(options) > 1):
        words = [_argument(param) for param in arguments]
        yield "```\n" + " ".join([name, *(["[OPTIONS]"] if options else []), *words]) + "\n```"
        yield ""
        rows = [f"| `{_argument(param)}` | {_text(param.help)} |" for param in arguments]
        rows += [_row(param) for param in options if _row(param) not in often]
        if rows:
            yield from (_HEAD, *rows, "")
        if shared := [f"`{param.opts[0]}`" for param in options if _row(param) in often]:
            yield f"And {', '.join(shared)}: see [above](#options-of-several-commands)."
            yield ""
    for each, found in inner.items():
        yield from _lines(found, f"{name} {each}", often)


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
