"""Chat completions: of a corpus, with citations, or of the base model alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from longreach.jsontext import JsonObject
from longreach.serving.answering.question import (
    MOST_STOPS,
    Question,
    Reading,
    join_text,
    make_turns,
)
from longreach.serving.answering.sse import DONE, respond_with_events, to_event
from longreach.serving.answering.told import tell_reading
from longreach.serving.answering.writing import Outcome, Writing, collect
from longreach.serving.objects import Body, Metadata, new_id, now
from longreach.serving.problems import Problem
from longreach.serving.state import Service, Shared, key_of, make_sampling

router = APIRouter(prefix="/v1/chat/completions", tags=["chat"])

Stop = Annotated[str, Field(min_length=1, max_length=200)]


class Part(Body):
    """A part of a message's content."""

    type: str
    text: str = ""


class Message(Body):
    """What was said at one time."""

    role: str
    content: str | Annotated[list[Part], Field(max_length=1000)]
    name: str | None = None


class StreamOptions(Body):
    """What a stream tells beside the text."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class TextFormat(Body):
    """The form of an answer: text."""

    type: Literal["text"]


class ChatBody(Body):
    """A chat completion that is asked for. The last fields are taken only where they change
    nothing."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    longreach: Reading | None = None
    n: Literal[1] | None = None
    user: str | None = None
    metadata: Metadata | None = None
    store: Literal[False] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    response_format: TextFormat | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logprobs: Literal[False] | None = None
    parallel_tool_calls: bool | None = None


@router.post("", response_model=None)
async def complete(body: ChatBody, request: Request, service: Shared) -> Response:
    """Answers a conversation, at once or as a stream of events."""
    question = _read_question(body, service)
    if body.stream_options is not None and not body.stream:
        raise Problem(
            400, "'stream_options' is for streams: set 'stream' too.", param="stream_options"
        )
    writing = service.answer(body.model, question)
    if body.stream:
        stream = _Stream(body, new_id("chatcmpl-"), now())
        return await respond_with_events(request, service, writing, stream.events(writing))
    outcome = await collect(request, writing)
    service.end(writing, outcome, key_of(request))
    if outcome is None:
        return Response(status_code=499)
    return JSONResponse(_whole(body.model, outcome))


def _read_question(body: ChatBody, service: Service) -> Question:
    said = []
    for number, message in enumerate(body.messages):
        text = message.content
        if not isinstance(text, str):
            parts = [(part.type, part.text) for part in text]
            text = join_text(parts, ("text",), f"messages[{number}].content")
        said.append((message.role, text))
    history, text = make_turns(said, "messages")
    asked = body.max_completion_tokens or body.max_tokens
    sampling = make_sampling(
        service,
        max_tokens=asked,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
    )
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return Question(
        text, history, sampling, tuple(stops), body.longreach or Reading(), asked is not None
    )


def _whole(model: str, outcome: Outcome) -> JsonObject:
    message = {"role": "assistant", "content": outcome.text, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": outcome.finish_reason,
        "logprobs": None,
    }
    whole = {
        "id": new_id("chatcmpl-"),
        "object": "chat.completion",
        "created": now(),
        "model": model,
        "choices": [choice],
        "usage": usage_of(outcome),
    }
    return whole | tell_reading(outcome)


def usage_of(outcome: Outcome) -> JsonObject:
    """Returns the usage of an answer, as chat completions have it."""
    return {
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "total_tokens": outcome.prompt_tokens + outcome.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": outcome.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


class _Stream:
    """The events of one streamed completion."""

    def __init__(self, body: ChatBody, completion_id: str, created: int) -> None:
        options = body.stream_options
        self._with_usage = options is not None and options.include_usage
        self._head = {
            "id": completion_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": body.model,
        }

    async def events(self, writing: Writing) -> AsyncIterator[str]:
        """Yields them as the answer is written."""
        is_first = True
        async for piece in writing.pieces():
            if is_first:
                yield self._chunk({"role": "assistant", "content": ""}, None)
                is_first = False
            yield self._chunk({"content": piece}, None)
        outcome = writing.outcome
        assert outcome is not None, "the pieces have come to their end"
        if is_first:
            yield self._chunk({"role": "assistant", "content": ""}, None)
        yield self._chunk({}, outcome.finish_reason, tell_reading(outcome))
        if self._with_usage:
            last = self._head | {"choices": [], "usage": usage_of(outcome)}
            yield to_event(json.dumps(last, ensure_ascii=False))
        yield DONE

    def _chunk(self, delta: JsonObject, finish: str | None, more: JsonObject | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        chunk = self._head | {"choices": [choice]} | (more or {})
        if self._with_usage:
            chunk["usage"] = None
        return to_event(json.dumps(chunk, ensure_ascii=False))
