"""Every error and every reason for a refusal has its section, which the error itself names."""

from __future__ import annotations

import importlib
import pkgutil
import re
import tomllib
from datetime import UTC, datetime
from email.message import Message
from importlib.metadata import PackageNotFoundError
from typing import get_args

import pytest

import basiq_async
from basiq_async import Diagnosis, EndpointCheck, Webhook, errors
from basiq_async._work.failing import FailingType
from basiq_async.errors import BasiqError, NotFoundError, SignatureVerificationError
from basiq_async.receiver.protocol import Waiting
from basiq_async.replay import Inactivity
from basiq_async.services.diagnosis import Attempts, Look, TypeDifferences
from basiq_async.services.problems import ProblemCode
from tests.support.environment import ROOT

TEXT = (ROOT / "docs" / "troubleshooting.md").read_text()
SECTIONS = {*re.findall(r"^\((.+)\)=$", TEXT, re.MULTILINE), *re.findall(r"^#+ (.+)$", TEXT.lower(), re.MULTILINE)}

CODES = re.findall(r"`([a-z-]+)`", "\n".join(re.findall(r"^\| ([^|]*`[^|]*) \|", TEXT, re.MULTILINE)))
"""The codes of the table of causes, from its top."""
ENDPOINT = ("no-secret", "endpoint-unreachable", "endpoint-refuses")


def every_error() -> list[type[BasiqError]]:
    """Return each class of error of the whole package: those of private modules reach users as their public bases."""
    for module in pkgutil.walk_packages(basiq_async.__path__, "basiq_async."):
        if "_example_" not in module.name:  # examples, which the wheel holds
            importlib.import_module(module.name)
    found, ahead = [], [BasiqError]
    while ahead:
        found.append(ahead.pop())
        ahead += found[-1].__subclasses__()
    return sorted((each for each in found if each.__module__.startswith("basiq_async")), key=lambda each: each.__name__)


ERRORS = every_error()
RECEIVER = "".join(path.read_text() for path in (ROOT / "basiq_async" / "receiver").rglob("*.py"))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_leads_to_its_section(error: type[BasiqError], monkeypatch: pytest.MonkeyPatch) -> None:
    made = error.__new__(error)
    made.__dict__["reason"] = "no-match"
    monkeypatch.setattr("importlib.metadata.metadata", lambda name: Message())
    page, _, section = made.help.partition("#")
    assert (ROOT / page).is_file()
    assert section in SECTIONS


def test_no_public_error_is_without_a_section_of_its_own() -> None:
    public = {name.lower() for name in errors.__all__ if name.endswith("Error")}
    assert public <= SECTIONS


@pytest.mark.parametrize("reason", sorted({*re.findall(r'reason="([a-z-]+)"', RECEIVER), "malformed"}))
def test_a_reason_for_a_refusal_leads_to_its_section(reason: str) -> None:
    section = SignatureVerificationError("refused", reason=reason).help.partition("#")[2]
    assert section == reason
    assert section in SECTIONS


def test_no_error_and_no_metadata_lead_to_a_host_that_anybody_could_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "urls" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    monkeypatch.setattr("importlib.metadata.metadata", lambda name: Message())
    assert NotFoundError(status=404).help == "docs/troubleshooting.md#notfounderror"
    for path in (*(ROOT / "basiq_async").rglob("*.py"), ROOT / "pyproject.toml", *(ROOT / "docs").rglob("*.md")):
        assert not re.search(r"basiq[-_]?async\.readthedocs", path.read_text()), path


def test_an_error_leads_to_the_address_that_the_package_was_built_with(monkeypatch: pytest.MonkeyPatch) -> None:
    built = Message()
    built["Project-URL"] = "Changes, https://docs.example/changes"
    built["Project-URL"] = "Documentation, https://docs.example/"
    monkeypatch.setattr("importlib.metadata.metadata", lambda name: built)
    assert NotFoundError(status=404).help == "https://docs.example/troubleshooting.html#notfounderror"
    assert SignatureVerificationError("x", reason="no-match").help.endswith("troubleshooting.html#no-match")

    def fail(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.metadata", fail)
    assert NotFoundError(status=404).help == "docs/troubleshooting.md#notfounderror"


def test_an_error_of_a_subclass_of_a_users_leads_to_that_of_its_base() -> None:
    class MissingConsentError(NotFoundError):
        """Made outside of the package."""

    assert MissingConsentError(status=404).help.endswith("#notfounderror")


INSTALLS_BY_NAME = re.compile(r"(?:pip|uv|pipx) (?:install|add) [^\n]*?(?<![\w/.-])basiq[-_]async(?!\S* @)(?!-\d)")


def test_nothing_tells_to_install_the_name_from_an_index_where_anybody_could_register_it() -> None:
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "basiq_async").rglob("*.py")]
    assert [path for path in paths if INSTALLS_BY_NAME.search(path.read_text())] == []


def test_what_installs_by_name_is_found() -> None:
    assert INSTALLS_BY_NAME.search("pip install 'basiq-async[cli]'")
    assert INSTALLS_BY_NAME.search("pip install -q basiq_async")
    assert not INSTALLS_BY_NAME.search("pip install 'basiq-async[cli] @ git+https://GIT-HOST/PATH'")
    assert not INSTALLS_BY_NAME.search("pip install 'dist/basiq_async-0.1.0-py3-none-any.whl[cli]'")


def test_the_causes_stand_in_the_order_in_which_doctor_names_them() -> None:
    order = get_args(ProblemCode)
    assert {*CODES} <= {*order}
    assert len({*CODES}) >= 11
    assert [order.index(each) for each in CODES] == sorted(order.index(each) for each in CODES)


@pytest.mark.parametrize("endpoint", [(None, True), (None, False), (500, False)])
def test_doctor_names_problems_in_the_order_of_their_codes(endpoint: tuple[int | None, bool]) -> None:
    moment, status = datetime(2026, 1, 1, tzinfo=UTC), ("disabled", "pending-approval")
    for each in status:
        found = Diagnosis(
            Webhook("w", "https://service.example/basiq", each, ()),
            None,
            types=TypeDifferences(("a",), ("b",), ("c",), ("d",)),
            attempts=Attempts(failed_share=1.0, refused=401),
            unrecoverable=(Inactivity(moment),),
            endpoint=EndpointCheck(endpoint[0], "no", unsigned=endpoint[1]),
            undelivered=1,
            never_sent=1,
            unrecorded=1,
            before_joining=1,
            quarantined=1,
            waiting=Waiting(count=1, age=1e6),
            failing_types=(FailingType("a", 1, moment, "no"),),
            clock_lead=1e6,
            not_joined=("other",),
            look=Look(unknown=1, unreadable=1, complete=False, unknown_reach=moment),
        )
        codes = [problem.code for problem in found.problems]
        missing = {"forbidden", "unread", *ENDPOINT, "disabled", "pending"} - {*codes}
        assert codes == [code for code in get_args(ProblemCode) if code not in missing]
        assert len({*ENDPOINT} & {*codes}) == 1
