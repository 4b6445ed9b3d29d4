"""The objects of a response: what was searched, what was said, and what is cited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from longreach.serving.answering.told import tell_reading
from longreach.serving.answering.writing import LENGTH, Outcome
from longreach.serving.objects import new_id, now

if TYPE_CHECKING:
    from longreach.jsontext import JsonObject
    from longreach.serving.answering.citations import Quote

INCLUDE_RESULTS = "file_search_call.results"
_NOT_READ = "not read"


@dataclass(frozen=True)
class Made:
    """A response that is being made.

    Attributes:
        model: As the client called it.
        query: What is searched for; None without a search.
        with_results: Whether the results of the search are told too.
        settings: The fields that repeat what was asked.
        id, search_id, message_id: Of the response and of its parts.
        created_at: Seconds.
    """

    model: str
    query: str | None
    with_results: bool
    settings: Mapping[str, object]
    id: str = field(default_factory=lambda: new_id("resp_"))
    search_id: str = field(default_factory=lambda: new_id("fs_"))
    message_id: str = field(default_factory=lambda: new_id("msg_"))
    created_at: int = field(default_factory=now)

    def to_dict(self, outcome: Outcome | None) -> JsonObject:
        """Returns OpenAI's response object; None for one that is still written."""
        response: JsonObject = {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "model": self.model,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
            **self.settings,
        }
        if outcome is None:
            return response
        status = status_of(outcome)
        if status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        output = [self.message(outcome.text, annotations_of(outcome), status)]
        if self.query is not None:
            output.insert(0, self.search("completed", outcome.quotes))
        response |= {"status": status, "output": output, "usage": usage_of(outcome)}
        return response | tell_reading(outcome)

    def search(self, status: str, quotes: Sequence[Quote] = ()) -> JsonObject:
        """Returns the call of the tool."""
        results = None
        if self.with_results and status == "completed":
            results = [_describe_result(quote) for quote in quotes]
        return {
            "id": self.search_id,
            "type": "file_search_call",
            "status": status,
            "queries": [self.query],
            "results": results,
        }

    def message(
        self, text: str | None, annotations: Sequence[JsonObject], status: str
    ) -> JsonObject:
        """Returns the message; without a text, one that begins."""
        content = [] if text is None else [make_part(text, annotations)]
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }


def make_part(text: str, annotations: Sequence[JsonObject]) -> JsonObject:
    """Returns the part of a message that is its text."""
    return {
        "type": "output_text",
        "text": text,
        "annotations": list(annotations),
        "logprobs": [],
    }


def annotations_of(outcome: Outcome) -> list[JsonObject]:
    """Returns the citations of what was read for an answer."""
    read = [quote for quote in outcome.quotes if quote.read_as != _NOT_READ]
    return [quote.to_citation(index) for index, quote in enumerate(read)]


def status_of(outcome: Outcome) -> str:
    """Returns whether a response is "completed" or "incomplete"."""
    return "incomplete" if outcome.finish_reason == LENGTH else "completed"


def usage_of(outcome: Outcome) -> JsonObject:
    """Returns the usage of an answer, as responses have it."""
    return {
        "input_tokens": outcome.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": outcome.cached_tokens,
            "cache_write_tokens": 0,
        },
        "output_tokens": outcome.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": outcome.prompt_tokens + outcome.completion_tokens,
    }


def _describe_result(quote: Quote) -> JsonObject:
    return {
        "file_id": quote.file_id,
        "filename": quote.filename,
        "score": quote.score,
        "text": quote.text,
        "attributes": quote.attributes,
        "longreach": quote.place,
    }
