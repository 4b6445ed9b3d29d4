"""One model under readers, streams, ingests and trainings in several threads: each gives what it gives alone."""

import sys
import threading
import time
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from longreach import AutoCompressor, Corpus, Document, MeanPool, Policy, Reader, Sampling, WeightedPool, convert
from longreach.engine.pieces import PromptText
from longreach.models.decoder import add_adapter, only_adapter
from longreach.models.fingerprint import base_fingerprint
from longreach.models.sharing import FairLock, exclusive, lock_of
from longreach.models.steps import Steps
from longreach.training.study.study import study
from tests.conftest import make_model, make_tokenizer
from tests.training import studied

WORDS = ["tarts", "whale", "watch", "garden", "rabbit", "queen"]
TEXTS = {f"{word}.txt": " ".join(f"Chapter {i}. The {word} said something odd." for i in range(12)) for word in WORDS}
QUESTIONS = [f"What did the {word} say in chapter {i}?" for i, word in enumerate(WORDS)]
POLICY = Policy(k=3, raw=1, budget=900)
SHORT = Sampling(max_new_tokens=6)


@pytest.fixture(autouse=True)
def eager_switching():
    """Threads take turns so often that what can go wrong does."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


def together(*jobs, seconds=120):
    """What jobs return that run at the same time; fails where one fails, or where they wait for each other for ever."""
    results, errors = [None] * len(jobs), []
    start = threading.Barrier(len(jobs))

    def run(number, job):
        try:
            start.wait(seconds)
            results[number] = job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(jobs)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0, until - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "threads wait for each other"
    if errors:
        raise errors[0]
    return results


def make_adapter(folder, seed, targets=("q_proj", "o_proj")):
    """A LoRA large enough that it changes every answer."""
    config = LoraConfig(r=4, target_modules=list(targets), init_lora_weights=False)
    donor = get_peft_model(make_model(), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in donor.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.5)
    donor.save_pretrained(folder, save_embedding_layers=False)
    return folder


def make_corpus(path, model, tokenizer, name="c", texts=TEXTS):
    corpus = Corpus.create(path, name, MeanPool(model, tokenizer, 10, segment_tokens=100))
    corpus.add([Document(*text) for text in texts.items()])
    return corpus


def ask(reader, question, policy=POLICY, sampling=SHORT):
    return reader.ask(question, policy=policy, sampling=sampling).text


@pytest.fixture
def shared(tmp_path, tokenizer):
    """One model; a reader without an adapter, two with one each, of different layers; what each says alone."""
    model = make_model()
    corpus = make_corpus(tmp_path, model, tokenizer)
    folders = [
        make_adapter(tmp_path / "a", 1),
        make_adapter(tmp_path / "b", 2, ["v_proj", "down_proj", "embed_tokens"]),
    ]
    alone = []
    for folder in (None, *folders):
        own = make_model()
        reader = Reader(Corpus.open(tmp_path, "c"), own, tokenizer, folder, policy=POLICY, hot_bytes=0)
        alone.append([ask(reader, question) for question in QUESTIONS])
    assert alone[0] != alone[1] != alone[2] != alone[0]
    readers = [
        Reader(corpus, model, tokenizer, folder, policy=POLICY, hot_bytes=1 << 20) for folder in (None, *folders)
    ]
    return readers, alone


def test_readers_with_different_adapters_answer_as_alone(shared):
    readers, alone = shared
    jobs = [lambda reader=reader: [ask(reader, question) for question in QUESTIONS] for reader in readers]
    assert together(*jobs, *jobs) == alone * 2


def test_one_reader_in_many_threads_with_and_without_its_adapter(shared):
    readers, alone = shared
    off = Policy(k=3, raw=1, budget=900, adapter=False)
    jobs = [partial(ask, readers[1], question, policy) for question in QUESTIONS for policy in (POLICY, off)]
    assert together(*jobs) == [text for pair in zip(alone[1], alone[0], strict=True) for text in pair]


def test_batches_beside_single_questions(shared):
    readers, alone = shared

    def batch(reader):
        return [answer.text for answer in reader.ask_many(QUESTIONS, sampling=SHORT, batch_size=4)]

    def single(reader):
        return [ask(reader, question) for question in QUESTIONS]

    jobs = [partial(job, reader) for reader in readers for job in (batch, single)]
    assert together(*jobs) == [texts for texts in alone for _ in range(2)]


def test_what_is_ingested_beside_a_reader_is_what_is_ingested_alone(tmp_path, tokenizer):
    texts = {f"{n}": f"Document {n} says that {n * n} is {n} times {n}. " * 3 for n in range(20)}
    alone = make_corpus(tmp_path / "alone", make_model(), tokenizer, texts=texts)
    model = make_model()
    corpus = make_corpus(tmp_path, model, tokenizer)
    reader = Reader(corpus, model, tokenizer, make_adapter(tmp_path / "a", 1), policy=POLICY, hot_bytes=0)
    added, ended = Corpus.create(tmp_path, "new", corpus.compressor), threading.Event()

    def keep_asking():
        while not ended.is_set():
            for _ in reader.stream(QUESTIONS[0], sampling=SHORT):
                pass

    def add():
        try:
            added.add([Document(*text) for text in texts.items()])
        finally:
            ended.set()

    together(keep_asking, add)
    assert added.verify().ok
    for document in alone.documents():
        wanted = alone.vectors(document.revision)
        assert all(map(torch.equal, wanted, added.vectors(document.revision))), document.document


def test_every_compressor_beside_an_adapter(tmp_path, tokenizer):
    folder = make_adapter(tmp_path / "a", 1, ["q_proj", "embed_tokens"])
    documents = [list(range(20, 150)), list(range(7, 90))]

    def compressors(model):
        yield MeanPool(model, tokenizer, 10, segment_tokens=40)
        yield MeanPool(model, tokenizer, 10, segment_tokens=40, layer=2)
        yield MeanPool(model, tokenizer, 10, segment_tokens=40, layer=0)
        yield WeightedPool(model, tokenizer, 10, segment_tokens=40)
        for mode in ("accumulate", "replace", "independent"):
            yield AutoCompressor(model, tokenizer, 4, 40, mode)

    def compress(compressor):
        return [compressor.compress(documents) for _ in range(3)]

    alone = [compressor.compress(documents) for compressor in compressors(make_model())]
    model, ended = make_model(), threading.Event()
    name = add_adapter(model, folder)
    jobs = [partial(compress, compressor) for compressor in compressors(model)]

    def switch():
        while not ended.is_set():
            with only_adapter(model, name):
                time.sleep(0.0005)

    def work():
        try:
            return together(*jobs)
        finally:
            ended.set()

    for wanted, rounds in zip(alone, together(switch, work)[1], strict=True):
        for given in rounds:
            assert all(map(torch.equal, wanted, given))


def test_streams_of_two_readers_take_turns(shared):
    readers, alone = shared
    streams = [reader.stream(question, sampling=SHORT) for question in QUESTIONS[:3] for reader in readers]
    open_ones = [iter(stream) for stream in streams]
    while open_ones:
        open_ones = [stream for stream in open_ones if next(stream, None) is not None]
    wanted = [texts[number] for number in range(3) for texts in alone]
    assert [stream.answer.text for stream in streams] == wanted


def test_a_stream_that_is_held_or_left_alone_keeps_nobody_waiting(shared):
    readers, alone = shared
    held = iter(readers[1].stream(QUESTIONS[0], sampling=SHORT))
    next(held)
    left = iter(readers[2].stream(QUESTIONS[1], sampling=SHORT))
    next(left)
    assert together(partial(ask, readers[0], QUESTIONS[0]), partial(ask, readers[2], QUESTIONS[2])) == [
        alone[0][0],
        alone[2][2],
    ]
    del left
    assert together(partial(ask, readers[1], QUESTIONS[3])) == [alone[1][3]]
    lock = lock_of(readers[0].model)
    together(lambda: (lock.acquire(), lock.release()))
    assert next(held, None) is not None


def test_a_stream_may_be_read_by_several_threads(shared):
    readers, _ = shared
    stream = readers[1].stream(QUESTIONS[0], sampling=Sampling(max_new_tokens=30))
    pieces = together(*[lambda: list(stream) for _ in range(4)])
    whole = ask(readers[1], QUESTIONS[0], sampling=Sampling(max_new_tokens=30))
    assert stream.answer.text == whole
    assert sum(len(piece) for part in pieces for piece in part) >= len(whole)
    assert sorted("".join(piece for part in pieces for piece in part).strip()) == sorted(whole)


def test_a_question_is_answered_between_the_tokens_of_long_ones(shared):
    """The lock goes to whoever has waited longest, not back to the thread that had it."""
    readers, _ = shared
    order = []

    def long():
        for _ in readers[0].stream(QUESTIONS[0], sampling=Sampling(max_new_tokens=400)):
            order.append("token")

    def short():
        while len(order) < 5:
            time.sleep(0.001)
        order.append(ask(readers[1], QUESTIONS[1], sampling=Sampling(max_new_tokens=1)))

    together(long, short)
    answered = next(number for number, what in enumerate(order) if what != "token")
    assert answered < len(order) - 50


def test_sampling_with_a_seed_is_the_same_in_threads(shared):
    readers, _ = shared
    sampling = Sampling(max_new_tokens=8, temperature=1.0, seed=7)
    alone = [ask(reader, QUESTIONS[0], sampling=sampling) for reader in readers]
    jobs = [partial(ask, reader, QUESTIONS[0], POLICY, sampling) for reader in readers]
    assert together(*jobs, *jobs) == alone * 2


def test_adapters_are_laid_over_a_model_that_is_read(tmp_path, tokenizer):
    model = make_model()
    reader = Reader(make_corpus(tmp_path, model, tokenizer), model, tokenizer, policy=POLICY, hot_bytes=0)
    alone = [ask(reader, question) for question in QUESTIONS]
    folders = [make_adapter(tmp_path / str(seed), seed, [target]) for seed, target in enumerate(["q_proj", "up_proj"])]
    jobs = [partial(add_adapter, model, folder) for folder in folders * 2]
    prints = [partial(base_fingerprint, model, tokenizer)] * 2
    said, *names = together(lambda: [ask(reader, question) for question in QUESTIONS], *jobs, *prints)
    assert said == alone
    assert names[:2] == names[2:4] and set(model.peft_config) == set(names[:2])
    assert names[4] == names[5] == base_fingerprint(make_model(), tokenizer)


@pytest.mark.slow
def test_a_study_beside_readers_learns_the_same_and_disturbs_none(tmp_path, tokenizer):
    settings = studied.settings(2, lora_dropout=0.1)

    def train(corpus, model):
        report = study(corpus, model, tokenizer, studied.QUESTIONS, settings, say=lambda text: None)
        return load_file(report.adapter / "adapter_model.safetensors")

    wanted = train(studied.make_corpus(tmp_path, "alone"), make_model())
    model = make_model()
    corpus = studied.make_corpus(tmp_path, "beside", model)
    plain = Reader(corpus, model, tokenizer, policy=POLICY, hot_bytes=0)
    adapted = Reader(corpus, model, tokenizer, make_adapter(tmp_path / "a", 1), policy=POLICY, hot_bytes=0)
    question, ended = "How is the whale?", threading.Event()
    alone = {reader: ask(reader, question) for reader in (plain, adapted)}
    vectors = corpus.compressor.compress([list(range(80))])[0]

    def work():
        try:
            return train(corpus, model)
        finally:
            ended.set()

    def keep_asking(reader):
        count = 0
        while not ended.is_set():
            assert ask(reader, question) == alone[reader]
            assert torch.equal(corpus.compressor.compress([list(range(80))])[0], vectors)
            count += 1
        return count

    learned, *counts = together(work, partial(keep_asking, plain), partial(keep_asking, adapted))
    assert min(counts) > 0 and learned.keys() == wanted.keys()
    assert all(torch.equal(learned[name], wanted[name]) for name in wanted)
    assert {reader: ask(reader, question) for reader in (plain, adapted)} == alone
    assert not model.training and all(name.startswith("longreach-") for name in model.peft_config)


def test_steps_and_conversions_share_the_attention_setting(tokenizer):
    model = make_model(max_position_embeddings=4096)
    ids = torch.arange(20)[None]

    def write(count=30):
        steps = Steps(model, 20 + count)
        tokens = [steps.read(ids).argmax(-1)]
        for _ in range(count - 1):
            tokens.append(steps.step(tokens[-1]).argmax(-1))
        return torch.stack(tokens).flatten().tolist()

    def converted():
        return {convert(model, max_length=4096).config._attn_implementation for _ in range(20)}

    alone = write()
    *written, kinds, others = together(write, write, write, converted, converted)
    assert written == [alone] * 3 and kinds == others == {"sdpa"}
    assert model.config._attn_implementation == "sdpa"


def test_special_tokens_in_passages_stay_text_in_threads():
    """A fast tokenizer keeps the options of a call in itself: those of another thread's call must not be used."""
    tokenizer = make_tokenizer()
    pieces = PromptText(tokenizer)
    corpus_text, wanted = "It says <|end|> here. ", [*b"It says <|end|> here. "]

    def plain():
        return {len(pieces.plain(corpus_text)) for _ in range(200)}

    def control():
        return {len(pieces.control(corpus_text)) for _ in range(200)}

    assert together(plain, control, plain, control) == [{len(wanted)}, {len(wanted) - 6}] * 2


def test_the_lock_is_reentrant_fair_and_one_per_model(model):
    lock, order = FairLock(), []

    def take(number):
        lock.acquire()
        order.append(number)
        lock.release()

    lock.acquire()
    lock.acquire()
    threads = []
    for number in range(4):
        threads.append(threading.Thread(target=take, args=(number,)))
        threads[-1].start()
        while len(lock._waiting) <= number:
            time.sleep(0.001)
    lock.release()
    assert order == []
    lock.release()
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2, 3]
    assert lock_of(model) is lock_of(model) is not lock_of(make_model())
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    assert lock_of(wrapped) is lock_of(model)
    with pytest.raises(ValueError, match="lets go"), exclusive(model):
        raise ValueError("lets go")
    together(lambda: (lock_of(model).acquire(), lock_of(model).release()))
