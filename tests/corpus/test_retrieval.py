import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from longreach import Corpus, Document, MeanPool
from longreach.corpus.search import retrieval
from longreach.errors import MissingDependency, UsageError
from tests.conftest import make_model, make_tokenizer

FACTS = {
    "whale": "The captain hunted a white whale across every ocean of the world.",
    "tarts": "The Knave of Hearts stole the tarts on a summer day.",
    "watch": "His watch told the day of the month, but not the hour.",
    "garden": "Roses were painted red by gardeners who feared the Queen.",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    compressor = MeanPool(make_model(), make_tokenizer(), 10, segment_tokens=200)
    corpus = Corpus.create(tmp_path_factory.mktemp("store"), "facts", compressor)
    corpus.add([Document(name, text) for name, text in FACTS.items()])
    return corpus


@pytest.mark.parametrize("method", ["bm25", "dense", "hybrid"])
@pytest.mark.parametrize(
    ("question", "document"),
    [("Who stole the tarts?", "tarts"), ("which whales were hunted", "whale"), ("what did the watch tell", "watch")],
)
def test_the_passage_asked_for_comes_first(corpus, method, question, document):
    best, *rest = corpus.search(question, k=3, retriever=method)
    assert best.document == document and best.text == FACTS[document]
    assert (best.start, best.end) == (0, len(FACTS[document]))
    scores = [passage.score for passage in (best, *rest)]
    assert scores == sorted(scores, reverse=True) and all(score > 0 for score in scores)
    assert corpus.search(question, k=3, retriever=method) == [best, *rest]


def test_dense_finds_what_shares_no_word(corpus):
    question = "Which sea mammal was pursued?"
    assert all(passage.document != "whale" for passage in corpus.search(question, k=1))
    assert corpus.search(question, k=1, retriever="dense")[0].document == "whale"


def test_bm25_equals_the_formula(corpus):
    """Lucene's variant on one term: idf * tf / (tf + k1 * (1 - b + b * length / average)), k1 1.5, b 0.75."""
    lengths = [8, 8, 6, 6]  # words that are no stop words: whale, garden, tarts, watch
    average = sum(lengths) / 4
    idf = math.log(1 + (4 - 1 + 0.5) / (1 + 0.5))
    wanted = idf / (1 + 1.5 * (0.25 + 0.75 * 6 / average))
    assert corpus.search("tarts", k=1)[0].score == pytest.approx(wanted, rel=1e-5)


def test_fewer_come_where_fewer_match(corpus):
    assert len(corpus.search("tarts", k=4)) == 1
    assert corpus.search("zebra crossing", k=4) == []
    assert corpus.search("?!", k=4) == []
    assert len(corpus.search("tarts", k=400, retriever="dense")) <= 4


def test_a_question_of_stop_words_is_searched_with_them(corpus):
    found = corpus.search("of the and by", k=4)
    assert {passage.document for passage in found} == {*FACTS} and all(passage.score > 0 for passage in found)
    assert found[0].document in ("garden", "watch")  # one "by"; four of the others
    assert [passage.document for passage in corpus.search("by", k=4)] == ["garden"]
    assert corpus.search("this", k=4) == []
    asked = corpus.search("What of it?", k=4)  # no text has "what" or "it"
    assert {passage.document for passage in asked} == {"whale", "tarts", "watch"}
    assert [passage.document for passage in corpus.search("the tarts", k=4)] == ["tarts"]  # not by "the" beside words


FOREIGN = {
    "租约": "本合同于二〇二四年签订。合同规定租金每月三千元。",
    "借家": "黒い猫が庭にいる。敷金はアイスーの二倍です。",
    "임대": "임대료는 매월 삼십만 원이다. 집은 서울에 있다.",
    "ไทย": "ค่าเช่าเดือนละสามพันบาท",
    "deutsch": "Die Hauptstraße gehört zum Miet\u00advertrag, Größe 40 m².",
    "türkçe": "İstanbul'daki kiracı ISPARTA'ya taşındı.",
    "ελληνικά": "Ο μισθωτής είναι ΣΟΦΌΣ.",
    "français": "Le cafe\u0301 est au ﬁnal ＡＢＣ du bail.",
}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    compressor = MeanPool(make_model(), make_tokenizer(), 10, segment_tokens=400)
    corpus = Corpus.create(tmp_path_factory.mktemp("store"), "foreign", compressor)
    corpus.add([Document(name, text) for name, text in FOREIGN.items()])
    return corpus


@pytest.mark.parametrize(
    ("question", "document"),
    [
        ("租金是多少？", "租约"),
        ("元", "租约"),
        ("2024年合同", "租约"),
        ("猫は？", "借家"),
        ("ｱｲｽ", "借家"),
        ("임대료는 얼마입니까?", "임대"),
        ("집", "임대"),
        ("ค่าเช่าเท่าไร", "ไทย"),
        ("HAUPTSTRASSE?", "deutsch"),
        ("Mietvertrag", "deutsch"),
        ("m2", "deutsch"),
        ("istanbul", "türkçe"),
        ("ısparta", "türkçe"),
        ("σοφός;", "ελληνικά"),
        ("café", "français"),
        ("final", "français"),
        ("abc", "français"),
    ],
)
def test_words_are_found_in_every_script_and_quoted_exactly(foreign, question, document):
    best = foreign.search(question, k=1)[0]
    assert best.document == document and best.score > 0
    assert foreign.document_text(document) == FOREIGN[document]
    assert FOREIGN[document][best.start : best.end] == best.text


def test_what_shares_no_pair_of_characters_is_not_found(foreign):
    assert foreign.search("首都在哪里？") == [] == foreign.search("zebra")


@pytest.mark.parametrize("method", ["bm25", "dense", "hybrid"])
def test_threads_that_ask_at_the_same_time_share_one_index(tmp_path, monkeypatch, method):
    corpus = Corpus.create(tmp_path, "c", MeanPool(make_model(), make_tokenizer(), 10, segment_tokens=200))
    corpus.add([Document(name, text) for name, text in FACTS.items()])
    questions = ["Who stole the tarts?", "which whales were hunted", "what did the watch tell"] * 4
    alone = [Corpus.open(tmp_path, "c").search(question, 2, method) for question in questions[:3]] * 4
    made, make = [], retrieval._Index

    def counting(*arguments):
        made.append(1)
        return make(*arguments)

    monkeypatch.setattr(retrieval, "_Index", counting)
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda question: corpus.search(question, 2, method), questions))
    assert found == alone and len(made) == 1


def test_the_same_text_twice_takes_one_place(tmp_path):
    corpus = Corpus.create(tmp_path, "c", MeanPool(make_model(), make_tokenizer(), 10, segment_tokens=200))
    corpus.add([Document(name, FACTS["tarts"]) for name in "abc"])
    corpus.add([Document("d", "More tarts.")])
    assert len(corpus.search("tarts", k=2)) == 2
    assert {passage.text for passage in corpus.search("tarts", k=2)} == {FACTS["tarts"], "More tarts."}


def test_fusion_is_the_sum_of_reciprocal_ranks():
    scores = retrieval._fuse([[2, 0], [0, 1]], 4)
    assert scores.tolist() == [1 / 62 + 1 / 61, 1 / 62, 1 / 61, 0]


def test_equal_scores_come_in_document_order():
    assert retrieval._rank(np.array([1.0, 3.0, 1.0, 3.0, 0.0]), 4) == [1, 3, 0, 2]


def test_the_index_follows_the_corpus(tmp_path):
    corpus = Corpus.create(tmp_path, "c", MeanPool(make_model(), make_tokenizer(), 10, segment_tokens=200))
    assert corpus.search("tarts") == []
    corpus.add([Document("a", FACTS["tarts"])])
    assert corpus.search("tarts")[0].document == "a"
    reader = Corpus.open(tmp_path, "c")
    assert reader.search("tarts")
    corpus.remove("a")
    assert corpus.search("tarts") == [] == reader.search("tarts")


def test_no_part_of_a_long_passage_is_beyond_the_dense_encoder(tmp_path):
    filler = "The weather was fine and nothing happened at all. " * 60
    text = filler + "The whale swam away. " + filler
    compressor = MeanPool(make_model(max_position_embeddings=9000), make_tokenizer(), 30, segment_tokens=8000)
    corpus = Corpus.create(tmp_path, "c", compressor)
    corpus.add([Document("long", text), Document("short", "A short remark on gardening.")])
    assert corpus.search("whale", k=1, retriever="dense")[0].document == "long"


def test_dense_embeddings_are_made_once(tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformer

    monkeypatch.setenv("LONGREACH_CACHE", str(tmp_path / "cache"))
    corpus = Corpus.create(tmp_path, "c", MeanPool(make_model(), make_tokenizer(), 10, segment_tokens=40))
    corpus.add([Document(name, text) for name, text in FACTS.items()] + [Document("copy", FACTS["tarts"])])
    first = corpus.search("sea mammal", k=3, retriever="dense")
    encoded, encode = [], SentenceTransformer.encode

    def counting(self, texts, **settings):
        encoded.append(texts)
        return encode(self, texts, **settings)

    monkeypatch.setattr(SentenceTransformer, "encode", counting)
    assert Corpus.open(tmp_path, "c").search("sea mammal", k=3, retriever="dense") == first
    assert encoded == ["sea mammal"]
    for size in (100, 0):
        encoded.clear()
        for path in (tmp_path / "cache" / "dense").iterdir():
            path.write_bytes(path.read_bytes()[:size])
        assert Corpus.open(tmp_path, "c").search("sea mammal", k=3, retriever="dense") == first
        assert len(encoded) == 1 + len(FACTS)


def test_wrong_calls_are_refused(corpus, monkeypatch):
    for arguments in ({"k": 0}, {"retriever": "magic"}):
        with pytest.raises(UsageError):
            corpus.search("tarts", **arguments)
    with pytest.raises(UsageError, match="empty"):
        corpus.search("  \n")
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    retrieval._indices.clear()
    with pytest.raises(MissingDependency, match="pip install sentence-transformers"):
        corpus.search("tarts", retriever="dense")
    assert corpus.search("tarts")
