"""Choose the proxy of a request: the one that was passed, or that of the environment. No I/O."""

from __future__ import annotations

import ipaddress
import urllib.request
from collections.abc import Mapping
from typing import Final

import attrs
from yarl import URL

from .._redaction.credentials import Unpicklable
from .._redaction.tracebacks import hide_arguments
from .._wire.hosts import is_this_machine
from ..errors import ConfigurationError

ENVIRONMENT: Final = "environment"
"""The value of ``proxy`` for the proxy that the environment names."""


@attrs.frozen
class Proxy(Unpicklable):
    """The URL of a proxy. Its ``repr`` and ``str`` do not show the user and the password, which frames would."""

    url: URL = attrs.field(repr=False)

    @property
    def has_login(self) -> bool:
        """Whether the URL has a user."""
        return self.url.raw_user is not None

    def __str__(self) -> str:
        return str(self.url.with_user(None)).rstrip("/")

    def __repr__(self) -> str:
        return f"Proxy({str(self)!r})"


class Proxies(Unpicklable):
    """The proxies by the scheme of a request's URL.

    ``no_proxy`` is the list of hosts to call directly, as the variable ``NO_PROXY`` has it. With
    ``spare_this_machine``, requests to this machine are direct too.
    """

    def __init__(self, by_scheme: Mapping[str, Proxy], *, no_proxy: str = "", spare_this_machine: bool = False) -> None:
        self._by_scheme = dict(by_scheme)
        self._no_proxy = no_proxy
        self._spare_this_machine = spare_this_machine

    @classmethod
    def read(cls, proxy: str | None) -> Proxies | None:
        """Return the proxies that a user's ``proxy=`` means. Raises ``ConfigurationError``, which shows no password."""
        if proxy is None:
            return None
        if proxy == ENVIRONMENT:
            return cls.from_environment()
        return cls(dict.fromkeys(("http", "https"), _parse("proxy", proxy)))

    @classmethod
    def from_environment(cls) -> Proxies | None:
        """Return the proxies that ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` name now.

        Names in lower case count before those in upper case. ``.netrc`` and the system's settings are not read.
        """
        found = urllib.request.getproxies_environment()
        by_scheme = {}
        for scheme in ("http", "https"):
            name = scheme if found.get(scheme) else "all"
            if found.get(name):
                by_scheme[scheme] = _parse(f"{name.upper()}_PROXY", found[name])
        if not by_scheme:
            return None
        return cls(by_scheme, no_proxy=found.get("no", ""), spare_this_machine=True)

    def find(self, url: URL) -> Proxy | None:
        """Return the proxy for a request to a URL; None if the request is direct."""
        proxy, host = self._by_scheme.get(url.scheme), url.host
        if proxy is None or host is None:
            return None
        if self._spare_this_machine and is_this_machine(host):
            return None
        return None if self._no_proxy and _is_listed(host, url.port, self._no_proxy) else proxy

    def __repr__(self) -> str:
        return f"Proxies({', '.join(sorted(set(map(str, self._by_scheme.values()))))})"


@hide_arguments
def _parse(name: str, text: object) -> Proxy:
    """Return the URL of a proxy. As for curl, one without a scheme has ``http``."""
    if isinstance(text, str):
        try:
            url = URL(text if "://" in text else f"http://{text}")
        except ValueError:
            url = URL()
        if url.scheme in ("http", "https") and url.host:
            origin = url.origin()
            return Proxy(origin if url.raw_user is None else origin.with_user(url.user).with_password(url.password))
        if url.scheme.startswith("socks"):
            raise ConfigurationError(
                f"{name}: a SOCKS proxy needs aiohttp-socks: pass AiohttpTransport a session with its ProxyConnector"
            )
    raise ConfigurationError(
        f"{name} must be the URL of a proxy, such as http://proxy.example:3128, with user:password@ if it wants them"
        + (f", or {ENVIRONMENT!r}" if name == "proxy" else "")
    )


def _is_listed(host: str, port: int | None, listed: str) -> bool:
    """Return whether ``NO_PROXY`` lists a host: by name, by a domain it is in, by address or network, or by ``*``."""
    for entry in listed.lower().replace(",", " ").split():
        name = entry.removesuffix(f":{port}").removeprefix("*").removeprefix(".")
        if entry == "*" or host == name or host.endswith(f".{name}") or _is_in_network(host, name):
            return True
    return False


def _is_in_network(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network.strip("[]"), strict=False)
    except ValueError:  # one of them is a name
        return False
