"""URLs: what a base may be, which links are followed, and how an identifier becomes a segment of a path."""

from __future__ import annotations

from typing import Any

import pytest

from basiq_async import ConfigurationError
from basiq_async._wire.urls import BaseURL, LinkError, absolute_url, quote_segment, read_endpoint

BASE = BaseURL.parse("https://proxy.example/basiq")
CURRENT = "https://proxy.example/basiq/events?page=1"


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("https://x.example", "https://x.example"),
        ("HTTPS://X.example:443/", "https://x.example"),
        ("https://x.example:0443", "https://x.example"),
        ("https://x.example:80", "https://x.example:80"),
        ("https://x.example:65535/a/b//", "https://x.example:65535/a/b"),
        ("http://127.0.0.1:80/a", "http://127.0.0.1/a"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://[::1]:443", "http://[::1]:443"),
    ],
)
def test_a_base_has_an_origin_without_its_usual_port_and_a_prefix_without_a_slash_at_its_end(
    text: str, root: str
) -> None:
    assert BaseURL.parse(text).root == root


@pytest.mark.parametrize(
    "text",
    [
        "x.example", "ftp://x.example", "https://", "https://x.example?a", "https://x.example/#a", "https://u:p@x.example",
        "https://x.example:0", "https://x.example:65536", "https://x.example/a b", "https://x.example/\\a", "", None, 7,
    ],
)  # fmt: skip
def test_what_is_no_base_is_refused(text: Any) -> None:
    with pytest.raises(ConfigurationError, match="base_url must be an absolute http or https url"):
        BaseURL.parse(text)


def test_http_to_another_machine_needs_to_be_allowed() -> None:
    with pytest.raises(ConfigurationError, match="allow_http=True"):
        BaseURL.parse("http://x.example")
    assert BaseURL.parse("http://x.example", allow_http=True).root == "http://x.example"


@pytest.mark.parametrize(
    ("link", "url"),
    [
        ("?page=2", "https://proxy.example/basiq/events?page=2"),
        ("/events?page=2", "https://proxy.example/basiq/events?page=2"),
        ("/basiq/events?page=2", "https://proxy.example/basiq/events?page=2"),
        ("/basiqs/events", "https://proxy.example/basiq/basiqs/events"),
        ("https://proxy.example/basiq/a", "https://proxy.example/basiq/a"),
        ("https://proxy.example:443/a", "https://proxy.example/basiq/a"),
        ("https://au-api.basiq.io/a?b#c", "https://proxy.example/basiq/a?b"),
        ("other?page=2", "https://proxy.example/basiq/other?page=2"),
        ("?next=..%2f", "https://proxy.example/basiq/events?next=..%2f"),
        ("?next=a%27b%28c%29%20+%25", "https://proxy.example/basiq/events?next=a%27b%28c%29%20+%25"),
        ("?next=~!$&'()*+,;=:@[]{}|^`", "https://proxy.example/basiq/events?next=~!$&'()*+,;=:@[]{}|^`"),
        ("HTTPS://PROXY.EXAMPLE/a?x", "https://proxy.example/basiq/a?x"),
    ],
)
def test_a_link_is_requested_through_the_base(link: str, url: str) -> None:
    assert BASE.resolve(link, CURRENT) == url


ELSEWHERE = {
    "characters that a url cannot have": [
        "/a b", "/a\\b", "/\u00e9", "/x\0", "/x\r\nHost: evil.example", "\\\\evil.example\\x", "/\\evil.example/x",
        " https://evil.example/x", "ht\ttps://evil.example/x", "http://\u24d4vil.example/x",
        "https://proxy.example\\@evil.example/x", "see below, please",
    ],
    "leads to another origin": [
        "//evil.example/a", "https://evil.example/a", "http://proxy.example/basiq/a", "https://proxy.example:1/x",
        "https://proxy.example./x", "https://au-api.basiq.io:8443/x", "https://au-api.basiq.io.evil.example/x",
        "http://2130706433/x", "https://evil.example/" + "a" * 1_000_000,
    ],
    "is not a plain http or https url": [
        "https://u@proxy.example/a", "https://user:pass@proxy.example/x", "https://proxy.example:443@evil.example/x",
        "https://au-api.basiq.io@evil.example/x", "https:///x", "https:", "https:evil.example", "https://[::1/x",
        "https://proxy.example:port/x", "https://proxy.example:999999/x", "javascript:alert(1)", "file:///etc/passwd",
        "ftp://proxy.example/x", "data:text/plain,x",
    ],
    "a segment of dots": [
        "../a", "a/../b", "./a", "..;x/a", "/basiq/../a", "/../../x", "/a/.;/b", "/a/%2e%2E/b", "/a/%20..%20/b",
        "/a/%2e.%3Bx/b", "/a/%252e%252e;x/b", "/a/%2%35%32e./b", "/a/..", "../notifications/webhooks",
    ],
    "an encoded slash": [
        "/a/%2f../b", "/a%255cb", "/a%3fb", "/a%23b", "/a%2%35%32fb", "https://au-api.basiq.io/a/..%2Ftoken",
    ],
    "control characters": ["/a%00", "/a%250a", "/a%c2%85"],
    "not UTF-8": ["/a%c0%afb"],
    "encoded again and again": ["/a%25252525252fb"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("why", "link"),
    [(why, link) for why, links in ELSEWHERE.items() for link in links],
    ids=lambda text: repr(text)[:40],
)
def test_a_link_that_leads_elsewhere_is_not_followed(why: str, link: str) -> None:
    with pytest.raises(LinkError, match=why):
        BASE.resolve(link, CURRENT)


def test_a_link_beside_the_base_is_not_followed() -> None:
    with pytest.raises(LinkError, match="outside the API's own urls"):
        BASE.resolve("other", BASE.root)


@pytest.mark.parametrize(
    ("url", "owned"),
    [("", True), ("/a", True), ("?a", True), ("s/a", False), ("#a", False), (".evil.example", False)],
)
def test_the_token_goes_to_urls_below_the_base_alone(url: str, owned: bool) -> None:
    assert BASE.owns(BASE.root + url) is owned
    assert not BASE.owns("https://proxy.example/other")


def test_a_path_is_shown_without_its_query_and_compared_without_a_slash_at_its_end() -> None:
    assert (BASE.path_of(CURRENT), BASE.path_of(BASE.root + "?a"), BASE.url("/a")) == (
        "/events", "/", "https://proxy.example/basiq/a",
    )  # fmt: skip
    assert BASE.have_same_path(CURRENT, f"{BASE.root}/ev%65nts/?page=9")
    assert not BASE.have_same_path(CURRENT, f"{BASE.root}/events/a")
    assert not BASE.have_same_path(f"{BASE.root}/a%2Fb", f"{BASE.root}/a/b")


@pytest.mark.parametrize(
    ("value", "segment"),
    [
        ("a-b_c.d~", "a-b_c.d~"), ("100%", "100%25"), ("a b", "a%20b"), (".a", ".a"), ("é", "%C3%A9"),
        ("a" * 256, "a" * 256), ("a" * 2_048, "a" * 2_048),
    ],
)  # fmt: skip
def test_an_identifier_is_one_segment(value: str, segment: str) -> None:
    assert quote_segment(value, "id") == segment


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("a/b", "one segment .* slash"), ("a%2fb", "one segment .* slash"), ("a\\b", "one segment .* slash"),
        ("a?b", "one segment .* slash"), ("..;a", "segment of dots"), ("%2e.", "segment of dots"), ("a\n", "control"),
        ("", "must not be empty"), (" ", "must not be empty"), (".", "must not be empty"), ("..", "must not be empty"),
        ("a" * 2_049, "at most 2048"), ("\ud800", "UTF-8"), (None, "must be a str, not NoneType"), (7, "not int"),
    ],
)  # fmt: skip
def test_what_cannot_be_one_segment_is_refused_by_its_name(value: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"webhook_id .*{why}"):
        quote_segment(value, "webhook_id")


@pytest.mark.parametrize("url", ["https://x.example", "http://x.example:8080/a?b#c", "HTTPS://x.example"])
def test_a_url_that_basiq_can_call_is_returned_as_it_is(url: str) -> None:
    assert absolute_url(url) == read_endpoint(url) == url


@pytest.mark.parametrize(
    "url",
    [
        *(
            "x.example",
            "ftp://x.example",
            "https://",
            "https://:80",
            "https://x:0",
            "https://x:a",
            "https://[x",
            "a b",
            7,
        ),
        *("https://x.example/a b", "https://x.example/\u200b", "https://x.example/\x7f", "https://x.example/\n"),
    ],
)
def test_a_url_that_basiq_cannot_call_is_refused(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="url must be an absolute http or https url"):
        absolute_url(url)
    with pytest.raises(ConfigurationError, match="url must be an absolute http or https url"):
        read_endpoint(url)


def test_an_endpoint_holds_no_password_which_no_error_shows() -> None:
    with pytest.raises(ConfigurationError, match="must not hold a user or password") as caught:
        read_endpoint("https://user:s3cret@x.example")
    assert "s3cret" not in str(caught.value)
