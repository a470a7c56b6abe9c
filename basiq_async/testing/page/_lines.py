"""The shell lines that do the same as a row of the page shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import attrs

from ..._shell import ShellText, command_line, shell_line

_LEFT_OUT = frozenset({"host", "content-length", "accept-encoding", "connection", "user-agent", "accept"})
_HIDDEN = "(hidden)"
_BASIC = ShellText('"Authorization: Basic $BASIQ_API_KEY"')
_BEARER = ShellText('"Authorization: Bearer $BASIQ_TOKEN"')
_POST = ("curl", "-X", "POST", "-H", _BASIC)


@attrs.frozen
class Lines:
    """A line for curl, and one for this library's command where there is one."""

    curl: str
    command: str | None = None


def line_for_request(request: Mapping[str, Any]) -> Lines:
    """The line that sends a request again, without its credential."""
    # Without --globoff, curl reads brackets and braces of a URL as lists of URLs.
    parts: list[str | ShellText] = ["curl", "--globoff", "-X", request["method"], request["url"]]
    for name, value in request["headers"].items():
        if name.lower() == "authorization":
            parts += ["-H", _BASIC if request["path"] == "/token" else _BEARER]
        elif name.lower() not in _LEFT_OUT and value != _HIDDEN:
            parts += ["-H", f"{name}: {value}"]
    if request["body"]:
        parts += ["--data-raw", request["body"]]
    return Lines(shell_line(parts))


def line_for_message(message: Mapping[str, Any], root: str) -> Lines:
    """The lines that deliver a message once more."""
    return Lines(
        shell_line([*_POST, f"{root}/messages/{quote(message['id'], safe='', errors='replace')}/redeliver"]),
        command_line("mock redeliver", message["id"]),
    )


def line_for_webhook(webhook: Mapping[str, Any], root: str) -> Lines:
    """The lines that show a webhook's secret."""
    return Lines(
        shell_line([*_POST, f"{root}/webhooks/{quote(webhook['id'], safe='', errors='replace')}/secret"]),
        command_line("mock secret", webhook["id"]),
    )
