"""The reference of the command line, made from the commands themselves while the documentation is built.

It stands at the end of ``cli.md``. In a shell, ``--help`` shows the same.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from typer.main import get_command

from basiq_async.cli import build_app

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_PAGE = "cli"
_OFTEN = 2
"""What several commands have in the same words stands once."""
_ANYWHERE = "--json"
"""The option that nearly every command has."""
_LISTED = "The operations and their fields:"


def setup(app: Sphinx) -> dict[str, bool]:
    """Put the reference at the end of its page."""
    app.connect("source-read", append)
    return {"parallel_read_safe": True}


def append(app: object, page: str, source: list[str]) -> None:
    """Append the reference to the source of its page; leave every other one as it is."""
    if page == _PAGE:
        source[0] += "\n" + reference()


def reference() -> str:
    """Return every command with its arguments and options, as Markdown."""
    program = get_command(build_app())
    commands = dict(_runnable(program, ""))
    counts = Counter(row for each in commands.values() for row in _rows(each))
    # Of two texts for one name, the rarer stays with its commands.
    often = {row.split(":")[0]: row for row, count in reversed(counts.most_common()) if count >= _OFTEN}
    without = [f"`{name}`" for name, each in commands.items() if _ANYWHERE not in _names(each)]
    shared = ["## Options of several commands", "", *sorted(often.values(), key=_is_option), ""]
    shared += [f"Each command has `{_ANYWHERE}`, except {', '.join(without)}."]
    first: dict[str, str] = dict.fromkeys(often.values(), "")
    for name, each in commands.items():
        for row in _rows(each):
            first.setdefault(row, name)
    return "\n".join([*shared, "", *_lines(program, "", first)]).rstrip() + "\n"


def _is_option(row: str) -> tuple[bool, str]:
    return row.startswith("- `--"), row


def _runnable(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield each command that can be run, with its name: groups cannot, but for one with options of its own."""
    inner = getattr(command, "commands", {})
    if name and (not inner or len(_options(command)) > 1):
        yield name, command
    for each, found in inner.items():
        yield from _runnable(found, f"{name} {each}".strip())


def _options(command: Any) -> list[Any]:
    return [param for param in command.params if param.param_type_name == "option" and not param.hidden]


def _arguments(command: Any) -> list[Any]:
    return [param for param in command.params if param.param_type_name == "argument"]


def _names(command: Any) -> list[str]:
    return [param.opts[0] for param in _options(command)]


def _rows(command: Any) -> list[str]:
    """Return the row of each option, and of each argument that may be left out: the usage names the others."""
    arguments = [f"- `{_argument(param)}`: {_text(param.help)}" for param in _arguments(command) if not param.required]
    return arguments + list(map(_row, _options(command)))


def _row(option: Any) -> str:
    return f"- {_option(option)}: {_text(option.help)}{_default(option)}"


def _lines(command: Any, name: str, first: Mapping[str, str], known: Collection[str] = ()) -> Iterator[str]:
    """Yield the lines of a command, and of those below it.

    first: the command that shows a row, or "" if it stands above all of them. known: the options that the group of the
        command has named.
    """
    inner = getattr(command, "commands", {})
    if name:
        yield from (
            f"{'###' if ' ' in name else '##'} `{_usage(command, name)}`",
            "",
            _help(command.help or "", name),
            "",
        )
    if name and (not inner or len(_options(command)) > 1):
        if rows := _own(command, name, first):
            yield from (*rows, "")
        if also := _also(command, name, first, known):
            yield from (also, "")
    common, spare = _common(inner) if name else ([], "")
    if common:
        yield f"Each command{spare and f' but `{spare}`'} has {_join(common)}."
        yield ""
    short = [each for each, found in inner.items() if name and _is_short(found, f"{name} {each}", first)]
    for each in short:
        full, found = f"{name} {each}", inner[each]
        yield " ".join(filter(None, [f"- `{_usage(found, full)}`:", found.help, _also(found, full, first, common)]))
    if short:
        yield ""
    for each, found in inner.items():
        if each not in short:
            yield from _lines(found, f"{name} {each}".strip(), first, common)


def _own(command: Any, name: str, first: Mapping[str, str]) -> list[str]:
    return [row for row in _rows(command) if first[row] == name]


def _also(command: Any, name: str, first: Mapping[str, str], known: Collection[str]) -> str:
    """Return a sentence with the options that stand elsewhere: above all commands, or with an earlier one."""
    found: dict[str, list[str]] = {}
    for option, row in zip(_names(command), map(_row, _options(command)), strict=True):
        if first[row] != name and option not in known and option != _ANYWHERE:
            found.setdefault(first[row], []).append(option)
    parts = [_join(names) + (f" as for `{other}`" if other else "") for other, names in sorted(found.items())]
    return f"And {'; '.join(parts)}." if parts else ""


def _is_short(command: Any, name: str, first: Mapping[str, str]) -> bool:
    """Return whether a command has a line of text, and no argument or option of its own."""
    return "\n" not in (command.help or "") and not _own(command, name, first)


def _common(inner: Mapping[str, Any]) -> tuple[list[str], str]:
    """Return the options that each command of a group has, or each but one; and that one."""
    for spare in ("", *inner) if len(inner) > _OFTEN else ():
        having = [_names(found) for each, found in inner.items() if each != spare]
        if common := [name for name in having[0] if name != _ANYWHERE and all(name in each for each in having)]:
            return common, spare
    return [], ""


def _join(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _usage(command: Any, name: str) -> str:
    return " ".join([name, *map(_argument, _arguments(command))])


def _help(text: str, name: str) -> str:
    """Return the help of a command. A list of what a server can do is left to ``--help``."""
    said, listed, _ = inspect.cleandoc(text).partition(_LISTED)
    return f"{said.rstrip()} `{name} --help` lists the operations with their fields." if listed else said


def _argument(param: Any) -> str:
    shown = (param.metavar or param.name.upper()).strip("[]")
    return shown if param.required else f"[{shown}]"


def _option(param: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    metavar = "" if param.is_flag else param.metavar or _kind(param)
    return names if metavar in ("", "TEXT") else f"{names[:-1]}{'' if metavar[0] == '[' else ' '}{metavar}`"


def _kind(param: Any) -> str:
    annotation = str(param.type_descriptor.annotation)
    return "N" if "int" in annotation or "float" in annotation else "TEXT"


def _text(text: str | None) -> str:
    return (text or "").replace("\n", " ").replace("*", "\\*")


def _default(param: Any) -> str:
    value = param.default
    parts = [f"Environment: `{param.envvar}`."] if param.envvar else []
    if param.required:
        parts.append("Required.")
    elif param.show_default and value not in (None, False, True, "", ()) and not callable(value):
        parts.append(f"Default: `{value}`.")
    return " " + " ".join(parts) if parts else ""
