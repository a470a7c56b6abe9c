"""The checklist of a release: version, changelog, tag, addresses, interface, figures. Says everything that is wrong.

``python .ci/release_check.py [--tag v0.1.0]``; without a tag, what can be said before there is one.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def version() -> str:
    from basiq_async import __version__

    return __version__


def changelog() -> Iterator[str]:
    if left := [path.name for path in (ROOT / "changelog.d").glob("*.md") if path.name != "README.md"]:
        yield f"changelog.d: {', '.join(sorted(left))}; `make changelog` moves them into CHANGELOG.md"
    text = (ROOT / "CHANGELOG.md").read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    titles = [section.partition("\n")[0] for section in sections]
    if titles and titles[0] == "[Unreleased]":
        if sections[0].partition("\n")[2].strip():
            yield "CHANGELOG.md: there are lines under [Unreleased]; move them below the version's heading"
        titles = titles[1:]
    found = re.fullmatch(r"\[(.*)\] - (\d{4}-\d{2}-\d{2})", titles[0]) if titles else None
    if found is None:
        yield f"CHANGELOG.md: the first heading is to be '## [{version()}] - {date.today()}'"
    elif found[1] != version():
        yield f"CHANGELOG.md: the newest version is {found[1]}, the package's is {version()}"
    elif date.fromisoformat(found[2]) > datetime.now(UTC).date():
        yield f"CHANGELOG.md: {found[2]} is in the future"


def tag(name: str | None) -> Iterator[str]:
    if git("status", "--porcelain"):
        yield "git: there are changes that are not committed"
    if name is None:
        return
    if name != f"v{version()}":
        yield f"git: the tag {name} does not fit the version {version()} of basiq_async/__init__.py"
    commit = git("rev-list", "-n", "1", name)
    if commit and commit != git("rev-parse", "HEAD"):
        yield f"git: the tag {name} is at {commit[:12]}, which is not what is checked out"


def addresses(root: Path = ROOT) -> Iterator[str]:
    """Until the project has a host, there are no urls; a release needs them, on its page of the index and in README."""
    if not tomllib.loads((root / "pyproject.toml").read_text())["project"].get("urls"):
        yield "pyproject.toml: no [project.urls]; name the repository, the documentation and the changelog"
    if "/path/to/the/clone" in (root / "README.md").read_text():
        yield "README.md: pip install is to name the package, not a clone"


def interface() -> Iterator[str]:
    from tests.support import api

    if api.render() != api.SNAPSHOT.read_text():
        yield "tests/api.txt: not the public interface of today; `make generated` writes it"


def figures() -> Iterator[str]:
    from benchmarks import tables

    results = tables.committed()
    for path, text in tables.texts(results).items():
        if path.read_text() != text:
            yield f"{path.relative_to(ROOT)}: not the figures of benchmarks/results.json; `make bench` writes both"
    load = results.machine["load"]
    if load > 2:
        yield f"benchmarks/results.json: measured under a load of {load}; measure on an idle machine"


def built() -> Iterator[str]:
    for file in (ROOT / "dist").glob("*"):
        if not file.name.startswith(f"basiq_async-{version()}"):
            yield f"dist/{file.name}: of another version; `make dist` builds again"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag")
    wanted = parser.parse_args().tag or None
    wrong = [*changelog(), *tag(wanted), *addresses(), *interface(), *figures(), *built()]
    for line in wrong:
        print(line)
    print(f"{len(wrong)} thing(s) to mend" if wrong else f"{version()} can be released")
    sys.exit(1 if wrong else 0)
