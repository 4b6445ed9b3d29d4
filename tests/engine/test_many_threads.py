"""Readers of three corpora with three adapters in 32 threads: every answer is the one it is alone."""

import random
import sys
import threading

import pytest

from longreach import Corpus, Document, MeanPool, Policy, Reader, Sampling
from longreach.engine.engine import engine_of
from tests.conftest import make_model
from tests.test_threads import make_adapter, together

THREADS, REQUESTS = 32, 500
WORDS = ["tarts", "whale", "watch"]
SHORT = Policy(k=1, raw=1, compressed="none", budget=190)
LONG = Policy(k=40, raw=40, compressed="none", budget=1700)
QUESTIONS = ["What did it say?", "Was chapter 3 odd?"]
SAMPLINGS = [Sampling(6), Sampling(9, temperature=1.0, seed=5)]


def texts(word):
    return {f"{word}.txt": " ".join(f"Chapter {i}. The {word} said something odd." for i in range(50))}


def make_readers(path, model, tokenizer, adapters, hot_bytes):
    """A reader for each corpus and each adapter."""
    readers = {}
    for word in WORDS:
        if not (path / word).exists():
            compressor = MeanPool(model, tokenizer, 10, segment_tokens=60)
            Corpus.create(path, word, compressor).add([Document(*text) for text in texts(word).items()])
        for number, adapter in enumerate(adapters):
            corpus = Corpus.open(path, word)
            readers[word, number] = Reader(corpus, model, tokenizer, adapter, hot_bytes=hot_bytes)
    return readers


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_every_answer_is_as_alone(tmp_path, tokenizer, seed):
    adapters = [
        make_adapter(tmp_path / "a", 1),
        make_adapter(tmp_path / "b", 2, ["v_proj", "down_proj", "embed_tokens"]),
        make_adapter(tmp_path / "c", 3, ["up_proj"]),
    ]
    single = make_readers(tmp_path, make_model(), tokenizer, adapters, hot_bytes=0)
    model = make_model()
    shared = make_readers(tmp_path, model, tokenizer, adapters, hot_bytes=1 << 24)

    def ask(readers, case):
        name, question, policy, sampling = case
        return readers[name].ask(question, document=f"{name[0]}.txt", policy=policy, sampling=sampling)

    cases = [
        (name, question, policy, sampling)
        for name in shared
        for question in QUESTIONS
        for policy in (SHORT, LONG)
        for sampling in SAMPLINGS
    ]
    alone = [ask(single, case) for case in cases]
    positions = [answer.usage.positions for answer in alone]
    assert max(positions) >= 10 * min(positions)
    assert len({answer.text for answer in alone}) > len(cases) // 4  # corpora, adapters and lengths matter

    counts, left = {"ask": 0, "stream": 0, "left": 0, "many": 0}, [REQUESTS]
    guard = threading.Lock()

    def work(number):
        draw = random.Random(1000 * seed + number)
        while True:
            with guard:
                left[0] -= 1
                if left[0] < 0:
                    return
            at = draw.randrange(len(cases))
            way = draw.choice(list(counts))
            name, question, policy, sampling = cases[at]
            document, wanted = f"{name[0]}.txt", alone[at]
            if way == "ask":
                assert ask(shared, cases[at]).text == wanted.text
            elif way == "many":
                others = [cases.index((name, other, policy, sampling)) for other in QUESTIONS]
                answers = shared[name].ask_many(QUESTIONS, documents=[document] * 2, policy=policy, sampling=sampling)
                assert [answer.text for answer in answers] == [alone[other].text for other in others]
            else:
                stream = shared[name].stream(question, document=document, policy=policy, sampling=sampling)
                pieces, most = [], draw.randrange(1, 5) if way == "left" else 100
                for piece in stream:
                    pieces.append(piece)
                    if len(pieces) == most:
                        break
                if most == 100:
                    assert stream.answer.text == wanted.text
                assert "".join(pieces).strip() in wanted.text
            with guard:
                counts[way] += 1

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        together(*[lambda number=number: work(number) for number in range(THREADS)], seconds=900)
    finally:
        sys.setswitchinterval(usual)
    assert sum(counts.values()) == REQUESTS and min(counts.values()) > REQUESTS // 8
    engine_of(model).close()
    assert not engine_of(model)._batch.rows
