"""Responses, with the tool `file_search` over vector stores and citations of files."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from longreach.serving.answering.events import ResponseEvents
from longreach.serving.answering.question import Question, Reading, join_text, make_turns
from longreach.serving.answering.response import INCLUDE_RESULTS, Made
from longreach.serving.answering.sse import respond_with_events
from longreach.serving.answering.writing import Writing, collect
from longreach.serving.endpoints.vector_stores import Ranking
from longreach.serving.filters import Filter
from longreach.serving.objects import Body, Metadata
from longreach.serving.problems import Problem
from longreach.serving.state import Service, Shared, key_of, make_sampling

router = APIRouter(prefix="/v1/responses", tags=["responses"])

_TEXT_PARTS = ("input_text", "output_text", "text")
# What an earlier response gave beside its message says nothing that would have to be read again.
_SKIPPED = "file_search_call"


class Part(Body):
    """A part of a message, as it was sent or as an earlier response gave it."""

    type: str
    text: str = ""
    annotations: list[object] | None = None
    logprobs: list[object] | None = None


class Item(Body):
    """A message, or what an earlier response gave."""

    type: Literal["message", "file_search_call"] = "message"
    role: str | None = None
    content: str | Annotated[list[Part], Field(max_length=1000)] | None = None
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    queries: list[str] | None = None
    results: list[object] | None = None


class FileSearch(Body):
    """The tool that reads vector stores."""

    type: Literal["file_search"]
    vector_store_ids: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]],
        Field(min_length=1, max_length=16),
    ]
    max_num_results: Annotated[int, Field(ge=1, le=50)] | None = None
    filters: Filter | None = None
    ranking_options: Ranking | None = None


class ToolChoice(Body):
    """The tool that is to be used."""

    type: Literal["file_search"]


class Format(Body):
    """The form of an answer: text."""

    type: Literal["text"]


class TextOptions(Body):
    """How the text is written."""

    format: Format | None = None


class ResponseBody(Body):
    """A response that is asked for. The last fields are taken only where they change nothing."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Item], Field(min_length=1, max_length=1000)]
    )
    instructions: str | None = None
    tools: Annotated[list[FileSearch], Field(max_length=1)] | None = None
    tool_choice: Literal["auto", "required", "none"] | ToolChoice | None = None
    include: list[Literal["file_search_call.results"]] | None = None
    stream: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    metadata: Metadata | None = None
    longreach: Reading | None = None
    store: bool | None = None
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None


@router.post("", response_model=None)
async def respond(body: ResponseBody, request: Request, service: Shared) -> Response:
    """Answers, after a search in vector stores where the tool `file_search` is given."""
    search = None
    if body.tools and body.tool_choice != "none":
        search = body.tools[0]
    question = _read_question(body, search, service)
    made = Made(
        model=body.model,
        query=question.text if search is not None else None,
        with_results=INCLUDE_RESULTS in (body.include or []),
        settings={
            "instructions": body.instructions,
            "metadata": body.metadata or {},
            "temperature": question.sampling.temperature,
            "top_p": question.sampling.top_p,
            "max_output_tokens": body.max_output_tokens,
            "tools": [tool.model_dump(exclude_none=True) for tool in body.tools or []],
            "tool_choice": _describe_choice(body.tool_choice),
            "parallel_tool_calls": bool(body.parallel_tool_calls),
            # Nothing is kept, so that nothing can be asked for by its id.
            "store": False,
            "truncation": "disabled",
            "text": {"format": {"type": "text"}},
            "previous_response_id": None,
            "user": body.user,
        },
    )
    writing = _begin(body, search, question, service)
    if body.stream:
        events = ResponseEvents(made).events(writing)
        return await respond_with_events(request, service, writing, events)
    outcome = await collect(request, writing)
    service.end(writing, outcome, key_of(request))
    if outcome is None:
        return Response(status_code=499)
    return JSONResponse(made.to_dict(outcome))


def _begin(
    body: ResponseBody, search: FileSearch | None, question: Question, service: Service
) -> Writing:
    if search is None:
        return service.answer(body.model, question)
    service.check_model(body.model)
    stores = []
    for given in search.vector_store_ids:
        store = service.stores.get(given, "tools[0].vector_store_ids")
        if store not in stores:
            stores.append(store)
    if len(stores) == 1:
        return service.answer_from(stores[0], question)
    return service.answer_from_several(stores, question)


def _read_question(body: ResponseBody, search: FileSearch | None, service: Service) -> Question:
    said = []
    if body.instructions:
        said.append(("system", body.instructions))
    items = body.input
    if isinstance(items, str):
        said.append(("user", items))
    else:
        for number, item in enumerate(items):
            if item.type != _SKIPPED:
                said.append(_read_item(item, f"input[{number}]"))
    history, text = make_turns(said, "input")
    sampling = make_sampling(
        service,
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=None,
    )
    reading = body.longreach or Reading()
    if search is not None:
        changes: dict[str, object] = {}
        if search.filters is not None:
            changes["filters"] = search.filters
        if search.max_num_results is not None:
            changes["k"] = search.max_num_results
        if search.ranking_options is not None:
            changes["threshold"] = search.ranking_options.score_threshold
        reading = reading.model_copy(update=changes)
    return Question(text, history, sampling, (), reading, body.max_output_tokens is not None)


def _read_item(item: Item, place: str) -> tuple[str, str]:
    if item.role is None or item.content is None:
        raise Problem(400, "A message needs a role and a content.", param=place)
    if isinstance(item.content, str):
        return item.role, item.content
    parts = [(part.type, part.text) for part in item.content]
    return item.role, join_text(parts, _TEXT_PARTS, f"{place}.content")


def _describe_choice(choice: str | ToolChoice | None) -> object:
    if isinstance(choice, ToolChoice):
        return choice.model_dump()
    return choice or "auto"
