"""What every request passes: the name it came by, the page it came from, its key, its size."""

import json
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longreach.serving.problems import Problem
from longreach.serving.security.keys import KeyRing
from longreach.serving.security.limits import Limits
from longreach.serving.settings import ServeSettings, is_loopback

# Whether a server lives is no secret, and those who ask (a load balancer) have no key.
_PUBLIC = frozenset({"/health", "/ready", "/openapi.json"})
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARDS = frozenset({"0.0.0.0", "::", ""})
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """Refuses requests that may not be answered.

    Args:
        app: What answers.
        settings: Which hosts and origins may ask.
        keys: The keys; None lets everybody in.
        limits: The allowances of the keys.
    """

    def __init__(
        self, app: ASGIApp, settings: ServeSettings, keys: KeyRing | None, limits: Limits
    ) -> None:
        self._app = app
        self._settings = settings
        self._keys = keys
        self._limits = limits
        self._hosts = _list_hosts(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        try:
            self._check(scope)
        except Problem as problem:
            await send_problem(problem, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers.get("host", ""))
        self._check_origin(headers, scope)
        if self._keys is None or scope["path"] in _PUBLIC:
            return
        # A browser asks so before it sends a key.
        if scope["method"] == "OPTIONS":
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = self._keys.find(given.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise Problem(
                401,
                "The API key is missing or wrong: send 'Authorization: Bearer KEY' with a key that"
                " this server gave out.",
                code="invalid_api_key",
            )
        scope.setdefault("state", {})["key"] = key
        self._limits.check(key)

    def _check_host(self, host: str) -> None:
        """Refuses names that lead here by rebinding: a page of another host asked by its own
        name."""
        name = _name_of(host)
        if self._hosts is None or name in self._hosts:
            return
        raise Problem(
            403,
            f"This server does not go by the name '{name[:100]}': call it by its address, or start"
            " it with --allow-host.",
            code="host_not_allowed",
        )

    def _check_origin(self, headers: Headers, scope: Scope) -> None:
        """Refuses the scripts of other pages, which send requests that they cannot read."""
        origin = headers.get("origin")
        if origin is None or origin in self._settings.allowed_origins:
            return
        if origin != f"{scope.get('scheme', 'http')}://{headers.get('host', '')}":
            raise Problem(
                403,
                "Pages of other origins may not ask this server: start it with --allow-origin.",
                code="origin_not_allowed",
            )


class BodyLimit:
    """Refuses bodies that are too large, before or while they come.

    Args:
        app: What answers.
        most: Returns the most bytes of a request's body.
    """

    def __init__(self, app: ASGIApp, most: Callable[[Scope], int]) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._most(scope)
        said = Headers(scope=scope).get("content-length", "0")
        if said.isdecimal() and int(said[:20]) > most:
            await send_problem(_too_large(most), send)
            return
        seen = 0

        async def receive_counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            # A body without a length, or with a wrong one.
            if seen > most:
                # The framework lets its own errors through, and no others.
                raise HTTPException(413, _too_large(most).message)
            return message

        await self._app(scope, receive_counted, send)


def add_security_headers(start: Message) -> None:
    """Puts on the start of a response what browsers keep to, unless an endpoint says otherwise."""
    headers = MutableHeaders(scope=start)
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)


async def send_problem(problem: Problem, send: Callable[[Message], Awaitable[None]]) -> None:
    """Sends an error as the whole response."""
    body = json.dumps(problem.to_dict()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    for name, value in problem.headers().items():
        headers.append((name.lower().encode(), value.encode()))
    start = {"type": "http.response.start", "status": problem.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _too_large(most: int) -> Problem:
    return Problem(
        413,
        f"The request has more than {most:,} bytes: send less at a time, or start the server with"
        " a larger --max-upload-mb.",
        code="request_too_large",
    )


def _list_hosts(settings: ServeSettings) -> frozenset[str] | None:
    """Returns the names by which the server is called; None for any.

    On all addresses, with keys, names are only checked where some are given: no page of another
    host has a key.
    """
    given = frozenset(name.lower() for name in settings.allowed_hosts)
    if is_loopback(settings.host):
        return given | _LOCAL_NAMES | {_name_of(settings.host)}
    if not given:
        return None
    own = frozenset() if settings.host in _WILDCARDS else frozenset({_name_of(settings.host)})
    return given | own | _LOCAL_NAMES


def _name_of(host: str) -> str:
    """Returns a host in lower case without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
