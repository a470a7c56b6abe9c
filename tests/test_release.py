"""What a release is built with, and by whom."""

from __future__ import annotations

import json
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / ".ci" / "dist-requirements.txt"


def jobs() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    return found


def commands(job: str) -> list[str]:
    return [step["run"] for step in jobs()[job]["steps"] if "run" in step]


def test_each_tool_that_builds_a_release_is_pinned_with_its_hashes() -> None:
    pinned = re.split(r"^(?=[a-z])", TOOLS.read_text(), flags=re.MULTILINE)[1:]
    assert all(re.match(r"[a-z0-9.-]+==[^ ]+ .*\\\n    --hash=sha256:[0-9a-f]{64}", one) for one in pinned)
    wanted = re.findall(r"^([a-z-]+)>=", TOOLS.with_suffix(".in").read_text(), flags=re.MULTILINE)
    assert {"build", "hatchling", "twine"} <= set(wanted) <= {one.partition("==")[0] for one in pinned}
    makefile = (ROOT / "Makefile").read_text()
    (install,) = re.findall(r"pip install.*dist-requirements.*", makefile)
    assert "--require-hashes" in install
    assert re.search(r"^dist: \$\(BUILDER\) ##", makefile, flags=re.MULTILINE)
    assert re.search(r"^\$\(BUILDER\): \.ci/dist-requirements.txt$", makefile, flags=re.MULTILINE)


def test_a_release_is_built_apart_and_its_bytes_are_compared_on_another_machine() -> None:
    assert commands("build") == ["make dist"]  # and nothing of the tests is installed there
    assert "make dist-compare" in commands("verify")
    assert jobs()["verify"]["needs"] == "build"
    assert set(jobs()["publish"]["needs"]) == {"check", "build", "verify"}
    assert {"make test", "make audit STRICT=1"} <= set(commands("check"))


@pytest.mark.parametrize("name", ["verify", "publish"])
def test_an_artifact_is_fetched_by_its_id_and_never_by_a_name_that_another_job_could_take(name: str) -> None:
    assert jobs()["build"]["outputs"] == {"artifact": "${{ steps.upload.outputs.artifact-id }}"}
    (upload,) = [step for step in jobs()["build"]["steps"] if "upload-artifact" in step.get("uses", "")]
    assert upload["id"] == "upload"
    (fetch,) = [step for step in jobs()[name]["steps"] if "download-artifact" in step.get("uses", "")]
    assert fetch["with"] == {"artifact-ids": "${{ needs.build.outputs.artifact }}", "path": "dist"}
    assert "build" in jobs()[name]["needs"]


@pytest.mark.parametrize("name", ["check", "build", "verify", "publish"])
def test_only_the_job_that_publishes_may_publish(name: str) -> None:
    rights = jobs()[name]["permissions"]
    assert rights == ({"id-token": "write"} if name == "publish" else {"contents": "read"})
    assert commands("publish") == []


def test_a_release_needs_the_address_of_the_project(tmp_path: Path) -> None:
    addresses = runpy.run_path(str(ROOT / ".ci" / "release_check.py"))["addresses"]
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "a"\n')
    (tmp_path / "README.md").write_text("pip install '/path/to/the/clone[cli]'\n")
    assert [each.partition(":")[0] for each in addresses(tmp_path)] == ["pyproject.toml", "README.md"]
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nSource = "https://git.example/a"\n')
    (tmp_path / "README.md").write_text("pip install 'a[cli]'\n")
    assert list(addresses(tmp_path)) == []


def test_the_page_of_the_package_index_has_no_relative_links() -> None:
    rewrite = runpy.run_path(str(ROOT / ".ci" / "readme_hook.py"))["rewrite"]
    text = "[a](docs/a.md), ![b](b.svg), [c](https://c.example/), [d](docs/d.md#e)"
    assert rewrite(text, None) == "a, , [c](https://c.example/), d"
    absolute = "[a](https://h/docs/a.md), ![b](https://h/b.svg), [c](https://c.example/), [d](https://h/docs/d.md#e)"
    assert rewrite(text, "https://h/") == absolute
    assert not re.search(r"\]\((?!https?:)", rewrite((ROOT / "README.md").read_text(), None))


def test_the_wheel_has_a_bill_of_materials_of_what_every_install_brings() -> None:
    sbom = runpy.run_path(str(ROOT / ".ci" / "sbom.py"))
    assert sbom["FILE"].read_text() == sbom["render"](), "`make generated` writes it"
    needed = {each["name"] for each in json.loads(sbom["render"]())["components"]}
    assert needed == {"aiohttp", "attrs", "cattrs", "backoff"}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (named,) = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["sbom-files"]
    assert ROOT / named == sbom["FILE"]


def test_the_changelog_of_the_first_release_speaks_of_nothing_that_was_never_released() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.count("## [") == 1, "after the first release, this test has done its work: remove it"
    former = r"\b(?:is|are) gone\b|\bno longer\b|\bin place of\b|\breplaces\b|\(before\)|\bis new once more\b"
    assert re.findall(former, text) == []


def test_changes_are_collected_from_files_of_their_own(tmp_path: Path) -> None:
    changelog = runpy.run_path(str(ROOT / ".ci" / "changelog.py"))
    first, second = tmp_path / "a.md", tmp_path / "b.md"
    first.write_text("- One.\n")
    second.write_text("- Two,\n  in two lines.\n")
    text = "# Changelog\n\n## [0.1.0] - 2026-11-25\n\n- Old.\n"
    once = changelog["collected"](text, [first])
    assert once == "# Changelog\n\n## [Unreleased]\n\n- One.\n\n## [0.1.0] - 2026-11-25\n\n- Old.\n"
    assert changelog["collected"](once, []) == once
    assert "\n\n- One.\n- Two,\n  in two lines.\n\n## [0.1.0]" in changelog["collected"](once, [second])
