"""Every error and every reason for a refusal has its section, which the error itself names."""

from __future__ import annotations

import re
import tomllib

import pytest

from basiq_async import errors
from basiq_async.errors import SITE, BasiqError, NotFoundError, SignatureVerificationError
from tests.support.environment import ROOT

TEXT = (ROOT / "docs" / "troubleshooting.md").read_text()
SECTIONS = {*re.findall(r"^\((.+)\)=$", TEXT, re.MULTILINE), *re.findall(r"^#+ (.+)$", TEXT.lower(), re.MULTILINE)}
ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, BasiqError)]
RECEIVER = "".join(path.read_text() for path in (ROOT / "basiq_async" / "receiver").rglob("*.py"))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_leads_to_its_section(error: type[BasiqError]) -> None:
    made = error.__new__(error)
    made.__dict__["reason"] = "no-match"
    page, _, section = made.help_url.partition("#")
    assert page.endswith("/troubleshooting.html")
    assert section in SECTIONS


@pytest.mark.parametrize("reason", sorted({*re.findall(r'reason="([a-z-]+)"', RECEIVER), "malformed"}))
def test_a_reason_for_a_refusal_leads_to_its_section(reason: str) -> None:
    section = SignatureVerificationError("refused", reason=reason).help_url.partition("#")[2]
    assert section == reason
    assert section in SECTIONS


def test_the_site_is_the_one_that_the_package_index_shows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SITE.startswith(f"{project['urls']['Documentation']}/")
    assert NotFoundError(status=404).help_url == f"{SITE}troubleshooting.html#notfounderror"


def test_an_error_of_a_subclass_of_a_users_leads_to_that_of_its_base() -> None:
    class MissingConsentError(NotFoundError):
        """Made outside of the package."""

    assert MissingConsentError(status=404).help_url.endswith("#notfounderror")


def test_every_result_of_a_receiver_is_explained() -> None:
    from basiq_async.receiver import Result

    table = TEXT.partition("## Statuses of the receiver")[2].partition("\n## ")[0]
    assert {result.value for result in Result} <= set(re.findall(r"`([a-z-]+)`", table))
