"""Questions that follow earlier turns, that are asked about some documents only, and that are cancelled."""

import pytest

from longreach import Policy, Reader, Sampling
from longreach.caches.prefix import PrefixCache
from longreach.engine.turns import Turn
from longreach.errors import NothingFound
from tests.reading.test_reader import SHORT, make_corpus, plain_answer

TURNS = [Turn("system", "Be brief."), Turn("user", "Who spoke?"), Turn("assistant", "The whale.")]


@pytest.fixture
def reader(tmp_path, model, tokenizer):
    return Reader(make_corpus(tmp_path, model, tokenizer), model, tokenizer, policy=Policy(budget=900))


def ask(reader, question, **view):
    stream = reader.stream(question, sampling=SHORT, **view)
    text = "".join(stream)
    return text, stream.answer


def test_earlier_turns_stand_before_what_is_read(reader, model, tokenizer):
    policy = Policy.passages(k=1, budget=900)
    text, answer = ask(reader, "Which whale spoke in chapter 3?", policy=policy, history=TURNS)
    read = answer.passages[0].text + "\n\n"
    request = "Answer the question in one short sentence, using the text above.\n\nQuestion: "
    messages = [{"role": turn.role, "content": turn.text} for turn in TURNS]
    messages.append({"role": "user", "content": read + request + "Which whale spoke in chapter 3?"})
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    written = model.generate(ids, max_new_tokens=SHORT.max_new_tokens, do_sample=False)[0, ids.shape[1] :]
    assert text == tokenizer.decode(written, skip_special_tokens=True)
    assert answer.usage.positions == ids.shape[1]


def test_the_budget_is_for_what_is_read_beside_earlier_turns(reader):
    question = "Which whale spoke in chapter 3?"
    alone = ask(reader, question)[1]
    after = ask(reader, question, history=[Turn("system", "Be very brief. " * 30)])[1]
    assert [p.read_as for p in after.passages] == [p.read_as for p in alone.passages]
    assert after.usage.positions > alone.usage.positions


def test_passages_come_from_the_documents_that_are_named(reader):
    question = "What did number 7 say?"
    assert len({p.document for p in ask(reader, question)[1].passages}) > 1
    answer = ask(reader, question, among={"queen.txt"})[1]
    assert {p.document for p in answer.passages} == {"queen.txt"}
    assert plain_answer(reader, answer, question)[1] == answer.text
    with pytest.raises(NothingFound):
        ask(reader, question, among=set())


def test_readers_of_a_model_share_what_was_read(reader):
    shared = PrefixCache(64 << 20)
    question = "Which whale spoke in chapter 3?"
    for cached in (False, True):
        one = Reader(reader.corpus, reader.model, reader.tokenizer, policy=Policy(budget=900), hot=shared)
        assert bool(one.ask(question, sampling=SHORT).usage.cached) is cached
    assert shared.bytes > 0


def test_a_cancelled_answer_ends_with_what_there_is(reader):
    stream = reader.stream("Which whale spoke in chapter 3?", sampling=Sampling(1000, temperature=1.0, seed=1))
    pieces = []
    for piece in stream:
        pieces.append(piece)
        stream.cancel()
    assert stream.answer.usage.answer_tokens < 1000
    assert "".join(pieces).strip() == stream.answer.text


def test_an_answer_that_is_cancelled_before_it_begins_has_no_text(reader):
    stream = reader.stream("Which whale spoke in chapter 3?", sampling=SHORT)
    stream.cancel()
    assert "".join(stream) == "" and stream.answer.usage.answer_tokens == 0
