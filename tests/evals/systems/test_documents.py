"""Ways of reading documents on a random model: what each reads, at how many positions, and with which adapter."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

import longreach as lr
from longreach.corpus.documents import Document
from longreach.corpus.store import Corpus
from longreach.engine.prompt import PromptBuilder
from longreach.errors import ContextError, UsageError
from longreach.evals.run.runner import evaluate
from longreach.evals.suites.docqa.samples import own_samples
from longreach.evals.systems.corpus import SampleCorpus
from longreach.evals.systems.documents import DocumentSystem, words_of
from longreach.evals.systems.models import ModelSystem
from longreach.evals.systems.names import WAYS
from longreach.evals.systems.registry import make_model_systems
from tests.conftest import make_model
from tests.reading.test_reader import make_adapter

TEXTS = {
    "tarts": "The Knave of Hearts stole the tarts. " + "The King was angry and the Queen shouted. " * 12,
    "hole": "Alice fell down the rabbit hole. " + "She was very surprised and went on falling. " * 14,
}
ASKED = [
    {"question": "Who stole the tarts?", "answer": "The Knave", "document": "tarts"},
    {"question": "Who fell down?", "answer": "Alice", "document": "hole"},
    {"question": "Who was angry?", "answer": "The King", "document": "tarts"},
]


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, ASKED)))
    documents = [Document(name, text) for name, text in TEXTS.items()]
    return own_samples(documents, tmp_path / "q.jsonl", max_new_tokens=8)


def library(asked, model, tokenizer, ratio=10, **more):
    compressor = lr.MeanPool(model, tokenizer, ratio=ratio, segment_tokens=60)
    return SampleCorpus(asked, model, tokenizer, compressor=compressor, **more)


def said(reader, asked, folder):
    reader.prepare(folder)
    return list(reader.answer(asked))


def test_each_way_reads_what_it_says_at_the_positions_of_the_vectors(asked, model, tokenizer, tmp_path):
    books = library(asked, model, tokenizer)
    found = {way: said(DocumentSystem(way, books), asked, tmp_path) for way in WAYS}
    corpus, builder = books.reader.corpus, PromptBuilder(model, tokenizer)
    for i, sample in enumerate(asked):
        vectors = sum(p.n_vectors for p in corpus.passages(sample.document))
        fixed = builder.fixed(words_of(sample), "")
        at = {way: predictions[i] for way, predictions in found.items()}
        assert at["none"].positions == fixed and at["none"].read_tokens == 0
        assert at["truncated"].positions == at["compressed"].positions == fixed + vectors + 2  # two newlines
        # Passages that share no word with the question are never found, so that some of the room may be left.
        assert fixed + vectors - 10 < at["bm25"].positions <= at["compressed"].positions
        assert at["compressed"].read_tokens == len(sample.context) > 9 * at["truncated"].read_tokens
        assert at["truncated"].read_tokens == vectors >= at["bm25"].read_tokens > vectors - 10
        # No passage and a vector fit into these: the best passage as far as it goes.
        assert (at["mixed"].positions, at["mixed"].read_tokens) == (at["bm25"].positions, at["bm25"].read_tokens)
        for way, prediction in at.items():
            assert prediction.new_tokens <= 8 and 0 < prediction.first_token_seconds <= prediction.seconds
            # Keys and values of 3 layers, 2 heads of 8, in float32, in blocks of 64 slots, as many in every row.
            slots = -(-(max(p.positions for p in found[way]) + 7) // 64) * 64
            assert prediction.kv_bytes == slots * 2 * 3 * 2 * 8 * 4


def test_mixed_reads_the_best_passage_as_text_and_the_next_best_as_vectors(asked, model, tokenizer, tmp_path):
    books, king = library(asked, model, tokenizer, ratio=4), asked[2:]  # whom every passage names
    ways = "bm25", "compressed", "mixed"
    text, whole, both = (said(DocumentSystem(way, books), king, tmp_path)[0] for way in ways)
    assert text.read_tokens + 60 < both.read_tokens < whole.read_tokens
    assert both.positions <= whole.positions


def test_truncated_is_both_ends_and_compressed_is_what_the_reader_answers(asked, model, tokenizer, tmp_path):
    books = library(asked, model, tokenizer)
    reader = DocumentSystem("compressed", books)
    answers = said(reader, asked, tmp_path)
    policy = lr.Policy(raw=0, compressed="document")
    for sample, prediction in zip(asked, answers, strict=True):
        sampling = lr.Sampling(max_new_tokens=8)
        own = books.reader.ask(sample.question, document=sample.document, policy=policy, sampling=sampling)
        assert prediction.text == own.text and prediction.positions == own.usage.positions
    count = answers[0].positions - PromptBuilder(model, tokenizer).fixed(words_of(asked[0]), "") - 2
    text, half = asked[0].context, (count + 1) // 2
    ends = text[:half] + text[len(text) - count + half :]
    prompt = f"<|user|>{ends}{asked[0].after}<|end|><|assistant|>"
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    wanted = tokenizer.decode(model.generate(ids, max_new_tokens=8)[0, ids.shape[1] :], skip_special_tokens=True)
    truncated = said(DocumentSystem("truncated", books), asked, tmp_path)[0]
    assert truncated.positions == ids.shape[1] and truncated.text == wanted.strip()


def test_the_whole_document_is_asked_in_the_same_words(asked, model, tokenizer, tmp_path):
    """A reader of whole texts and the corpus' own full reading have the same prompt."""
    books = library(asked, model, tokenizer)
    books.prepare(tmp_path)
    policy = lr.Policy(raw="document", compressed="none", budget=1500)
    own = books.reader.ask(asked[0].question, document="tarts", policy=policy, sampling=lr.Sampling(max_new_tokens=8))
    whole = next(ModelSystem("full", model, tokenizer).answer(asked[:1]))
    assert (whole.text.strip(), whole.positions) == (own.text, own.usage.positions)


def test_the_adapter_is_on_for_vectors_and_where_it_is_asked_for(asked, model, tokenizer, tmp_path):
    make_adapter(tmp_path / "lora")
    full = make_model_systems(["full"], model, tokenizer, "refuse")[0]
    before = [prediction.text for prediction in full.answer(asked)]
    plain = library(asked, make_model(), tokenizer)
    books = library(asked, model, tokenizer, adapter=tmp_path / "lora")
    names = ("none", "truncated", "bm25", "compressed", "mixed")
    off = {name: [p.text for p in said(DocumentSystem(name, plain), asked, tmp_path)] for name in names}
    on = {name: [p.text for p in said(DocumentSystem(name, books), asked, tmp_path)] for name in names}
    assert all(on[name] == off[name] for name in names[:3]) and all(on[name] != off[name] for name in names[3:])
    for name in names[:3]:
        adapted = DocumentSystem(f"{name}+adapter", books)
        assert [p.text for p in said(adapted, asked, tmp_path)] != off[name]
        assert adapted.identity()["adapter"] == books.adapter != DocumentSystem(name, books).identity()["adapter"]
    assert [prediction.text for prediction in full.answer(asked)] == before
    with pytest.raises(UsageError, match="needs an adapter"):
        DocumentSystem("bm25+adapter", plain)
    for unknown in ("compressed+adapter", "psychic"):
        with pytest.raises(UsageError, match=f"no system '{unknown.replace('+', '.')}' of documents"):
            DocumentSystem(unknown, books)


def test_a_corpus_is_made_once_and_its_cost_noted_where_vectors_are_read(asked, tokenizer, tmp_path):
    def run(model):
        books = library(asked, model, tokenizer)
        readers = [DocumentSystem(name, books) for name in ("none", "compressed")]
        evaluate(asked, readers, tmp_path / "out", suite="docqa", settings={}, say=lambda text: None)
        return json.loads((tmp_path / "out" / "run.json").read_text())["readers"]

    first = run(make_model())
    assert first["compressed"]["ingest_seconds"] > 0 and "ingest_seconds" not in first["none"]
    assert [path.name for path in (tmp_path / "out" / "corpora").glob("mean-pool-*.json")]
    log = tmp_path / "out" / "predictions.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:4]))
    assert run(make_model()) == first
    again = log.read_text().splitlines(keepends=True)
    assert [json.loads(line)["prediction"] for line in again] == [json.loads(line)["prediction"] for line in lines]


def test_what_a_study_took_is_noted_where_its_adapter_is_read(asked, model, tokenizer, tmp_path):
    corpus = Corpus.create(tmp_path, "c", lr.MeanPool(model, tokenizer, 10, segment_tokens=60))
    corpus.add([Document(name, text) for name, text in TEXTS.items()])
    run = corpus.work_path / "runs" / "one"
    make_adapter(run / "adapter")
    with corpus.changing("study"):
        shutil.copytree(run / "adapter", corpus.path / "adapter")

    def costs(way, **report):
        (run / "training.json").write_text(json.dumps({"seconds": 12.5, "resumed_at": 0} | report))
        return DocumentSystem(way, SampleCorpus(asked, model, tokenizer, corpus=corpus)).prepare(tmp_path)

    assert costs("compressed") == {"study_seconds": 12.5} and costs("none") == {}
    assert costs("compressed", resumed_at=7) == {}  # nobody knows what came before
    weights = run / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"else")
    assert costs("compressed") == {}


def test_a_question_alone_beyond_the_window_and_vectors_that_do_not_fit(asked, tokenizer, tmp_path):
    """What does not fit as vectors is read as far as it does: positions say so."""
    model = make_model(max_position_embeddings=160)
    books = library(asked, model, tokenizer)
    (prediction,) = said(DocumentSystem("compressed", books), asked[:1], tmp_path)
    assert prediction.positions <= 152 and prediction.read_tokens < len(asked[0].context)
    model = make_model(max_position_embeddings=100)
    books = library(asked, model, tokenizer)
    with pytest.raises(lr.errors.ContextError, match="The question takes"):
        said(DocumentSystem("none", books), asked[:1], tmp_path)


def test_weights_stay_what_they_were(asked, model, tokenizer, tmp_path):
    ids = torch.arange(30)[None]
    before = model(ids).logits
    make_adapter(tmp_path / "lora")
    said(DocumentSystem("mixed", library(asked, model, tokenizer, adapter=tmp_path / "lora")), asked, tmp_path)
    assert torch.equal(model(ids).logits, before)


def test_the_adapter_that_a_compressor_came_with_is_the_librarys(asked, tokenizer, tmp_path):
    model = make_model()
    make_adapter(tmp_path / "reader")
    compressor = lr.WeightedPool(model, tokenizer, 10, segment_tokens=60, reader=tmp_path / "reader")
    books = SampleCorpus(asked, model, tokenizer, compressor=compressor)
    compressed, plain = (DocumentSystem(way, books) for way in ("compressed", "bm25"))
    assert compressed.identity()["adapter"] == books.adapter is not None and plain.identity()["adapter"] is None
    compressed.prepare(tmp_path / "run")
    assert books.reader.adapter == books.adapter
    assert DocumentSystem("bm25+adapter", books).identity()["adapter"] == books.adapter


def test_no_way_reads_beyond_the_window(asked, tokenizer, tmp_path):
    model = make_model(max_position_embeddings=256)
    books = library(asked, model, tokenizer)
    long = replace(asked[0], max_new_tokens=200)
    for way in WAYS:
        with pytest.raises(ContextError):
            said(DocumentSystem(way, books), [long], tmp_path)
