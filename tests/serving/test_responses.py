"""Responses with the official client: file search over vector stores, with citations of files."""

import openai
import pytest

from longreach import Document
from tests.serving.conftest import make_corpus, make_settings, running

MOCK = Document("mock.txt", "The Mock Turtle wept by the sea. The Gryphon sat beside him.\n" * 6)
QUESTION = "Who stole the tarts?"


@pytest.fixture(scope="module")
def client(tmp_path_factory, base):
    store = tmp_path_factory.mktemp("store")
    make_corpus(store, base)
    make_corpus(store, base, "sea", [MOCK])
    with running(make_settings(store, base)) as found:
        yield found.client()


def respond(client, stores=("library",), **more):
    tools = [{"type": "file_search", "vector_store_ids": list(stores), **more.pop("tool", {})}]
    return client.responses.create(**({"model": "tiny", "input": QUESTION, "tools": tools} | more))


def text_of(client, name, place):
    return client.vector_stores.files.content(place["file_id"], vector_store_id=name).data[0].text


def test_a_search_comes_before_the_message_with_its_citations(client):
    done = respond(client, include=["file_search_call.results"])
    search, message = done.output
    assert (search.type, search.status, search.queries) == ("file_search_call", "completed", [QUESTION])
    assert search.results[0].filename == "tarts.txt" and 0 < search.results[0].score < 1
    asked = client.chat.completions.create(model="library", messages=[{"role": "user", "content": QUESTION}])
    assert done.output_text == message.content[0].text == asked.choices[0].message.content
    assert (done.status, done.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert done.usage.input_tokens == asked.usage.prompt_tokens and done.usage.output_tokens == 8
    annotations = message.content[0].annotations
    assert annotations and {annotation.type for annotation in annotations} == {"file_citation"}
    for index, annotation in enumerate(annotations):
        place = annotation.model_dump()
        assert place["index"] == index and place["read_as"] in ("text", "memory")
        quoted = text_of(client, "library", place)[place["start"] : place["end"]]
        (told,) = [
            c for c in done.longreach["citations"] if c["start"] == place["start"] and c["file_id"] == place["file_id"]
        ]
        assert quoted == told["text"]


def test_without_the_tool_the_model_answers_alone(client):
    done = client.responses.create(model="tiny", input=QUESTION, instructions="Be brief.")
    (message,) = done.output
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    asked = client.chat.completions.create(model="tiny", messages=messages)
    assert done.output_text == asked.choices[0].message.content and message.content[0].annotations == []
    assert respond(client, tool_choice="none").output_text != done.output_text or len(done.output) == 1


def test_the_events_of_a_stream_make_the_response(client):
    whole = respond(client)
    events = list(respond(client, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.incomplete"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    search = ["in_progress", "searching", "completed"]
    assert [kind.split(".")[-1] for kind in kinds if "file_search_call" in kind] == search
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(pieces) == whole.output_text
    added = [event.annotation for event in events if event.type == "response.output_text.annotation.added"]
    final = events[-1].response
    assert [dict(one) for one in added] == [one.model_dump() for one in final.output[-1].content[0].annotations]
    assert final.output_text == whole.output_text and final.usage.output_tokens == 8
    with client.responses.stream(
        model="tiny", input=QUESTION, tools=[{"type": "file_search", "vector_store_ids": ["library"]}]
    ) as stream:
        assert "".join(e.delta for e in stream if e.type == "response.output_text.delta") == whole.output_text


def test_an_earlier_response_goes_into_the_next_question(client):
    first = respond(client)
    items = [{"role": "user", "content": QUESTION}, *[item.model_dump() for item in first.output]]
    items.append({"role": "user", "content": [{"type": "input_text", "text": "Who was angry?"}]})
    asked = respond(client, input=items)
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Who was angry?"},
    ]
    expected = client.chat.completions.create(model="library", messages=messages)
    assert asked.output_text == expected.choices[0].message.content


def test_several_vector_stores_are_read_together(client):
    done = respond(client, ("library", "sea"), input="Who stole the tarts, and who wept by the sea?")
    names = {annotation.filename for annotation in done.output[-1].content[0].annotations}
    assert {"tarts.txt", "mock.txt"} <= names
    assert {citation["read_as"] for citation in done.longreach["citations"]} <= {"text", "not read"}
    for citation in done.longreach["citations"]:
        store = "sea" if citation["document"] == "mock.txt" else "library"
        assert text_of(client, store, citation)[citation["start"] : citation["end"]] == citation["text"]


def test_filters_and_thresholds_choose_what_is_read(client):
    none = {"type": "eq", "key": "year", "value": 1865}
    for tool in ({"filters": none}, {"ranking_options": {"score_threshold": 1.0}}):
        with pytest.raises(openai.UnprocessableEntityError) as error:
            respond(client, tool=tool)
        assert error.value.code == "nothing_found"
    few = respond(client, tool={"max_num_results": 1})
    assert len(few.longreach["citations"]) == 1


@pytest.mark.parametrize(
    "more, param",
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"input": [{"role": "user"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "text": ""}]}]}, "input[0].content[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ],
)
def test_what_cannot_be_is_refused_by_name(client, more, param):
    with pytest.raises(openai.BadRequestError) as error:
        respond(client, **more)
    assert error.value.param == param


def test_what_does_not_exist_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="no vector store"):
        respond(client, ("nothing",))
    with pytest.raises(openai.NotFoundError, match="no model"):
        respond(client, model="nothing")
