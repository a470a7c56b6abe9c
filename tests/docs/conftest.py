"""The commands of the documentation begin warm: ``basiq-async`` of ``programs`` stands in for the installed one."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.support.command_line import PROGRAM


@pytest.fixture(autouse=True, scope="session")
def programs(warm_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to put before all others on the path."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "basiq-async").write_text(f'#!/bin/sh\nexec {shlex.join(PROGRAM)} "$@"\n')
    (folder / "basiq-async").chmod(0o700)
    return folder
