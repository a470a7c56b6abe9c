"""The README for a package index: relative links lead nowhere there, so they become absolute ones, or plain text."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

try:
    from hatchling.metadata.plugin.interface import MetadataHookInterface
except ImportError:  # a test reads this file where no package is built
    MetadataHookInterface = object

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?!https?:|mailto:|#)(?P<path>[^)\s]+)\)")


def rewrite(text: str, base: str | None) -> str:
    """Return a page whose relative links lead below ``base``; without one, their texts, and no images."""

    def replace(link: re.Match[str]) -> str:
        if base:
            return f"{link['image']}[{link['text']}]({base.rstrip('/')}/{link['path']})"
        return "" if link["image"] else link["text"]

    return _LINK.sub(replace, text)


class ReadmeHook(MetadataHookInterface):  # type: ignore[misc,valid-type]  # a plain object in a test
    """Sets the readme of a build. The variable ``README_BASE_URL`` is where the files of this version are shown."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = rewrite(text, os.environ.get("README_BASE_URL"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
