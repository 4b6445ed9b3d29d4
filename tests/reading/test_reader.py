import json

import pytest
import torch

import longreach as lr
from longreach import Corpus, Document, MeanPool, Policy, Reader, Sampling
from longreach.errors import ContextError, CorpusError, FingerprintMismatch, ModelError, NothingFound, UsageError
from longreach.models.sharing import exclusive
from tests.conftest import FAMILIES, make_model, make_tokenizer

WORDS = ["tarts", "whale", "watch", "garden", "rabbit", "queen", "hatter", "turtle"]
TEXTS = {
    f"{word}.txt": " ".join(f"Chapter {i}. The {word} number {i} said something 🙂 odd." for i in range(12 + n))
    for n, word in enumerate(WORDS)
}
SHORT = Sampling(max_new_tokens=8)


def make_corpus(path, model, tokenizer, texts=TEXTS, **settings):
    corpus = Corpus.create(path, "c", MeanPool(model, tokenizer, 10, **({"segment_tokens": 100} | settings)))
    corpus.add([Document(name, text) for name, text in texts.items()])
    return corpus


@pytest.fixture
def reader(tmp_path, model, tokenizer):
    return Reader(make_corpus(tmp_path, model, tokenizer), model, tokenizer, policy=Policy(budget=900))


def plain_answer(reader, answer, question, tokens=8):
    """The same prompt, put together by hand and read in one piece by the model's own generate."""
    chosen = {kind: [p for p in answer.passages if p.read_as == kind] for kind in ("vectors", "raw")}
    embed = reader.model.get_input_embeddings()

    def ids(text):
        return torch.tensor(reader.tokenizer(text, add_special_tokens=False)["input_ids"])

    parts = [embed(ids("<|user|>"))]
    key = lambda p: (p.revision, p.index)  # noqa: E731
    for p in sorted(chosen["vectors"], key=key):
        parts += reader.corpus.vectors(p.revision, [p.index])
    raw = "".join(p.text + "\n\n" for p in sorted(chosen["raw"], key=key))
    request = "Answer the question in one short sentence, using the text above.\n\nQuestion: " + question
    parts.append(embed(ids(("\n\n" if chosen["vectors"] else "") + raw + request + "<|end|><|assistant|>")))
    embeds = torch.cat(parts)[None]
    written = reader.model.generate(inputs_embeds=embeds, max_new_tokens=tokens, do_sample=False)[0]
    return embeds.shape[1], reader.tokenizer.decode(written, skip_special_tokens=True).strip()


def make_adapter(folder):
    """Writes a LoRA large enough that it changes every answer; returns the model under it."""
    from peft import LoraConfig, get_peft_model

    donor = get_peft_model(make_model(), LoraConfig(r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False))
    with torch.no_grad():
        for name, parameter in donor.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.5)
    donor.save_pretrained(folder)
    return donor


@pytest.mark.parametrize("policy", [{}, {"compressed": "none"}, {"raw": 0}, {"k": 2, "raw": 1}])
def test_an_answer_is_what_the_model_says_to_the_prompt(reader, policy):
    policy = Policy(budget=900, **policy)
    question = "What did rabbit number 7 say?"
    answer = reader.ask(question, policy=policy, sampling=SHORT)
    positions, text = plain_answer(reader, answer, question)
    assert (answer.usage.positions, answer.text) == (positions, text)
    assert answer.usage.vectors == sum(p.n_vectors for p in answer.passages if p.read_as == "vectors")
    raw = "".join(p.text for p in answer.passages if p.read_as == "raw")
    assert answer.usage.raw_tokens == len(raw.encode())  # a token a byte
    assert answer.usage.source_tokens == sum(p.tokens for p in answer.passages if p.read_as != "not read")
    assert answer.usage.positions <= policy.budget


def test_citations_quote_their_source(reader):
    answer = reader.ask("Which whale spoke in chapter 3?", sampling=SHORT)
    assert answer.passages[0].document == "whale.txt" and answer.passages[0].score > 0
    for passage in answer.passages:
        assert TEXTS[passage.document][passage.start : passage.end] == passage.text


def test_the_whole_document_is_read_as_vectors(reader):
    answer = reader.ask("What did the turtle say?", policy=Policy(compressed="document", raw=1, budget=900))
    turtle = next(d for d in reader.corpus.documents() if d.document == "turtle.txt")
    assert answer.usage.vectors == turtle.vectors
    assert answer.usage.source_tokens == turtle.tokens  # the raw passage lies in it
    assert next(p.read_as for p in answer.passages if p.document == "turtle.txt") == "raw"


def test_a_document_too_large_for_the_budget_gives_way_to_passages(reader):
    policy = Policy(compressed="document", raw=0, budget=140)
    answer = reader.ask("What did the turtle say?", policy=policy, sampling=SHORT)
    whole = next(d.vectors for d in reader.corpus.documents() if d.document == "turtle.txt")
    assert 0 < answer.usage.vectors < whole and answer.usage.positions <= 140


@pytest.mark.parametrize("budget", range(120, 900, 97))
def test_the_budget_is_kept_and_no_passage_is_cut(reader, budget):
    answer = reader.ask("What did the queen say?", policy=Policy(budget=budget), sampling=SHORT)
    assert answer.usage.positions <= budget
    for passage in answer.passages:
        assert passage.read_as in ("raw", "vectors", "not read")
    raw = "".join(p.text for p in answer.passages if p.read_as == "raw")
    assert answer.usage.raw_tokens == len(raw.encode())
    assert answer.usage.vectors == sum(p.n_vectors for p in answer.passages if p.read_as == "vectors")


def test_no_context_is_the_question_alone(reader):
    answer = reader.ask("What did the turtle say?", policy=Policy(raw=0, compressed="none"), sampling=SHORT)
    assert (answer.policy, answer.usage.vectors, answer.usage.raw_tokens, answer.usage.source_tokens) == (
        "no context", 0, 0, 0,
    )  # fmt: skip
    assert plain_answer(reader, answer, "What did the turtle say?") == (answer.usage.positions, answer.text)
    assert answer.passages and {passage.read_as for passage in answer.passages} == {"not read"}


def test_the_whole_document_is_read_as_text_in_one_piece(reader):
    question, policy = "What did the turtle say?", Policy(raw="document", compressed="none", budget=1500)
    answer = reader.ask(question, policy=policy, sampling=SHORT)
    text = TEXTS["turtle.txt"]
    prompt = (
        f"<|user|>{text}\n\nAnswer the question in one short sentence, using the text above.\n\nQuestion: {question}"
    )
    ids = reader.tokenizer(prompt + "<|end|><|assistant|>", return_tensors="pt")["input_ids"]
    written = reader.model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    assert answer.text == reader.tokenizer.decode(written, skip_special_tokens=True).strip()
    assert (answer.policy, answer.usage.raw_tokens, answer.usage.vectors) == ("full", len(text.encode()), 0)
    turtle = next(d for d in reader.corpus.documents() if d.document == "turtle.txt")
    assert answer.usage.source_tokens == turtle.tokens
    assert {p.read_as for p in answer.passages if p.document == "turtle.txt"} == {"raw"}
    others = "What did turtle number 3 say?"
    mixed = reader.ask(others, policy=Policy(k=30, raw="document", budget=1800), sampling=SHORT)
    assert mixed.policy == "mixed" and {p.read_as for p in mixed.passages} == {"raw", "vectors"}
    with pytest.raises(ContextError, match=r"takes [\d,]+ positions as raw text, and the budget leaves \d+"):
        reader.ask(question, policy=Policy(raw="document", compressed="none", budget=500))


def test_a_longer_answer_to_a_whole_document_than_the_gate_asked_for(reader):
    """The gate's budget is what its own answers leave of the window; a document that fits is read all the same."""
    window = reader.model.config.max_position_embeddings
    policy = Policy(raw="document", compressed="none", budget=window - 8)
    answer = reader.ask("What did the turtle say?", policy=policy, sampling=Sampling(max_new_tokens=40))
    assert answer.policy == "full" and answer.usage.raw_tokens == len(TEXTS["turtle.txt"].encode())
    with pytest.raises(ContextError, match="exceed the model's window"):
        reader.ask("What did the turtle say?", policy=policy, sampling=Sampling(max_new_tokens=window))


@pytest.mark.parametrize("budget", [120, 200, 333, 900])
def test_a_cut_passage_fills_the_budget(reader, budget):
    question = "What did the queen say?"
    whole = reader.ask(question, policy=Policy(k=20, raw=20, compressed="none", budget=900), sampling=SHORT)
    answer = reader.ask(
        question, policy=Policy(k=20, raw=20, compressed="none", budget=budget, cut=True), sampling=SHORT
    )
    assert answer.usage.positions == budget and answer.policy == "raw"
    cut = [passage for passage in answer.passages if passage.read_as == "raw"]
    assert cut == answer.passages[: len(cut)]  # the best ones
    assert abs(answer.usage.source_tokens - answer.usage.raw_tokens) <= len(cut)
    assert whole.usage.positions < 900


def test_a_question_may_name_its_document(reader):
    question = "What did the queen say?"
    for policy in (Policy(budget=900), Policy(compressed="document", raw=1, budget=900)):
        answer = reader.ask(question, document="whale.txt", policy=policy, sampling=SHORT)
        assert {passage.document for passage in answer.passages} == {"whale.txt"}
        (batched,) = reader.ask_many([question], documents=["whale.txt"], policy=policy, sampling=SHORT)
        assert (batched.text, batched.passages) == (answer.text, answer.passages)
    unknown = reader.ask("Zusammenfassung?", document="whale.txt", sampling=SHORT)
    assert unknown.passages[0].document == "whale.txt" and unknown.passages[0].index == 0
    with pytest.raises(UsageError, match="no document 'shark"):
        reader.ask(question, document="shark.txt")


def test_hot_contexts_know_whether_the_adapter_was_on(tmp_path, model, tokenizer):
    make_adapter(tmp_path / "lora")
    corpus, question = make_corpus(tmp_path, model, tokenizer), "What did the queen say?"
    on, off = Policy(budget=900), Policy(budget=900, adapter=False)
    bare = Reader(corpus, model, tokenizer, policy=on).ask(question, sampling=SHORT)
    reader = Reader(corpus, model, tokenizer, tmp_path / "lora", policy=on)
    adapted = reader.ask(question, sampling=SHORT)
    plain = reader.ask(question, policy=off, sampling=SHORT)
    assert plain.text == bare.text != adapted.text and plain.usage.cached == 0
    assert reader.ask(question, policy=off, sampling=SHORT).usage.cached > 0
    assert reader.ask_many([question], policy=off, sampling=SHORT)[0].text == bare.text


def test_streamed_pieces_make_the_answer(reader):
    stream = reader.stream("What did the hatter say?", sampling=Sampling(max_new_tokens=30))
    pieces = list(stream)
    assert "".join(pieces).strip() == stream.answer.text
    assert len(pieces) > 3 and not any("\ufffd" in piece for piece in pieces[:-1])
    again = reader.ask("What did the hatter say?", sampling=Sampling(max_new_tokens=30))
    assert again.text == stream.answer.text


@pytest.mark.parametrize("family", FAMILIES)
def test_questions_in_a_batch_are_answered_as_alone(family, tmp_path, tokenizer):
    model = make_model(family)
    reader = Reader(make_corpus(tmp_path, model, tokenizer), model, tokenizer, policy=Policy(budget=900))
    questions = [
        "What did the queen say?",
        "Tell me in a long sentence, with all details, what turtle number 4 said in its chapter.",
        "whale?",
        "Which garden number 11?",
    ]
    together = reader.ask_many(questions, sampling=SHORT, batch_size=3)
    for question, batched in zip(questions, together, strict=True):
        single = reader.ask(question, sampling=SHORT)
        assert (batched.text, batched.passages) == (single.text, single.passages)
        assert batched.usage.positions == single.usage.positions
    assert len({answer.usage.positions for answer in together}) > 1
    assert reader.ask_many([]) == []


def test_the_second_question_skips_what_was_read_before(reader):
    policy = Policy(compressed="document", raw=0, budget=900)
    first = reader.ask("What did the turtle say?", policy=policy, sampling=SHORT)
    other = reader.ask("Was turtle number 5 odd?", policy=policy, sampling=SHORT)
    assert first.usage.cached == 0
    assert other.usage.cached >= first.usage.vectors > 0
    cold = Reader(reader.corpus, reader.model, reader.tokenizer, hot_bytes=0)
    uncached = cold.ask("Was turtle number 5 odd?", policy=policy, sampling=SHORT)
    assert uncached.usage.cached == 0 and uncached.text == other.text
    same = reader.ask("What did the turtle say?", policy=Policy(budget=900), sampling=SHORT)
    again = reader.ask("What did the turtle say?", policy=Policy(budget=900), sampling=SHORT)
    assert again.usage.cached > same.usage.cached and again.text == same.text


def test_a_changed_document_never_meets_an_old_cache(tmp_path, model, tokenizer):
    corpus = make_corpus(tmp_path, model, tokenizer)
    reader = Reader(corpus, model, tokenizer, policy=Policy(compressed="document", raw=0, budget=900))
    reader.ask("What did the turtle say?", sampling=SHORT)
    changed = TEXTS["turtle.txt"].replace("odd", "wise")
    corpus.add([Document("turtle.txt", changed)])
    fresh = Reader(corpus, model, tokenizer, policy=reader.policy, hot_bytes=0)
    answer = reader.ask("What did the turtle say?", sampling=SHORT)
    assert answer.usage.cached == 0
    assert answer.text == fresh.ask("What did the turtle say?", sampling=SHORT).text
    assert answer.passages[0].text in changed


def test_an_adapter_is_on_only_while_the_reader_reads(tmp_path, model, tokenizer):
    donor = make_adapter(tmp_path / "lora")
    corpus = make_corpus(tmp_path, model, tokenizer)
    plain = Reader(corpus, model, tokenizer, policy=Policy(budget=900))
    question, ids = "What did the queen say?", torch.arange(40)[None]
    before = plain.ask(question, sampling=SHORT)
    with torch.no_grad():
        logits = model(ids).logits
    adapted = Reader(corpus, model, tokenizer, tmp_path / "lora", policy=Policy(budget=900))
    answer = adapted.ask(question, sampling=SHORT)
    merged = donor.merge_and_unload()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, logits)
    assert plain.ask(question, sampling=SHORT).text == before.text
    plan = adapted._plan(question, None, Policy(budget=900), SHORT)
    wanted = merged.generate(inputs_embeds=plan.prompt.embeds[None], max_new_tokens=8, do_sample=False)[0]
    assert answer.text == tokenizer.decode(wanted, skip_special_tokens=True).strip() != before.text
    stream = iter(adapted.stream(question, sampling=SHORT))
    next(stream)
    with exclusive(model), torch.no_grad():
        assert torch.equal(model(ids).logits, logits)  # in the middle of an answer, too
    corpus.add([Document("later", "Added while an adapter lies over the model.")])
    assert corpus.verify().ok


def test_the_corpus_own_adapter_is_found(tmp_path, model, tokenizer):
    from peft import LoraConfig, get_peft_model

    corpus = make_corpus(tmp_path, model, tokenizer)
    with corpus.changing("study"):
        own = get_peft_model(make_model(), LoraConfig(r=2, target_modules=["q_proj"]))
        own.save_pretrained(corpus.path / "adapter")
    assert Reader(corpus, model, tokenizer).adapter is not None
    assert corpus.verify().ok


def test_an_answer_is_plain_json(reader):
    value = json.loads(json.dumps(reader.ask("What did the queen say?", sampling=SHORT).to_dict()))
    assert set(value) == {"text", "passages", "usage", "timings", "policy"}
    assert {"document", "start", "end", "score", "read_as"} <= set(value["passages"][0])
    timings = value["timings"]
    assert 0 < timings["retrieved_seconds"] <= timings["assembled_seconds"] <= timings["first_token_seconds"]
    assert timings["first_token_seconds"] <= timings["total_seconds"]


def test_a_question_without_a_known_word_is_refused(reader):
    with pytest.raises(NothingFound, match="no passage shares a word with the question; try --retriever dense") as said:
        reader.ask("Zusammenfassung?", sampling=SHORT)
    assert said.value.exit_code == 1
    with pytest.raises(NothingFound):
        list(reader.stream("Sum it up, please.", sampling=SHORT))
    assert reader.ask("Zusammenfassung?", policy=Policy(retriever="dense", budget=900), sampling=SHORT).passages
    nothing = reader.ask("Zusammenfassung?", policy=Policy(raw=0, compressed="none"), sampling=SHORT)
    assert nothing.text and nothing.passages == []


def test_in_a_batch_it_is_answered_with_nothing(reader):
    questions = ["What did the queen say?", "Zusammenfassung?", "What did the whale say?"]
    answers = reader.ask_many(questions, sampling=SHORT)
    assert (answers[1].text, answers[1].passages, answers[1].usage.positions) == ("", [], 0)
    assert [answers[0], answers[2]] != [answers[1]] * 2
    for number in (0, 2):
        assert answers[number].text == reader.ask(questions[number], sampling=SHORT).text
    assert [answer.text for answer in reader.ask_many(["Zusammenfassung?"] * 2, batch_size=1)] == ["", ""]


@pytest.mark.parametrize(
    "policy",
    [Policy(budget=1500), Policy(budget=400), Policy(raw=0, budget=900), Policy(raw=1, compressed="none", budget=1500)],
)
def test_a_question_about_a_named_document_without_its_words_reads_that_document(reader, policy):
    answer = reader.ask("Zusammenfassung?", document="whale.txt", policy=policy, sampling=SHORT)
    read = [passage for passage in answer.passages if passage.read_as != "not read"]
    assert read == answer.passages and {passage.document for passage in read} == {"whale.txt"}
    assert [passage.index for passage in read] == list(range(len(read))) and len(read) > policy.k
    assert answer.usage.positions <= policy.budget
    if policy.budget > 400:
        assert "".join(passage.text for passage in read) == TEXTS["whale.txt"]
    (batched,) = reader.ask_many(["Zusammenfassung?"], documents=["whale.txt"], policy=policy, sampling=SHORT)
    assert (batched.text, batched.passages) == (answer.text, answer.passages)


def test_what_does_not_fit_is_refused_with_the_numbers(reader):
    with pytest.raises(ContextError, match=r"The question takes 2,0\d\d positions, the budget is 900"):
        reader.ask("why " * 500)
    with pytest.raises(ContextError, match="window of 2048"):
        reader.ask("why", policy=Policy(budget=2048))
    queen = reader.ask("What was odd?", policy=Policy(k=40, raw=40))
    assert 1800 < queen.usage.positions <= 2048 - 128  # what the window leaves
    with pytest.raises(ContextError, match="window of 2048"):
        reader.ask("why", policy=Policy(), sampling=Sampling(max_new_tokens=2048))
    with pytest.raises(ContextError, match="raise the budget"):
        reader.ask("What did the queen say?", policy=Policy(budget=105))
    with pytest.raises(UsageError, match="empty"):
        reader.ask("   ")
    with pytest.raises(UsageError, match="UTF-8"):
        reader.ask("what \udcff?")
    with pytest.raises(UsageError, match="batch_size"):
        reader.ask_many(["queen?"], batch_size=0)
    wrong = ({"budget": 0}, {"budget": -5}, {"k": 0}, {"raw": -1}, {"compressed": "all"}, {"retriever": "x"})
    for settings in (*wrong, {"raw": "all"}, {"raw": "document", "compressed": "document"}):
        with pytest.raises(UsageError):
            Policy(**settings)


def test_a_corpus_of_another_model_is_refused(tmp_path, model, tokenizer):
    corpus = make_corpus(tmp_path, model, tokenizer)
    with pytest.raises(FingerprintMismatch, match="another model"):
        Reader(corpus, make_model(seed=1), tokenizer)
    other = make_tokenizer()
    other.add_tokens(["Alice"])
    with pytest.raises(FingerprintMismatch, match="another model"):
        Reader(corpus, model, other)
    half = make_model().to(torch.bfloat16)
    assert Reader(corpus, half, tokenizer, policy=Policy(budget=900)).ask("queen?", sampling=SHORT)


def test_an_empty_corpus_and_a_wrong_adapter_are_refused(tmp_path, model, tokenizer):
    corpus = make_corpus(tmp_path, model, tokenizer, {})
    with pytest.raises(CorpusError, match="holds no documents"):
        Reader(corpus, model, tokenizer, policy=Policy(budget=900)).ask("Anything?")
    with pytest.raises(ModelError, match="holds no PEFT adapter"):
        Reader(corpus, model, tokenizer, tmp_path)


@pytest.mark.real
@pytest.mark.slow
def test_a_real_model_answers_from_a_real_book(smollm2, tmp_path):
    """Documents to answers: the right passage is found, read, quoted, and what it says comes back."""
    from pathlib import Path

    model, tokenizer = smollm2
    book = Path(__file__).resolve().parents[2] / "examples" / "alice.txt"
    text = book.read_text(encoding="utf-8")[:9_000]
    source = tmp_path / "book.txt"
    source.write_bytes(text.encode())
    corpus = Corpus.create(tmp_path / "store", "book", MeanPool(model, tokenizer), model_ref="smollm2")
    report = corpus.add([source])
    assert report.tokens > 2000 and not report.skipped
    reader = lr.Reader(corpus, model, tokenizer)
    answer = reader.ask("What did the label on the bottle that Alice found say?", sampling=Sampling(max_new_tokens=32))
    assert "drink me" in answer.text.lower()
    best = answer.passages[0]
    assert best.read_as == "raw" and "DRINK ME" in best.text
    assert source.read_bytes().decode()[best.start : best.end] == best.text
    assert answer.usage.vectors > 0 and answer.usage.positions < report.tokens / 3
    questions = ["What did the label on the bottle say?", "What animal had a watch in its waistcoat-pocket?"]
    batched = reader.ask_many(questions, sampling=Sampling(max_new_tokens=12))
    assert [a.text for a in batched] == [reader.ask(q, sampling=Sampling(max_new_tokens=12)).text for q in questions]
    assert Corpus.open(tmp_path / "store", "book", corpus.compressor).add([source]).unchanged == [str(source)]
