# SPDX-License-Identifier: Apache-2.0
"""The proxy that the environment names for an HTTPS call: a tunnel through it, which it cannot look into."""

from __future__ import annotations

import base64
import os
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import proxy_bypass

from casemate.core.errors import InvalidData

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


def connection(parts: SplitResult, timeout: float) -> tuple[HTTPConnection, bool]:
    """Return a connection yet to be made, and whether through HTTPS_PROXY; not where NO_PROXY has the host.

    A plain ``http`` endpoint is asked directly.

    Raises:
        InvalidData: a proxy that is no ``http://host:port``.
    """
    host = parts.hostname or ""
    if parts.scheme != "https":
        return HTTPConnection(host, parts.port, timeout=timeout), False
    named = os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY") or ""
    if not named or host in LOCAL or proxy_bypass(host):
        return HTTPSConnection(host, parts.port, timeout=timeout), False
    try:
        proxy = urlsplit(named if "://" in named else f"http://{named}")
        usable = proxy.scheme == "http" and bool(proxy.hostname) and proxy.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidData(
            "HTTPS_PROXY must be http://host:port (its value may hold a password and is not repeated); "
            "mend it, or name the endpoint in NO_PROXY"
        )
    headers = {}
    if proxy.username is not None:
        secret = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(secret).decode()}"
    made = HTTPSConnection(proxy.hostname or "", proxy.port or 80, timeout=timeout)
    made.set_tunnel(host, parts.port, headers)
    return made, True
