"""The application: the endpoints behind the guard, with every error as OpenAI's error object."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longreach import __version__
from longreach.serving.endpoints import ROUTERS
from longreach.serving.problems import Problem, explain
from longreach.serving.security.guard import BodyLimit, Guard, add_security_headers
from longreach.serving.settings import ServeSettings
from longreach.serving.state import Service

_log = logging.getLogger("longreach.serving")
_UPLOAD_PATH = "/v1/files"
_KINDS = frozenset({"str", "int", "float", "bool", "list", "Comparison", "Compound"})
_FORM_BYTES = 64 << 10  # around an uploaded file


def create_app(settings: ServeSettings) -> FastAPI:
    """Returns the application of a server.

    Args:
        settings: How it is set up.

    Raises:
        UsageError: The file of keys cannot be used.
        StorageError: The store cannot be read or written.
    """
    service = Service(settings)

    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        app.state.has_ended = service.close()

    app = FastAPI(
        title="Longreach",
        version=__version__,
        summary="Questions to corpora of documents, in OpenAI's interface, with exact citations.",
        lifespan=live,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(RequestValidationError, _refuse_invalid)
    app.add_exception_handler(HTTPException, _refuse_unknown)
    app.add_exception_handler(Problem, _tell_problem)

    def most_bytes(scope: Scope) -> int:
        if scope["path"] == _UPLOAD_PATH:
            return settings.max_upload_bytes + _FORM_BYTES
        return settings.max_body_bytes

    # The last one added is the first one to see a request.
    app.add_middleware(BodyLimit, most=most_bytes)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(Guard, settings=settings, keys=service.keys, limits=service.limits)
    app.add_middleware(_Watch, service=service)
    return app


class _Watch:
    """Counts and logs every request, puts security headers on every response, and turns errors
    that nobody expected into one.

    A line of the log holds no question, no answer and no key.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                add_security_headers(message)
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except Exception as error:
            problem = self._explain(error)
            if status:
                # The response has begun, so all that is left is to break it off.
                raise
            await _respond(problem)(scope, receive, send_noted)
        finally:
            route = scope.get("route")
            endpoint = str(getattr(route, "path", "other"))
            self._service.metrics.count_request(endpoint, status)
            key = scope.get("state", {}).get("key")
            _log.info(
                "%s %s %d %.3f s %s",
                scope["method"][:10],
                endpoint,
                status,
                time.perf_counter() - began,
                "-" if key is None else key.name,
            )

    def _explain(self, error: Exception) -> Problem:
        problem = explain(error)
        if problem.code == "internal_error":
            _log.error("%s", _locate(error))
        return _hide_paths(problem, self._service.settings)


def _respond(problem: Problem) -> JSONResponse:
    return JSONResponse(problem.to_dict(), problem.status, problem.headers())


async def _tell_problem(request: Request, error: Exception) -> JSONResponse:
    return _respond(cast(Problem, error))


async def _refuse_unknown(request: Request, error: Exception) -> JSONResponse:
    """Answers what has no endpoint, or not with this method."""
    found = cast(HTTPException, error)
    if found.status_code == 404:
        problem = Problem(404, "There is no such endpoint: see /openapi.json.", code="not_found")
    elif found.status_code == 405:
        problem = Problem(
            405, "The endpoint does not take this method: see /openapi.json.", code="not_allowed"
        )
    else:
        code = "request_too_large" if found.status_code == 413 else "invalid_request"
        problem = Problem(found.status_code, f"{found.detail}".rstrip(".") + ".", code=code)
    response = _respond(problem)
    response.headers.update(found.headers or {})
    return response


async def _refuse_invalid(request: Request, error: Exception) -> JSONResponse:
    """Names the parameter that cannot be, and what is wrong with it; never its value."""
    first = cast(RequestValidationError, error).errors()[0]
    place = first["loc"]
    param = _name_place(place[1:] if place and place[0] in ("body", "query", "path") else place)
    kind = first["type"]
    if kind == "extra_forbidden":
        message = f"The parameter '{param}' is not known here: leave it out."
        code = "unknown_parameter"
    elif kind == "missing":
        message = f"The parameter '{param}' is missing: give it."
        code = "missing_parameter"
        if not param:
            message = "The request has no body: send an object of JSON."
    elif kind == "json_invalid":
        message = "The request's body is no JSON: send an object of JSON."
        code = "invalid_json"
        param = ""
    else:
        message = f"The parameter '{param}' cannot be: {first['msg']}."
        code = "invalid_value"
    return _respond(Problem(400, message, code=code, param=param or None))


def _name_place(parts: Sequence[Any]) -> str:
    name = ""
    for part in parts:
        if isinstance(part, int):
            name += f"[{part}]"
        # What pydantic calls the members of a union is no name of the client's.
        elif isinstance(part, str) and part.replace("_", "").isalnum() and part not in _KINDS:
            name += f".{part}" if name else part
    return name[:200]


def _locate(error: Exception) -> str:
    """Returns where an error came from, without its text, which may hold words of a client."""
    if os.environ.get("LONGREACH_DEBUG"):
        return "".join(traceback.format_exception(error))
    places = []
    for frame in traceback.extract_tb(error.__traceback__)[-4:]:
        places.append(f"{Path(frame.filename).name}:{frame.lineno}")
    return f"{type(error).__name__} at {' > '.join(places)}"


def _hide_paths(problem: Problem, settings: ServeSettings) -> Problem:
    """Returns a problem whose message tells nothing of the server's folders."""
    message = problem.message
    for path in {str(settings.store), str(settings.store.absolute())}:
        message = message.replace(path, "the store")
    if Path(settings.model).is_absolute():
        message = message.replace(settings.model, Path(settings.model).name)
    return Problem(
        problem.status,
        message,
        code=problem.code,
        param=problem.param,
        retry_after=problem.retry_after,
    )
