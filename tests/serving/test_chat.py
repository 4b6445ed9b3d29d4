"""Chat completions with the official client: of a corpus, of the model alone, whole and streamed."""

import threading

import openai
import pytest

import longreach
from longreach import Sampling
from longreach.engine.turns import Turn
from tests.serving.conftest import error_of, wait_for

QUESTION = [{"role": "user", "content": "Who stole the tarts?"}]


def ask(client, **more):
    return client.chat.completions.create(**({"model": "library", "messages": QUESTION} | more))


@pytest.fixture(scope="module")
def session(settings):
    """The same corpus in this process."""
    with longreach.open("library", settings.store, device="cpu") as found:
        yield found


def test_the_models_are_the_base_model_and_the_corpora(client):
    found = {model.id: model.longreach["kind"] for model in client.models.list()}
    assert found["tiny"] == "model" and found["library"] == "corpus"
    assert client.models.retrieve("library").id == "library"
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        client.models.retrieve("other")


def test_a_corpus_answers_as_it_does_in_process(client, session):
    expected = session.ask("Who stole the tarts?", sampling=Sampling(8))
    done = ask(client)
    assert done.choices[0].message.content == expected.text
    assert done.choices[0].finish_reason == "length"
    assert done.usage.prompt_tokens == expected.usage.positions
    assert done.usage.completion_tokens == 8
    assert done.usage.total_tokens == expected.usage.positions + 8
    assert done.longreach["policy"] == expected.policy


def test_citations_quote_the_document_exactly(client, session):
    told = ask(client).longreach["citations"]
    assert told and {"text", "memory", "not read"} >= {citation["read_as"] for citation in told}
    for citation in told:
        text = session.corpus.document_text(citation["document"])
        assert text[citation["start"] : citation["end"]] == citation["text"]
        assert citation["file_id"].startswith("file-") and citation["filename"] == citation["document"]


def test_a_stream_gives_the_same_text_and_the_usage(client):
    whole = ask(client)
    pieces, finish, usage, told = [], [], None, None
    for chunk in ask(client, stream=True, stream_options={"include_usage": True}):
        if chunk.usage is not None:
            usage = chunk.usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            finish += [choice.finish_reason] if choice.finish_reason else []
            told = getattr(chunk, "longreach", told)
    assert "".join(pieces) == whole.choices[0].message.content
    assert finish == ["length"]
    assert usage.prompt_tokens == whole.usage.prompt_tokens and usage.completion_tokens == 8
    assert told["citations"] == whole.longreach["citations"]


def test_the_second_question_takes_from_the_cache(client):
    first = ask(client, messages=[{"role": "user", "content": "Who was very surprised, and why?"}])
    again = ask(client, messages=[{"role": "user", "content": "Who was very surprised, and why?"}])
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert 0 < cached < again.usage.prompt_tokens
    assert first.choices[0].message.content == again.choices[0].message.content


def test_the_model_alone_answers_a_conversation(client, server):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Who "}, {"type": "text", "text": "are you?"}]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Where do you live?"},
    ]
    done = ask(client, model="tiny", messages=messages, max_tokens=6)
    with server.service.pool.open_model() as shared:
        said = [
            dict(role=m["role"], content="Who are you?" if isinstance(m["content"], list) else m["content"])
            for m in messages
        ]
        ids = shared.tokenizer.apply_chat_template(
            said, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        written = shared.model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
        expected = shared.tokenizer.decode(written, skip_special_tokens=True).strip()
    assert done.choices[0].message.content == expected
    assert done.usage.prompt_tokens == ids.shape[1] and not hasattr(done, "longreach")
    follow = [*messages, {"role": "assistant", "content": "There."}, {"role": "user", "content": "Since when?"}]
    assert ask(client, model="tiny", messages=follow).usage.prompt_tokens_details.cached_tokens > 0


def test_earlier_turns_are_read_before_the_corpus(client, session):
    turns = [Turn("user", "Hello?"), Turn("assistant", "Yes.")]
    stream = session.stream("Who stole the tarts?", sampling=Sampling(8), history=turns)
    expected = "".join(stream).strip()
    messages = [{"role": turn.role, "content": turn.text} for turn in turns] + QUESTION
    assert ask(client, messages=messages).choices[0].message.content == expected


def test_seeds_repeat_samples(client):
    texts = [ask(client, temperature=1.5, top_p=0.9, seed=seed, max_tokens=12) for seed in (1, 1, 2)]
    one, same, other = [done.choices[0].message.content for done in texts]
    assert one == same != other


def test_an_answer_ends_before_a_stop_text(client):
    whole = ask(client, max_tokens=16).choices[0].message.content
    assert len(whole) > 4
    stop = whole[2:4]
    done = ask(client, max_tokens=16, stop=[stop, "never"])
    assert done.choices[0].message.content == whole[: whole.index(stop)].rstrip()
    assert done.choices[0].finish_reason == "stop"
    streamed = "".join(
        chunk.choices[0].delta.content or "" for chunk in ask(client, max_tokens=16, stop=stop, stream=True)
    )
    assert streamed == done.choices[0].message.content


def test_the_way_of_reading_can_be_named(client):
    done = ask(client, extra_body={"longreach": {"policy": "passages", "k": 1, "document": "tarts.txt"}})
    assert done.longreach["policy"] == "raw"
    assert {citation["document"] for citation in done.longreach["citations"]} == {"tarts.txt"}
    assert ask(client, extra_body={"longreach": {"policy": "none"}}).longreach["policy"] == "no context"


def test_unknown_parameters_are_refused_by_name(client, http):
    for extra, param in (
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"longreach": {"path": "/etc/passwd"}}, "longreach.path"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
        ({"n": 2}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"stop": ["a"] * 5}, "stop"),
    ):
        response = http.post("/v1/chat/completions", json={"model": "library", "messages": QUESTION, **extra})
        error = error_of(response)
        assert response.status_code == 400 and error["param"] == param, error
    with pytest.raises(openai.BadRequestError, match="'chat_template' is not known"):
        ask(client, extra_body={"chat_template": "{{ 1 }}"})


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "assistant", "content": "I speak first and last."}],
        [{"role": "user", "content": "  "}],
        [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}],
        [{"role": "tool", "content": "a"}],
        [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}],
    ],
)
def test_messages_that_cannot_be_read_are_refused(client, messages):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, messages=messages)
    assert refused.value.param.startswith("messages")


def test_errors_have_their_status(client):
    with pytest.raises(openai.NotFoundError) as error:
        ask(client, model="nothing")
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.UnprocessableEntityError) as error:
        ask(client, messages=[{"role": "user", "content": "Zyxwv?"}])
    assert error.value.code == "nothing_found"
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as error:
            ask(client, model="tiny", messages=[{"role": "user", "content": "word " * 3000}], stream=stream)
        assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="no document 'other'"):
        ask(client, extra_body={"longreach": {"document": "other"}})


def test_questions_at_the_same_time_get_what_they_get_alone(client):
    asked = [("library", "Who stole the tarts?"), ("tiny", "Who are you?"), ("library", "Who was surprised?")] * 4
    alone = {pair: ask(client, model=pair[0], messages=[{"role": "user", "content": pair[1]}]) for pair in set(asked)}
    found = [None] * len(asked)

    def run(place, model, question):
        messages = [{"role": "user", "content": question}]
        found[place] = ask(client, model=model, messages=messages).choices[0].message.content

    threads = [threading.Thread(target=run, args=(place, *pair)) for place, pair in enumerate(asked)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone[pair].choices[0].message.content for pair in asked]


def rows(server):
    text = server.http().get("/metrics").text
    return {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if not line.startswith("#")}


def test_a_client_that_goes_away_frees_its_row(client, server):
    before = rows(server)["longreach_answers_cancelled_total"]
    stream = ask(client, model="tiny", max_tokens=3000, stream=True)
    next(iter(stream))
    wait_for(lambda: rows(server)["longreach_rows"] == 1)
    stream.close()
    wait_for(lambda: rows(server)["longreach_rows"] == 0)
    with pytest.raises(openai.APITimeoutError):
        server.client().with_options(timeout=0.3).chat.completions.create(
            model="tiny", messages=QUESTION, max_tokens=3000
        )
    wait_for(lambda: rows(server)["longreach_rows"] == 0)
    wait_for(lambda: rows(server)["longreach_answers_cancelled_total"] == before + 2)
    assert ask(client).choices[0].message.content


def test_metrics_count_requests_and_tokens(client, server):
    before = rows(server)
    ask(client)
    after = rows(server)
    endpoint = 'longreach_requests_total{endpoint="/v1/chat/completions",status="200"}'
    assert after[endpoint] == before.get(endpoint, 0) + 1
    tokens = 'longreach_tokens_total{kind="completion"}'
    assert after[tokens] == before[tokens] + 8
    assert after["longreach_first_token_seconds_count"] == before["longreach_first_token_seconds_count"] + 1
    assert after["longreach_kv_cache_bytes"] > 0 and after["longreach_ingest_queue"] == 0
