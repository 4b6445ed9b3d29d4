"""The events of a streamed response, in OpenAI's order."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from longreach.serving.answering.response import Made, annotations_of, make_part, status_of
from longreach.serving.answering.sse import to_event

if TYPE_CHECKING:
    from longreach.jsontext import JsonObject
    from longreach.serving.answering.writing import Outcome, Writing


class ResponseEvents:
    """The events of one response.

    Args:
        made: The response.
    """

    def __init__(self, made: Made) -> None:
        self._made = made
        self._number = 0
        # The search is the first item of the output, where there is one.
        self._place = 0 if made.query is None else 1

    async def events(self, writing: Writing) -> AsyncIterator[str]:
        """Yields them as the answer is written."""
        has_begun = False
        async for piece in writing.pieces():
            if not has_begun:
                for event in self._begin():
                    yield event
                has_begun = True
            yield self._text("delta", {"delta": piece, "logprobs": []})
        outcome = writing.outcome
        assert outcome is not None, "the pieces have come to their end"
        if not has_begun:
            for event in self._begin():
                yield event
        for event in self._end(outcome):
            yield event

    def _begin(self) -> Iterator[str]:
        started: JsonObject = {"response": self._made.to_dict(None)}
        yield self._event("response.created", started)
        yield self._event("response.in_progress", started)
        if self._made.query is not None:
            yield from self._search()
        message = self._made.message(None, [], "in_progress")
        yield self._item("added", self._place, message)
        yield self._part("added", make_part("", []))

    def _search(self) -> Iterator[str]:
        yield self._item("added", 0, self._made.search("in_progress"))
        for state in ("in_progress", "searching", "completed"):
            values = {"output_index": 0, "item_id": self._made.search_id}
            yield self._event(f"response.file_search_call.{state}", values)
        # Its results are in the last event, which knows how each passage was read.
        yield self._item("done", 0, {**self._made.search("completed"), "results": None})

    def _end(self, outcome: Outcome) -> Iterator[str]:
        annotations = annotations_of(outcome)
        for index, annotation in enumerate(annotations):
            values: JsonObject = {"annotation_index": index, "annotation": annotation}
            yield self._text("annotation.added", values)
        yield self._text("done", {"text": outcome.text, "logprobs": []})
        yield self._part("done", make_part(outcome.text, annotations))
        status = status_of(outcome)
        message = self._made.message(outcome.text, annotations, status)
        yield self._item("done", self._place, message)
        yield self._event(f"response.{status}", {"response": self._made.to_dict(outcome)})

    def _item(self, what: str, place: int, item: JsonObject) -> str:
        return self._event(f"response.output_item.{what}", {"output_index": place, "item": item})

    def _part(self, what: str, part: JsonObject) -> str:
        return self._event(f"response.content_part.{what}", self._where() | {"part": part})

    def _text(self, what: str, values: JsonObject) -> str:
        return self._event(f"response.output_text.{what}", self._where() | values)

    def _where(self) -> JsonObject:
        return {
            "item_id": self._made.message_id,
            "output_index": self._place,
            "content_index": 0,
        }

    def _event(self, kind: str, values: JsonObject) -> str:
        data = {"type": kind, "sequence_number": self._number} | values
        self._number += 1
        return to_event(json.dumps(data, ensure_ascii=False), kind)
