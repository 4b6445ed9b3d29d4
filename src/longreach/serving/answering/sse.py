"""Streams of server-sent events, which end when their client goes away."""

import asyncio
import json
from collections.abc import AsyncIterator

from fastapi.responses import Response, StreamingResponse
from starlette.requests import Request

from longreach.serving.answering.writing import Writing, race, wait_until_gone
from longreach.serving.problems import explain
from longreach.serving.state import Service, key_of

DONE = "data: [DONE]\n\n"
_HEADERS = {"X-Accel-Buffering": "no"}


def to_event(data: str, kind: str | None = None) -> str:
    """Returns one event."""
    named = "" if kind is None else f"event: {kind}\n"
    return f"{named}data: {data}\n\n"


async def respond_with_events(
    request: Request, service: Service, writing: Writing, events: AsyncIterator[str]
) -> Response:
    """Returns a stream of events, once the first one is there: an error before it has its status.

    Args:
        request: What was asked.
        service: The server.
        writing: The answer.
        events: Its events, of which each is made when the one before it was taken.
    """
    first: list[str] = []

    async def begin() -> None:
        first.append(await anext(events))

    if not await race(request, asyncio.ensure_future(begin()), writing):
        service.end(writing, None, key_of(request))
        return Response(status_code=499)

    def cancel_unless_cancelled(watch: "asyncio.Future[None]") -> None:
        if not watch.cancelled():
            writing.cancel()

    async def send() -> AsyncIterator[str]:
        watch = asyncio.ensure_future(wait_until_gone(request))
        watch.add_done_callback(cancel_unless_cancelled)
        try:
            yield first[0]
            async for event in events:
                yield event
        except Exception as error:
            # The status is sent already, so the error is an event.
            yield to_event(json.dumps(explain(error).to_dict(), ensure_ascii=False))
        finally:
            watch.cancel()
            # Without an outcome the client went away, and nobody needs the rest.
            writing.cancel()
            service.end(writing, writing.outcome, key_of(request))

    return StreamingResponse(send(), media_type="text/event-stream", headers=_HEADERS)
