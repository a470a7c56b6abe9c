"""Urls: the API's own, the links in its responses, and identifiers put into a path. Pure."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping

import attrs

from ..errors import ConfigurationError
from .hosts import is_this_machine

VENDOR_URL = "https://au-api.basiq.io"
"""Where the API lives, and the host that its links name (the vendor's reference, "servers")."""

_MAX_SEGMENT = 2_048
_PLAIN_SEGMENT = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9_.~-]{0,255}")
_ABSOLUTE = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?P<rest>(?:[/?].*)?)",
    re.IGNORECASE,
)
_HAS_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_UNSENDABLE = re.compile(r"[^!-~]|\\")
_DOT_SEGMENT = re.compile(r"/(?:\.|%(?:25)*2e){1,2}(?:(?:;|%(?:25)*3b)[^/]*)?(?:/|$)", re.IGNORECASE)
"""Also with parameters after the dots, which some servers drop before they resolve them, and encoded twice."""
_HIDDEN_SLASH = re.compile(r"%(?:25)*(?:2f|5c)", re.IGNORECASE)
"""An encoded slash or backslash: a server on the way may decode it, and see another path than this side does."""
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class LinkError(ValueError):
    """A link that must not be followed; the text says why."""


def _split(url: str) -> tuple[str, str] | None:
    """The origin of an absolute url, in lower case and without a default port, and all that follows it."""
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
    """The API's origin, and the path prefix that a proxy may have put before it."""

    origin: str
    prefix: str

    @classmethod
    def parse(cls, text: str, *, allow_http: bool = False) -> BaseURL:
        """Read an absolute https url, or an http one on this machine. Raises ``ConfigurationError``.

        ``allow_http`` allows http to other machines too: the API key and the tokens can then be read on the way.
        """
        parts = _split(text) if isinstance(text, str) and not _UNSENDABLE.search(text) else None
        del text  # it can hold a password, and error reporters show local variables
        if parts is None or "?" in parts[1] or "#" in parts[1] or not _has_port(parts[0]):
            raise ConfigurationError(
                "base_url must be an absolute http or https url without credentials, query or fragment, "
                f"such as {VENDOR_URL}"
            )
        if parts[0].startswith("http:") and not allow_http and not _is_local(parts[0]):
            raise ConfigurationError(
                "base_url is http beyond this machine: the API key could be read on the way. Use https, or pass "
                "allow_http=True (BASIQ_ALLOW_HTTP=1 in the environment) where the network between is yours"
            )
        return cls(parts[0], parts[1].rstrip("/"))

    def url(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """The url of a path of the API, which starts with a slash and is percent-encoded already."""
        encoded = urllib.parse.urlencode(query, quote_via=urllib.parse.quote, safe="") if query else ""
        return f"{self.origin}{self.prefix}{path}" + (f"?{encoded}" if encoded else "")

    def owns(self, url: str) -> bool:
        """Whether a url may be sent the token: it has this origin, and this prefix."""
        start = self.origin + self.prefix
        return url.startswith(start) and url[len(start) : len(start) + 1] in ("", "/", "?")

    def relative(self, url: str) -> str:
        """What follows the base in one of the API's own urls."""
        return url[len(self.origin) + len(self.prefix) :]

    def path_of(self, url: str) -> str:
        """The path of one of the API's own urls, for messages: no query, which can name users."""
        return self.relative(url).partition("?")[0] or "/"

    def have_same_path(self, url: str, other: str) -> bool:
        """Whether two of the API's own urls differ in their queries alone, or in a slash at the end of the path."""
        return _plain_path(self.path_of(url)) == _plain_path(self.path_of(other))

    def resolve(self, link: str, current: str) -> str:
        """The url to call for a link found in the response to ``current``, byte for byte where it can be.

        A link to the vendor's host is called through this base. Raises ``LinkError`` for one that leads to
        another origin, or that no request line can carry.
        """
        if _UNSENDABLE.search(link):
            raise LinkError("holds characters that no url has")
        link = link.partition("#")[0]
        if link.startswith("//"):
            raise LinkError("leads to another origin")
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
                url = self.origin + self.prefix + parts[1]
            else:
                raise LinkError(f"leads to another origin, {parts[0]}")
        else:
            url = urllib.parse.urljoin(current, link)
        path = url.partition("?")[0]
        if not self.owns(url) or _DOT_SEGMENT.search(path):
            raise LinkError("leads outside of the API's own urls")
        if _HIDDEN_SLASH.search(path) and path != current.partition("?")[0]:
            raise LinkError("hides a slash in its path, which may lead elsewhere than it shows")
        return url

    def _under_prefix(self, rest: str) -> str:
        # Behind a proxy that strips its prefix, the API names its own paths without it.
        url = self.origin + rest
        return url if self.owns(url) else self.origin + self.prefix + rest


def _plain_path(path: str) -> list[str]:
    return [urllib.parse.unquote(part) for part in path.rstrip("/").split("/")]


def quote_segment(value: str, name: str) -> str:
    """An identifier as exactly one segment of a path. Raises ``ConfigurationError`` for one that cannot be."""
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be text, not {type(value).__name__}")
    if _PLAIN_SEGMENT.fullmatch(value):
        return value
    if value.strip() in ("", ".", ".."):
        raise ConfigurationError(f"{name} must not be empty, '.' or '..'")
    if len(value) > _MAX_SEGMENT:
        raise ConfigurationError(f"{name} is {len(value)} characters long; at most {_MAX_SEGMENT} can be sent")
    try:
        return urllib.parse.quote(value, safe="")
    except UnicodeEncodeError as exc:
        raise ConfigurationError(f"{name} holds characters that cannot be encoded as UTF-8") from exc


def absolute_url(value: str, name: str = "url") -> str:
    """A url that Basiq can call. Raises ``ConfigurationError`` for one that is not absolute http or https."""
    fault = _find_fault(value)
    if fault is not None:
        del value  # it can hold a password, and error reporters show local variables
        raise ConfigurationError(f"{name} must be an absolute http or https url, {fault}")
    return value


def read_endpoint(url: str) -> str | ConfigurationError:
    """The url of an endpoint to post to; an error, which never holds the url, for one that cannot be.

    Returned and not raised: the caller has the url among its locals, with the key that its query may hold.
    """
    fault = _find_fault(url)
    if fault is not None:
        return ConfigurationError(f"url must be an absolute http or https url, {fault}")
    if "@" in urllib.parse.urlsplit(url).netloc:
        return ConfigurationError("url must not hold a user or password: they would show in errors and logs")
    return url


def _find_fault(url: object) -> str | None:
    if not isinstance(url, str) or any(char.isspace() or not char.isprintable() for char in url):
        return "as text without white space"
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme.lower() in _DEFAULT_PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    return None if usable else "such as https://example.com/basiq"
