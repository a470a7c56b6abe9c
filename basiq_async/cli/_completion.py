"""Options, and shell completion: the completion scripts, and the values that they offer."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any

import typer

_PROGRAM = "basiq-async"
_VARIABLE = "_BASIQ_ASYNC_COMPLETE"
_PATIENCE = 2.0
"""Maximum seconds for the list of webhooks after the tab key was pressed."""
# Completed values are put on the shell's line, and zsh evaluates them. Only values that match these patterns are given.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", re.ASCII)
_PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_FOR_BARE_ZSH = """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
"""


def option(help: str, *names: str, **more: Any) -> Any:
    """Return an option without a default that help could show, or a flag."""
    return typer.Option(*names, help=help, show_default=False, **more)


def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.", autocompletion=lambda: ["bash", "zsh", "fish"])],
) -> None:
    """Print the completion script of a shell.

    bash: eval "$(basiq-async completion bash)" in ~/.bashrc; zsh: eval "$(basiq-async completion zsh)" in ~/.zshrc;
    fish: basiq-async completion fish > ~/.config/fish/completions/basiq-async.fish
    """
    from ..errors import ConfigurationError
    from ._output import write_lines

    if shell not in ("bash", "zsh", "fish"):
        raise ConfigurationError(f"the shell must be bash, zsh or fish, not {shell!r}")
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # re-exported without __all__

    script = get_completion_script(prog_name=_PROGRAM, complete_var=_VARIABLE, shell=shell)  # nosec B604  # a shell's name
    write_lines((_FOR_BARE_ZSH + script if shell == "zsh" else script).splitlines())


def prepare() -> None:
    """Register the completion classes of typer, if a shell runs this process to get completions."""
    if os.environ.get(_VARIABLE):
        from typer.completion import completion_init  # type: ignore[attr-defined]  # the same

        completion_init()


def event_types(incomplete: str) -> list[str]:
    """Complete an event type."""
    from .._arguments import EVENT_TYPES

    return [name for name in EVENT_TYPES if name.startswith(incomplete)]


def profiles(incomplete: str) -> list[str]:
    """Complete the name of a profile."""
    from ..errors import ConfigurationError
    from ._profiles import names

    try:
        return [name for name in names() if name.startswith(incomplete) and _PROFILE.fullmatch(name)]
    except ConfigurationError:
        return []


def webhook_ids(incomplete: str) -> list[str]:
    """Complete the id of a webhook. Return no ids without an API key, or if Basiq does not respond within 2 seconds.

    Only ids of letters, digits and dashes are returned, and no URLs, because a shell could run other characters.
    """
    import asyncio

    from ..errors import BasiqError
    from ..transports.retry import RetryPolicy

    async def find() -> list[str]:
        from ._profiles import settings
        from ._run import open_client

        given = settings()
        policy = RetryPolicy(max_retries=0)
        async with (
            asyncio.timeout(_PATIENCE),
            open_client(given.api_key, given.base_url, retry=policy) as basiq,
        ):
            return [webhook.id async for webhook in basiq.webhooks.list()]

    try:
        known = asyncio.run(find())
    except (BasiqError, TimeoutError):
        return []
    return [each for each in known if each.startswith(incomplete) and _ID.fullmatch(each)]
