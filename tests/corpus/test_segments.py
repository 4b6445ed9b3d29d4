"""Segments of several passages: the first one has the memory, and what was begun is finished."""

import pytest

import longreach as lr
from longreach.compressors.memory import KeysValues, Within
from tests.conftest import make_model, make_tokenizer

TEXT = "The Knave of Hearts, he stole those tarts, and took them quite away. " * 4  # 276 tokens
SEGMENT, PASSAGE = 100, 40


@pytest.fixture
def compressor():
    return lr.KVZip(make_model(), make_tokenizer(), 4, segment_tokens=SEGMENT, passage_tokens=PASSAGE)


def check(corpus):
    passages = corpus.passages("a")
    assert "".join(passage.text for passage in passages) == TEXT
    assert [passage.tokens for passage in passages] == [40, 40, 20, 40, 40, 20, 40, 36]
    assert [passage.segment for passage in passages] == [None, 0, 0, None, 3, 3, None, 6]
    assert [passage.reach for passage in passages] == [100] * 6 + [76] * 2
    assert [passage.n_vectors for passage in passages] == [26] * 6 + [20] * 2
    memories = corpus.memories(passages[0].revision)
    assert [type(memory) for memory in memories] == [
        Within if passage.segment is not None else KeysValues for passage in passages
    ]
    assert [memory.length for memory in memories if isinstance(memory, KeysValues)] == [101, 101, 77]
    (document,) = corpus.documents()
    assert (document.vectors, document.passages, document.tokens) == (26 + 26 + 20, 8, 276)
    assert corpus.verify().ok


def test_the_first_passage_of_a_segment_has_its_memory(tmp_path, compressor):
    corpus = lr.Corpus.create(tmp_path, "c", compressor)
    report = corpus.add([lr.Document("a", TEXT)])
    assert (report.passages, report.tokens) == (8, 276)
    check(corpus)
    check(lr.Corpus.open(tmp_path, "c"))
    found = corpus.search("tarts", 1)[0]
    info = corpus.passages("a")[found.index]
    assert (found.segment, found.reach, found.n_vectors) == (info.segment, info.reach, info.n_vectors)


@pytest.mark.parametrize("left", [0, 1, 2, 3, 5, 7])
def test_an_ingest_that_was_killed_resumes_at_a_segment(tmp_path, compressor, left, monkeypatch):
    corpus = lr.Corpus.create(tmp_path, "c", compressor)
    corpus.add([lr.Document("a", TEXT)])
    expected = [memory.to_bytes() for memory in corpus.memories(corpus.passages("a")[0].revision)]
    # As a kill leaves it: some passages are there, and no document.
    database = corpus._database
    with corpus._open_log() as log, log.change("test"):
        database.open_table("documents").delete("true")
        database.open_table("passages").delete(f"`index` >= {left}")
    read = []
    usual = compressor.read
    monkeypatch.setattr(compressor, "read", lambda ids: read.append(len(ids)) or usual(ids))
    corpus.add([lr.Document("a", TEXT)])
    assert read == [100, 100, 76][min(left // 3, 2) :]
    check(corpus)
    assert [memory.to_bytes() for memory in corpus.memories(corpus.passages("a")[0].revision)] == expected
