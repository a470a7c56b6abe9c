"""Lines for a shell that run this program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._redaction.text import ShellText, shell_line

PROGRAM = "basiq-async"


def command_line(command: str, *arguments: str | ShellText, options: Mapping[str, object] | None = None) -> str:
    """Return a line that runs ``basiq-async COMMAND``, such as ``webhooks get``, with arguments and options.

    options: values by option name, such as ``--to``. None, False and an empty list omit the option, True makes a flag,
        and a list repeats the option.
    If an argument begins with a dash, the arguments come last, after ``--``, so that it is not read as an option.
    """
    flags = [word for name, value in (options or {}).items() for word in _option(name, value)]
    words: list[str | ShellText] = [PROGRAM, *command.split()]
    if any(isinstance(each, str) and each.startswith("-") for each in arguments):
        return shell_line([*words, *flags, "--", *arguments])
    return shell_line([*words, *arguments, *flags])


def _option(name: str, value: object) -> list[str | ShellText]:
    if value is None or value is False:
        return []
    if value is True:
        return [name]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [word for each in value for word in _option(name, each)]
    if isinstance(value, ShellText):
        return [name, value]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return [f"{name}={text}"] if text.startswith("-") else [name, text]
