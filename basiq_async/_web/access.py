"""Decide who may call a local server: no web page of another site, and from other machines only callers with the token.

A web page can make the browser send requests to servers on the same machine. The headers show it: DNS rebinding shows
in Host, and another site in Origin and Sec-Fetch-Site.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Iterable
from typing import NoReturn
from urllib.parse import quote

import attrs
from aiohttp import web

from .._redaction.credentials import Unpicklable, prove
from .._wire.hosts import is_peer_on_this_machine, is_this_machine

TOKEN_HEADER = "X-Fake-Token"  # noqa: S105  # the name of a header
STATE_HEADER = "X-Fake-State"
TOKEN_PROOF_HEADER = "X-Fake-Token-Proof"  # noqa: S105
"""Shows that a program knows the token, without sending it: another program may answer in the server's place."""
IN_PATH = "{token:(?:/~[^/]*)?}"
"""A part of the pattern of each route, after its root: a browser sends the token in the path, as ``/~TOKEN``.

A cookie would go to every port of the host, so that the server of another user could read it.
"""
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+))(?::[0-9]{1,5})?")
_FORWARDED = ("forwarded", "x-forwarded-", "x-real-ip")
_EVERY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104  # nosec B104  # compared with, not listened on


@attrs.frozen
class Guard(Unpicklable):
    """The rules that each request to a local server is checked against.

    hosts: the names that are allowed in Host, with any port.
    any_address: allow any IP address in Host, because the server listens on all addresses. An IP address in Host
        cannot come from DNS rebinding.
    token: gives web pages and callers on other machines access to everything below ``root``.
    unguarded: paths that every caller may GET, such as that of the health check.
    behind_proxy: treat no caller as local. An allowed host is another machine, so a proxy may forward the requests.
    everybody: require the token from callers on this machine too, because other users of the machine may be hostile.

    A program sends a proof that it knows the token, or the token itself as the header ``X-Fake-Token``, and a browser
    sends it in the path.
    """

    hosts: frozenset[str]
    any_address: bool
    token: str = attrs.field(repr=False)
    root: str = "/_fake"
    behind_proxy: bool = False
    everybody: bool = False
    unguarded: tuple[str, ...] = ()

    @classmethod
    def make(
        cls,
        host: str,
        allowed_hosts: Iterable[str],
        token: str | None,
        *,
        root: str = "/_fake",
        everybody: bool = False,
    ) -> Guard:
        given = {name.strip("[]").rstrip(".").lower() for name in allowed_hosts}
        names = {*_LOOPBACK_NAMES, host.strip("[]").rstrip(".").lower(), *given} - {""}
        elsewhere = any(not is_this_machine(name) for name in given)
        return cls(
            frozenset(names), host in _EVERY_ADDRESS, token or secrets.token_urlsafe(24), root, elsewhere, everybody
        )

    def check(self, request: web.BaseRequest) -> None:
        """Raise ControlError for a request that another site may have made."""
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not self._is_allowed(hosts[0]):
            _refuse("host-not-allowed", "this server does not allow the name in the Host header")
        origins = request.headers.getall("Origin", [])
        if origins and origins != [f"{request.scheme}://{hosts[0]}"]:
            _refuse("origin-not-allowed", "requests from pages of other origins are refused")
        # A link on another site may open the page, but no other URL.
        opens = request.path in (self.root, f"{self.root}/")
        navigates = request.method == "GET" and opens and request.headers.get("Sec-Fetch-Mode") == "navigate"
        if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and not navigates:
            _refuse("origin-not-allowed", "requests from pages of other sites are refused")

    def page(self, address: object) -> str:
        """Return the url of the page, which contains the token, for a server at this address."""
        return f"{address}{self.root}/~{quote(self.token, safe='')}/"

    def check_control(self, request: web.Request) -> None:
        """Raise ControlError for a call of the control API that needs the token and does not have it."""
        if request.method != "GET" and request.body_exists and request.content_type != "application/json":
            raise ControlError(415, "not-json", "the body must be JSON, with Content-Type: application/json")
        given = read_token(request)
        if request.path in self.unguarded and request.method == "GET":
            return
        if (shown := request.headers.get(TOKEN_PROOF_HEADER)) is not None:
            self._check_proof(request, shown)
            return
        if given is not None:
            if not given.isascii():
                raise ControlError(400, "not-valid", f"the {TOKEN_HEADER} header holds characters that are not ASCII")
            if not secrets.compare_digest(given.encode(), self.token.encode()):
                _refuse("token-not-valid", "this is not the server's token")
            return
        by_page = "Origin" in request.headers or "Sec-Fetch-Site" in request.headers
        if self.everybody and request.method == "GET":
            _refuse("token-missing", "open the whole address that was printed: it contains the token")
        if self.everybody or not self.is_local(request) or (request.method != "GET" and by_page):
            _refuse(
                "token-missing",
                "this needs the server's token: open the whole address that was printed, or send the token in the "
                f"{TOKEN_HEADER} header",
            )

    def _check_proof(self, request: web.Request, shown: str) -> None:
        # A challenge is good for one request: whoever asks for the proof in the state's header sees to that.
        challenge = request.headers.get(STATE_HEADER, "").partition(".")[0]
        expected = prove(self.token, challenge, request.method, request.raw_path, b"")
        if not secrets.compare_digest(expected.encode(), shown.encode(errors="replace")):
            _refuse("token-not-valid", "this does not prove that the caller knows the server's token")

    def is_local(self, request: web.BaseRequest) -> bool:
        """Whether a request comes from this machine and was not forwarded by a proxy."""
        passed_on = any(name.lower().startswith(_FORWARDED) or name.lower() == "via" for name in request.headers)
        return is_loopback(request) and not passed_on and not self.behind_proxy

    def _is_allowed(self, host: str) -> bool:
        name = _name(host)
        if name in self.hosts:
            return True
        return self.any_address and _is_address(name)


def read_token(request: web.Request) -> str | None:
    """Return the token of a request, from its header or its path. An empty one is none."""
    return request.headers.get(TOKEN_HEADER) or request.match_info.get("token", "")[2:] or None


def is_loopback(request: web.BaseRequest) -> bool:
    """Whether a request comes from this machine."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    if not isinstance(peer, tuple):
        return True  # a socket in the file system
    return is_peer_on_this_machine(str(peer[0]))


def _name(host: str) -> str:
    """Return the name in a Host header, without its port. It is empty if the header is malformed."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2].rstrip(".")).lower() if found else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refuse(code: str, message: str) -> NoReturn:
    raise ControlError(403, code, message)


class ControlError(Exception):
    """A call to a control API is refused. It has the status, code and message of the response."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
