"""Readers of keys and values: as the text in full where all is kept, alone as in company, warm as cold."""

from itertools import product

import pytest

import longreach as lr
from longreach.compressors.memory import KeysValues
from longreach.corpus import reading
from longreach.engine.sampling import REQUEST
from longreach.engine.turns import Turn
from longreach.errors import ContextError, CorpusDamaged, FingerprintMismatch
from tests.conftest import make_model, make_tokenizer

TEXTS = {
    "tarts": "The Knave of Hearts, he stole those tarts, and took them quite away. " * 3,
    "king": "The King of Hearts called for the tarts, and beat the Knave full sore. " * 2,
    "queen": "The Queen of Hearts, she made some tarts, all on a summer's day. " * 6,
}
QUESTION = "Who stole the tarts?"
FEW = lr.Sampling(6)
SEGMENT, PASSAGE = 250, 60


def make_reader(tmp_path, family="llama", **options):
    shape = {"num_hidden_layers": 6} if family == "gemma3" else {}
    settings = {"ratio": 4, "segment_tokens": SEGMENT, "passage_tokens": PASSAGE} | options
    model, tokenizer = make_model(family, **shape), make_tokenizer()
    corpus = lr.Corpus.create(tmp_path, "c", lr.KVZip(model, tokenizer, **settings))
    corpus.add([lr.Document(name, text) for name, text in TEXTS.items()])
    return lr.Reader(corpus, model, tokenizer, policy=lr.Policy.compressed())


def tokens(reader, document, policy, **more):
    answer = reader.ask(QUESTION, document=document, policy=policy, sampling=FEW, **more)
    return answer


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3"])
def test_where_all_is_kept_it_answers_as_from_the_text_in_full(tmp_path, family):
    reader = make_reader(tmp_path, family, ratio=1, store="float32")
    for document in ("tarts", "king"):
        memory = tokens(reader, document, lr.Policy.compressed())
        text = tokens(reader, document, lr.Policy.full())
        assert memory.text == text.text
        assert memory.usage.positions == text.usage.positions
        assert memory.usage.vectors == text.usage.raw_tokens + 1  # and the head
        assert memory.usage.source_tokens == text.usage.source_tokens


def test_rows_with_unlike_memories_equal_single_ones(tmp_path):
    reader = make_reader(tmp_path)
    policies = [lr.Policy.compressed(), lr.Policy.mixed(1), lr.Policy.passages(1), lr.Policy.none()]
    asked = list(product(TEXTS, policies))
    single = [tokens(reader, document, policy).text for document, policy in asked]
    fresh = lr.Reader(reader.corpus, reader.model, reader.tokenizer, policy=lr.Policy.compressed())
    together = fresh.ask_many(
        [QUESTION] * len(asked),
        documents=[document for document, _ in asked],
        policy=[policy for _, policy in asked],
        sampling=FEW,
        batch_size=len(asked),
    )
    assert [answer.text for answer in together] == single
    assert "".join(reader.stream(QUESTION, document="king", sampling=FEW)).strip() == single[4]


def test_a_memory_that_was_read_before_is_shared(tmp_path, monkeypatch):
    reader = make_reader(tmp_path)
    cold = tokens(reader, "tarts", lr.Policy.mixed(1))
    assert cold.usage.cached == 0 and cold.usage.vectors == 52
    monkeypatch.setattr(type(reader.corpus), "memories", None)  # whoever asked for one would fail
    warm = tokens(reader, "tarts", lr.Policy.mixed(1))
    assert warm.text == cold.text and warm.usage.positions == cold.usage.positions
    assert warm.usage.cached > warm.usage.vectors == 52
    again = reader.ask("Why?", document="tarts", policy=lr.Policy.compressed(), sampling=FEW)
    assert again.usage.cached == 52


def test_skim_then_expand(tmp_path):
    reader = make_reader(tmp_path)
    answer = reader.ask("Who made some tarts all on a summer's day?", policy=lr.Policy(k=3, raw=1), sampling=FEW)
    best, *others = answer.passages
    assert best.document == "queen" and best.read_as == "raw"
    # The memory of the segment around the best passage, and of no other one.
    (own,) = {p.n_vectors for p in reader.corpus.passages("queen") if p.index == best.index}
    assert answer.usage.vectors == own
    for passage in others:
        around = (passage.document, passage.segment or 0) == (best.document, best.segment or 0)
        assert passage.read_as == ("vectors" if around else "not read")
    assert answer.usage.raw_tokens == best.tokens
    assert answer.usage.source_tokens == best.reach


def test_a_document_of_several_segments_is_read_whole_where_it_fits_the_window(tmp_path):
    reader = make_reader(tmp_path)
    answer = tokens(reader, "queen", lr.Policy.compressed())
    memories = reader.corpus.memories(reader.corpus.passages("queen")[0].revision)
    lengths = [memory.length for memory in memories if isinstance(memory, KeysValues)]
    assert len(lengths) == 2 and answer.usage.source_tokens == sum(lengths) - 2
    # The second one gives up its sink of eight entries.
    kept = sum(memory.positions for memory in memories)
    assert answer.usage.vectors == kept - 8
    reader.model.config.max_position_embeddings = 450
    small = lr.Reader(reader.corpus, reader.model, reader.tokenizer, policy=lr.Policy.compressed())
    few = tokens(small, "queen", lr.Policy.compressed(budget=400))
    assert few.usage.source_tokens in (250, sum(lengths) - 252)


def test_earlier_turns_stand_behind_the_memory(tmp_path):
    reader = make_reader(tmp_path, ratio=1, store="float32")
    history = [Turn("user", "What is this?"), Turn("assistant", "A rhyme.")]
    stream = reader.stream(QUESTION, document="king", policy=lr.Policy.compressed(), sampling=FEW, history=history)
    text = "".join(stream).strip()
    tokenizer, model = reader.tokenizer, reader.model
    said = f"<|user|>{TEXTS['king']}\n\nWhat is this?<|end|><|assistant|>A rhyme.<|end|><|user|>"
    ids = tokenizer(f"{said}{REQUEST}{QUESTION}<|end|><|assistant|>", return_tensors="pt")["input_ids"]
    out = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
    assert text == tokenizer.decode(out, skip_special_tokens=True).strip()


def test_a_memory_of_another_model_or_rope_is_refused(tmp_path):
    reader = make_reader(tmp_path)
    other = make_model(seed=1)
    roped = make_model(rope_theta=5000.0, rope_parameters={"rope_type": "default", "rope_theta": 5000.0})
    for model in (other, roped):
        with pytest.raises(FingerprintMismatch, match="made for another model"):
            lr.Reader(reader.corpus, model, reader.tokenizer)


def test_too_small_a_budget_is_one_sentence(tmp_path):
    reader = make_reader(tmp_path)
    with pytest.raises(ContextError, match=r"No passage fits .* raise the budget"):
        tokens(reader, "queen", lr.Policy.compressed(budget=110))


def test_a_damaged_memory_is_refused(tmp_path, monkeypatch):
    reader = make_reader(tmp_path)
    revision = reader.corpus.passages("tarts")[0].revision
    usual = reading.read_passages

    def damaged(*args, **options):
        found = usual(*args, **options)
        for rows in found.values():
            for row in rows:
                row["intact"] = False
        return found

    monkeypatch.setattr(reading, "read_passages", damaged)
    with pytest.raises(CorpusDamaged, match="not there or not what was written"):
        reader.corpus.memories(revision, [0])
