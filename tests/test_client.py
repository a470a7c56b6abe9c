"""The client: its key, its base url, and what it takes from the environment."""

from __future__ import annotations

import pytest

from basiq_async import (
    BasiqClient,
    ConfigurationError,
)
from tests.support.scripted import API_KEY, Scripted, answer


@pytest.mark.parametrize("base_url", ["http://localhost:4010/basiq", "http://127.9.9.9", "http://[::1]:4010"])
def test_http_is_for_this_machine(base_url: str) -> None:
    BasiqClient(API_KEY, transport=Scripted(answer()), base_url=base_url)


# tests/wire/test_hosts.py has every form of a host.
@pytest.mark.parametrize("base_url", ["HTTP://example.com", "http://10.0.0.1:4010", "http://127.1"])
def test_http_to_another_machine_has_to_be_allowed(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="allow_http=True"):
        BasiqClient(API_KEY, transport=Scripted(answer()), base_url=base_url)
    BasiqClient(API_KEY, transport=Scripted(answer()), base_url=base_url, allow_http=True)


def test_http_can_be_allowed_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASIQ_ALLOW_HTTP", "1")
    BasiqClient(API_KEY, transport=Scripted(answer()), base_url="http://mock:4010")
    monkeypatch.setenv("BASIQ_ALLOW_HTTP", "")
    with pytest.raises(ConfigurationError, match="BASIQ_ALLOW_HTTP=1"):
        BasiqClient(API_KEY, transport=Scripted(answer()), base_url="http://mock:4010")


def test_the_base_url_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASIQ_BASE_URL", "http://127.0.0.1:4010/mock")
    assert repr(BasiqClient(API_KEY, transport=Scripted())) == "BasiqClient(base_url='http://127.0.0.1:4010/mock')"
    explicit = BasiqClient(API_KEY, transport=Scripted(), base_url="https://proxy.example")
    assert repr(explicit) == "BasiqClient(base_url='https://proxy.example')"
    monkeypatch.delenv("BASIQ_BASE_URL")
    assert repr(BasiqClient(API_KEY, transport=Scripted())) == "BasiqClient(base_url='https://au-api.basiq.io')"
    monkeypatch.setenv("BASIQ_BASE_URL", "")
    with pytest.raises(ConfigurationError, match="set and empty"):
        BasiqClient(API_KEY, transport=Scripted())
    monkeypatch.setenv("BASIQ_BASE_URL", "http://example.com")
    with pytest.raises(ConfigurationError, match="base_url"):
        BasiqClient(API_KEY, transport=Scripted())
