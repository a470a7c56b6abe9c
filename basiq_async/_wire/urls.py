"""Build and check URLs: the API's own, the links in its responses, and identifiers in paths. No I/O."""

from __future__ import annotations

import os
import re
import urllib.parse

import attrs

from .._redaction.tracebacks import hide_arguments
from ..errors import ConfigurationError
from .hosts import is_this_machine

VENDOR_URL = "https://au-api.basiq.io"
"""The origin of the API, which its links name too (the vendor's reference, "servers")."""

_MAX_SEGMENT = 2_048
PLAIN_SEGMENT = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9_.~-]{0,255}")
_ABSOLUTE = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?P<rest>(?:[/?].*)?)",
    re.IGNORECASE,
)
_HAS_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_UNSENDABLE = re.compile(r"[^!-~]|\\")
_DOT_SEGMENT = re.compile(r"(?:^|/)\s*\.{1,2}\s*(?:;[^/]*)?(?=/|$)")
"""The segments "." and "..", also with parameters, which some servers drop before they resolve it."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DIVIDERS = "/\\?#"
_MOST_DECODINGS = 4
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def find_base_url() -> str | None:
    """Return the environment's ``BASIQ_BASE_URL``; None if it is not set.

    Raises ``ConfigurationError`` if it is empty: whatever should have set it failed, and the vendor's address in its
    place would be production.
    """
    found = os.environ.get("BASIQ_BASE_URL")
    if found == "":
        raise ConfigurationError("BASIQ_BASE_URL is set and empty: give it a value, or unset it")
    return found


class LinkError(ValueError):
    """A link must not be followed. The text says why, as a predicate such as "leads to another origin"."""


def _split(url: str) -> tuple[str, str] | None:
    """Split an absolute URL into its origin, in lower case and without a default port, and the rest."""
    found = _ABSOLUTE.fullmatch(url)
    if found is None:
        return None
    scheme, port = found["scheme"].lower(), found["port"]
    port = "" if port is None or port.lstrip("0") == _DEFAULT_PORTS[scheme] else f":{port}"
    return f"{scheme}://{found['host'].lower()}{port}", found["rest"]


def _is_local(origin: str) -> bool:
    return is_this_machine(urllib.parse.urlsplit(origin).hostname or "")


def _has_port(origin: str) -> bool:
    port = origin.rpartition(":")[2]
    return not port.isdecimal() or 0 < int(port) < 65_536


@attrs.frozen
class BaseURL:
    """The API's origin, and the path prefix that a proxy may put before the API's paths."""

    origin: str
    prefix: str
    root: str = attrs.field(init=False, default=attrs.Factory(lambda self: self.origin + self.prefix, takes_self=True))
    """The beginning of every url of the API."""

    @classmethod
    @hide_arguments
    def parse(cls, text: str, *, allow_http: bool = False) -> BaseURL:
        """Read an absolute https URL, or an http URL on this machine. Raises ``ConfigurationError`` for any other.

        ``allow_http`` allows http to other machines too: the API key and the tokens can then be read on the network.
        """
        parts = _split(text) if isinstance(text, str) and not _UNSENDABLE.search(text) else None
        if parts is None or "?" in parts[1] or "#" in parts[1] or not _has_port(parts[0]):
            raise ConfigurationError(
                "base_url must be an absolute http or https url without credentials, query or fragment, "
                f"such as {VENDOR_URL}"
            )
        if parts[0].startswith("http:") and not allow_http and not _is_local(parts[0]):
            raise ConfigurationError(
                "base_url is http to another machine: the API key could be read on the network. Use https. If the "
                "network is yours alone, pass allow_http=True (or set BASIQ_ALLOW_HTTP=1 in the environment)"
            )
        return cls(parts[0], parts[1].rstrip("/"))

    def url(self, path: str) -> str:
        """Return the URL of a path of the API. The path starts with a slash, and is percent-encoded already."""
        return self.root + path

    def owns(self, url: str) -> bool:
        """Return whether the token may be sent to a URL: only if it has this origin and this prefix."""
        return url.startswith(self.root) and url[len(self.root) : len(self.root) + 1] in ("", "/", "?")

    def relative(self, url: str) -> str:
        """Return the part after this base of one of the API's own URLs."""
        return url[len(self.root) :]

    def path_of(self, url: str) -> str:
        """Return the path of one of the API's own URLs, for messages: without the query, which can name users."""
        return self.relative(url).partition("?")[0] or "/"

    def have_same_path(self, url: str, other: str) -> bool:
        """Return whether two of the API's own URLs have the same path. A slash at its end does not count."""
        return _plain_path(self.path_of(url)) == _plain_path(self.path_of(other))

    def resolve(self, link: str, current: str) -> str:
        """Return the URL to request for a link in the response to ``current``, if possible byte for byte.

        A link to the vendor's host is requested through this base. Raises ``LinkError`` for a link that leads to
        another origin, or that cannot be in a request line.
        """
        if _UNSENDABLE.search(link):
            raise LinkError("holds characters that a url cannot have")
        link = link.partition("#")[0]
        if link.startswith("//"):
            raise LinkError("leads to another origin")
        fault = _find_ambiguity(link.partition("?")[0])  # before it is joined, which resolves its dots
        if fault is not None:
            raise LinkError(fault)
        if link.startswith("?"):
            url = current.partition("?")[0] + link
        elif link.startswith("/"):
            url = self._under_prefix(link)
        elif _HAS_SCHEME.match(link):
            parts = _split(link)
            if parts is None:
                raise LinkError("is not a plain http or https url")
            if parts[0] == self.origin:
                url = self._under_prefix(parts[1])
            elif parts[0] == VENDOR_URL:
                url = self.root + parts[1]
            else:
                raise LinkError(f"leads to another origin, {parts[0]}")
        else:
            url = urllib.parse.urljoin(current, link)
        if not self.owns(url):
            raise LinkError("leads outside the API's own urls")
        return url

    def _under_prefix(self, rest: str) -> str:
        # If a proxy strips the prefix, the API's links do not have it.
        url = self.origin + rest
        return url if self.owns(url) else self.root + rest


def _plain_path(path: str) -> list[str]:
    return [urllib.parse.unquote(part) for part in path.rstrip("/").split("/")]


def _find_ambiguity(path: str) -> str | None:
    """Say why a server or a proxy, which may decode a path several times, could see another path; else return None."""
    for _ in range(_MOST_DECODINGS):
        if _DOT_SEGMENT.search(path):
            return "has a segment of dots in its path"
        if _CONTROL.search(path):
            return "has control characters in its path"
        if "%" not in path:
            return None
        try:
            decoded = urllib.parse.unquote_to_bytes(path).decode()
        except UnicodeDecodeError:
            return "has escapes in its path that are not UTF-8"
        if decoded == path:
            return None
        if any(decoded.count(each) > path.count(each) for each in _DIVIDERS):
            return "has an encoded slash, backslash, '?' or '#', which a proxy may resolve to a different path"
        path = decoded
    return "has a path that is encoded again and again"


def quote_segment(value: str, name: str) -> str:
    """Return an identifier as exactly one segment of a path, for every server and proxy on the way.

    Raises ``ConfigurationError`` if that is impossible: for slashes, ``?``, ``#``, dots alone and control characters,
    also percent-encoded.
    """
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a str, not {type(value).__name__}")
    if PLAIN_SEGMENT.fullmatch(value):
        return value
    if value.strip() in ("", ".", ".."):
        raise ConfigurationError(f"{name} must not be empty, '.' or '..'")
    if len(value) > _MAX_SEGMENT:
        raise ConfigurationError(f"{name} has {len(value)} characters; at most {_MAX_SEGMENT} are allowed")
    try:
        quoted = urllib.parse.quote(value, safe="")
    except UnicodeEncodeError as exc:
        raise ConfigurationError(f"{name} holds characters that cannot be encoded as UTF-8") from exc
    fault = _find_ambiguity(quoted)
    if fault is not None:
        raise ConfigurationError(f"{name} must be one segment of a path: as one, it {fault}")
    return quoted


@hide_arguments
def absolute_url(url: str) -> str:
    """Return the URL if Basiq can call it. Raises ``ConfigurationError``, which does not show it, for any other."""
    fault: str | None = "as text without white space"
    if isinstance(url, str) and all(char.isprintable() and not char.isspace() for char in url):
        try:
            parts = urllib.parse.urlsplit(url)
            usable = parts.scheme.lower() in _DEFAULT_PORTS and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        fault = None if usable else "such as https://example.com/basiq"
    if fault is not None:
        raise ConfigurationError(f"url must be an absolute http or https url, {fault}")
    return url


@hide_arguments
def read_endpoint(url: str) -> str:
    """Return the URL of an endpoint to post to. Raises ``ConfigurationError``, which does not show the URL."""
    if "@" in urllib.parse.urlsplit(absolute_url(url)).netloc:
        raise ConfigurationError("url must not hold a user or password: they would show in errors and logs")
    return url
