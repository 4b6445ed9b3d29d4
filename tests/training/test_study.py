"""A corpus and questions to an adapter that answers from vectors; killed, spoiled and replaced."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from longreach import Document, Policy, Reader, Sampling
from longreach.datasets.questions import Question
from longreach.errors import (
    ContextError,
    CorpusBusy,
    CorpusError,
    FingerprintMismatch,
    ModelError,
    StorageError,
    TrainingError,
    UsageError,
)
from longreach.models.loss import IGNORED
from longreach.training.common import run
from longreach.training.common.adapter import add_lora
from longreach.training.common.checkpoints import last_checkpoint
from longreach.training.study import study as studying
from longreach.training.study.data import StudyData
from longreach.training.study.settings import StudySettings
from longreach.training.study.study import study
from longreach.training.study.trainer import StudyObjective
from tests.conftest import make_model, make_tokenizer
from tests.training.studied import ANSWERS, QUESTIONS, make_corpus, settings

FEW = settings(2)
COMPRESSED = Policy(raw=0, compressed="document", budget=900)


def train(corpus, chosen=FEW, questions=QUESTIONS, model=None):
    lines = []
    report = study(corpus, model or make_model(), make_tokenizer(), questions, chosen, say=lines.append)
    return report, lines


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A corpus whose adapter knows the answers by heart, and what came of the training."""
    corpus = make_corpus(tmp_path_factory.mktemp("store"))
    model = make_model()
    chosen = settings(50, lora_rank=16, lora_alpha=32, lora_dropout=0.0, batch_size=5, accumulate=1, save_every=1000)
    return corpus, *train(corpus, chosen, model=model), model


def test_the_answers_are_learned_from_the_vectors(studied):
    """One question, four documents: only their vectors tell the answers apart."""
    corpus, report, _, _ = studied
    assert report.first_loss > 4 and report.last_loss < 2
    assert (report.steps, report.resumed_at, report.questions) == (50, 0, 5)
    reader = Reader(corpus, make_model(), make_tokenizer(), policy=COMPRESSED)
    asked = [question.question for question in QUESTIONS]
    said = reader.ask_many(asked, documents=[q.document for q in QUESTIONS], sampling=Sampling(12))
    assert [answer.text for answer in said] == [question.answers[0] for question in QUESTIONS]
    turned = dict(zip(ANSWERS, [*ANSWERS][1:] + [*ANSWERS][:1], strict=True))
    for document, other in turned.items():
        assert reader.ask("How is it?", document=other, sampling=Sampling(12)).text != ANSWERS[document]
    untrained = Reader(corpus, make_model(), make_tokenizer(), policy=replace(COMPRESSED, adapter=False))
    assert untrained.ask("How is it?", document="whale", sampling=Sampling(12)).text != "white"


def test_the_model_comes_back_as_it_was(studied):
    model, fresh = studied[3], make_model()
    assert not getattr(model, "peft_config", None) and not model.training
    state = fresh.state_dict()
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_progress_says_tokens_loss_and_time(studied):
    assert "step 50/50  loss 1" in studied[2][-1]
    assert "tokens/s" in studied[2][-1] and "0:00:00 left" in studied[2][-1]


def test_what_is_stored_is_answered_for(studied):
    corpus, report, _, _ = studied
    assert report.adapter == corpus.path / "adapter" == corpus.adapter_path
    assert {path.name for path in report.adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "longreach.json",
        "sha256.json",
    }
    assert corpus.verify().ok
    note = json.loads((report.adapter / "longreach.json").read_text())
    assert note["model_fingerprint"] == corpus.settings.model_fingerprint
    assert not list(corpus.work_path.rglob("checkpoint-*"))


def test_the_same_again_is_done_already(studied):
    corpus, report, _, _ = studied
    before = (corpus.path / "files.jsonl").read_bytes()
    chosen = settings(50, lora_rank=16, lora_alpha=32, lora_dropout=0.0, batch_size=5, accumulate=1, save_every=7)
    again, lines = train(corpus, chosen)
    assert again == report and "before" in lines[0]
    assert (corpus.path / "files.jsonl").read_bytes() == before


def losses(corpus):
    """The losses of the one run of a corpus' work folder, from its newest checkpoint."""
    (folder,) = (corpus.work_path / "runs").iterdir()
    state = json.loads((last_checkpoint(folder) / "trainer_state.json").read_text())
    return {line["step"]: line["loss"] for line in state["log_history"] if "loss" in line}


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_losses(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "rmtree", lambda folder, **_: None)  # the last checkpoint is looked at
    straight, killed = make_corpus(tmp_path / "one"), make_corpus(tmp_path / "two")
    train(straight, settings(6))
    command = [sys.executable, "-m", "tests.training.studied", str(tmp_path / "two"), "6"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)
    while not list(killed.work_path.glob("runs/*/checkpoints/checkpoint-4/trainer_state.json")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert killed.adapter_path is None and killed.verify().ok
    report, lines = train(killed, settings(6))
    assert report.resumed_at >= 4 and "Resuming from checkpoint-" in lines[0]
    one, two = losses(straight), losses(killed)
    assert list(one) == list(two) == [*range(1, 13)]
    assert max(abs(one[step] - two[step]) for step in one) <= 1e-5
    assert max(one.values()) - min(one.values()) > 0.1
    assert killed.verify().ok


def test_verify_is_content_while_it_is_under_way(tmp_path, monkeypatch):
    corpus, seen = make_corpus(tmp_path), []
    real = StudyObjective.forward

    def looking(self, *args, **options):
        seen.append(corpus.verify().ok)
        return real(self, *args, **options)

    monkeypatch.setattr(StudyObjective, "forward", looking)
    train(corpus)
    assert len(seen) == 8 and all(seen)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, what):
    corpus, real, calls = make_corpus(tmp_path), StudyObjective.forward, []

    def spoiled(self, **inputs):
        calls.append(1)
        loss = real(self, **inputs)["loss"]
        if len(calls) > 6:  # two parts a step: in the fourth
            if what == "gradient":
                loss.register_hook(lambda gradient: gradient / 0)
            else:
                loss = loss * float("nan")
        return {"loss": loss}

    monkeypatch.setattr(StudyObjective, "forward", spoiled)
    words = rf"The {what} of step 4 is not a finite .* the last checkpoint is good.*--learning-rate"
    with pytest.raises(TrainingError, match=words):
        train(corpus)
    assert corpus.adapter_path is None and corpus.verify().ok
    monkeypatch.undo()
    assert train(corpus)[0].resumed_at == 2


def test_out_of_memory_says_what_to_lower_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    corpus, model, real, calls = make_corpus(tmp_path), make_model(), StudyObjective.forward, []

    def full(self, **inputs):
        calls.append(1)
        if len(calls) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return real(self, **inputs)

    monkeypatch.setattr(StudyObjective, "forward", full)
    with pytest.raises(
        TrainingError, match=r"Out of memory: lower --budget \(it is 2048\) or --batch-size \(it is 2\), or give"
    ):
        train(corpus, model=model)
    monkeypatch.undo()
    assert train(corpus, model=model)[0].resumed_at == 2


def test_a_run_that_an_earlier_release_began_is_resumed(tmp_path, monkeypatch):
    """Its folder has the name that the earlier names of the settings give it."""
    corpus, real, calls = make_corpus(tmp_path), StudyObjective.forward, []

    def stop(self, **inputs):
        calls.append(1)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return real(self, **inputs)

    monkeypatch.setattr(StudyObjective, "forward", stop)
    with pytest.raises(KeyboardInterrupt):
        train(corpus)
    monkeypatch.undo()
    (folder,) = (corpus.work_path / "runs").iterdir()
    there = run.settings_of(folder)
    names = {"learning_rate": "lr", "lora_rank": "lora", "lora_alpha": "alpha", "lora_dropout": "dropout"}
    before = {names.get(name, name): value for name, value in there.items() if name != "batch_size"} | {"batch": 4}
    name = hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:12]
    folder = folder.rename(folder.with_name(name))
    run.write_json(folder / run.RUN, before)
    assert train(corpus)[0].resumed_at == 2
    (folder,) = (corpus.work_path / "runs").iterdir()
    assert run.settings_of(folder) == there and folder.name != name


def test_a_replaced_adapter_takes_its_scorecard_along(tmp_path):
    corpus = make_corpus(tmp_path)
    first = train(corpus)[0].adapter / "adapter_model.safetensors"
    before = first.read_bytes()
    with corpus.changing("study"):
        (corpus.path / "scorecard.json").write_text("{}")
    train(corpus, replace(FEW, seed=5))
    assert first.read_bytes() != before
    assert not (corpus.path / "scorecard.json").exists() and corpus.verify().ok
    train(corpus)  # that run again: it was done before, and comes back
    assert first.read_bytes() == before and corpus.verify().ok


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_adapter_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch, at):
    corpus = make_corpus(tmp_path)
    target = train(corpus)[0].adapter
    before = (target / "adapter_model.safetensors").read_bytes()
    with corpus.changing("study"):
        (corpus.path / "scorecard.json").write_text("{}")
    real, calls = Path.rename, []

    def killed(self, to):
        if corpus.path in (self.parent, Path(to).parent) and (calls.append(1) or len(calls) == at):
            raise KeyboardInterrupt
        return real(self, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            train(corpus, replace(FEW, seed=5))
    assert len(calls) == at
    assert corpus.verify().ok
    assert (corpus.adapter_path / "adapter_model.safetensors").read_bytes() == before
    with corpus.changing("other"):  # whoever writes next puts it back
        pass
    assert corpus.verify().ok and corpus.adapter_path == target
    assert (target / "adapter_model.safetensors").read_bytes() == before
    assert (corpus.path / "scorecard.json").read_text() == "{}"
    train(corpus, replace(FEW, seed=5))
    assert (target / "adapter_model.safetensors").read_bytes() != before
    assert corpus.verify().ok


@pytest.mark.parametrize(
    ("where", "error", "words"),
    [
        ("run.claim", OSError(30, "Read-only file system"), "Read-only file system.*writable"),
        ("run.write_json", OSError(28, "No space left on device"), "full.*free space"),
        ("StudyTrainer.train", RuntimeError("[enforce fail] PytorchStreamWriter failed writing file"), "free space"),
        ("StudyTrainer.train", RuntimeError("I/O error: No space left on device (os error 28)"), "free space"),
        ("note_base", PermissionError(13, "Permission denied"), "permit access"),
    ],
)
def test_a_disk_that_refuses_is_said(tmp_path, monkeypatch, where, error, words):
    corpus = make_corpus(tmp_path)

    def refuse(*_args, **_more):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(f"longreach.training.study.study.{where}", refuse)
        with pytest.raises(StorageError, match=words):
            train(corpus)
    assert corpus.verify().ok and corpus.adapter_path is None


def test_a_work_folder_that_cannot_be_made_is_said(tmp_path, monkeypatch):
    corpus = make_corpus(tmp_path)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    with pytest.raises(StorageError, match="Read-only"):
        train(corpus)


def make_data(corpus, questions=QUESTIONS, **more):
    model = make_model()
    options = {"batch": 4, "accumulate": 2, "epochs": 2, "budget": 900, "window": 2048, "seed": 0} | more
    return model, StudyData(corpus, model, make_tokenizer(), questions, **options)


def test_samples_are_what_the_reader_reads(tmp_path):
    corpus = make_corpus(tmp_path)
    model, data = make_data(corpus, batch=1, accumulate=1)
    reader = Reader(corpus, model, make_tokenizer(), policy=COMPRESSED)
    for index in range(len(data)):
        (row,), sample = data.rows(index), data[index]
        question = QUESTIONS[row]
        prompt = reader._plan(question.question, question.document, COMPRESSED, Sampling()).prompt.embeds
        answer = [*make_tokenizer()(question.answers[0])["input_ids"], make_tokenizer().eos_token_id]
        assert torch.equal(sample["inputs_embeds"][0, : len(prompt)], prompt)
        assert sample["labels"][0].tolist() == [IGNORED] * len(prompt) + answer
        assert data.tokens(index) == len(prompt) + len(answer) == sample["inputs_embeds"].shape[1]


def test_each_epoch_learns_every_question_in_another_order(tmp_path):
    _, data = make_data(make_corpus(tmp_path), epochs=3, batch=2, accumulate=1)
    assert (len(data), data.steps) == (9, 9)
    epochs = [[row for index in range(3 * e, 3 * e + 3) for row in data.rows(index)] for e in range(3)]
    assert all({*epoch} == {*range(5)} and len(epoch) == 6 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    _, other = make_data(make_corpus(tmp_path, "d"), epochs=3, batch=2, accumulate=1, seed=1)
    assert [data.rows(i) for i in range(9)] != [other.rows(i) for i in range(9)]


def test_padding_and_parts_change_no_gradient(tmp_path):
    """A padded batch of unequal lengths gives the mean over answer tokens that its rows give one by one."""
    corpus, model = make_corpus(tmp_path), make_model()
    _, data = make_data(corpus, batch=5, accumulate=1)
    adapted = add_lora(model, 4, alpha=8)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    objective = StudyObjective(adapted.eval())
    batch = data[0]
    assert len({int((row != IGNORED).nonzero()[0]) for row in batch["labels"]}) > 2  # prompts of unequal length
    together = objective(**batch)["loss"]
    _, alone = make_data(corpus, batch=1, accumulate=1)
    count = int((batch["labels"] != IGNORED).sum())
    parts = [objective(**alone[index], num_items_in_batch=count)["loss"] for index in range(5)]
    assert torch.allclose(together, torch.stack(parts).sum(), atol=1e-5)
    states = adapted(inputs_embeds=batch["inputs_embeds"]).logits[:, :-1]
    wanted = torch.nn.functional.cross_entropy(states.flatten(0, 1), batch["labels"][:, 1:].flatten())
    assert torch.allclose(together, wanted, atol=1e-5)


def test_distillation_learns_what_the_model_says_with_the_text_in_view(tmp_path):
    corpus, model = make_corpus(tmp_path), make_model()
    objective = StudyObjective(add_lora(model, 4, alpha=8))
    data = StudyData(
        corpus, model, make_tokenizer(), QUESTIONS, batch=1, accumulate=1, epochs=1, budget=900, window=2048, seed=0,
        teacher=objective.expect,
    )  # fmt: skip
    index = next(i for i in range(5) if data.rows(i) == [1])
    sample = data[index]
    text = "".join(passage.text + "\n\n" for passage in corpus.passages("whale")[:5])
    request = "Answer the question in one short sentence, using the text above.\n\nQuestion: How is it?"
    ids = make_tokenizer()(f"<|user|>{text}{request}<|end|><|assistant|>white<|end|>", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = make_model()(ids).logits[0, -7:-1].log_softmax(-1).topk(20)
    assert torch.equal(sample["teacher_ids"], expected.indices)
    assert torch.allclose(sample["teacher_log_probs"], expected.values, atol=1e-4)
    report, _ = train(make_corpus(tmp_path, "d"), settings(12, loss="distill", lora_dropout=0.0, save_every=100))
    assert report.last_loss < report.first_loss / 2


def test_a_document_beyond_the_budget_gives_way_to_passages(tmp_path):
    """Those found, best first, and in any case the one that is asked about."""
    corpus = make_corpus(tmp_path)
    asked = Question("queen", "How is the queen?", ("red",), passage=6)
    found = [passage.index for passage in corpus.search(asked.question, 5, document="queen")]
    assert 6 not in found
    _, data = make_data(corpus, [asked], budget=120)
    (index,) = {row for i in range(len(data)) for row in data.rows(i)}
    read = [number for _, number in data._plans[index].memory]
    whole = len(corpus.passages("queen"))
    assert 6 in read and read == sorted(read) and 1 < len(read) < whole
    assert set(read) - {6} <= set(found)
    assert data.tokens(0) <= 120 + len(b"red") + 1
    with pytest.raises(ContextError, match="raise --budget"):
        make_data(corpus, [asked], budget=100)


@pytest.mark.slow
def test_bfloat16_and_checkpointing_learn_as_well(tmp_path):
    model = make_model().to(torch.bfloat16)
    report, _ = train(make_corpus(tmp_path, model=make_model()), settings(8, checkpointing=True), model=model)
    assert report.last_loss < report.first_loss - 1
    weights = load_file(report.adapter / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_two_studies_of_one_model_at_a_time_are_refused_also_where_both_prepare(tmp_path, monkeypatch):
    model = make_model()
    corpus = make_corpus(tmp_path, model=model)
    refused = []

    def lay(*parts, **options):
        adapted = add_lora(*parts, **options)
        # Another study, which had looked at the model before this one laid its adapter over it.
        with pytest.raises(ModelError, match="carries PEFT adapters"), studying._adapted(model, settings(1), None):
            pass
        refused.append(True)
        return adapted

    monkeypatch.setattr(studying, "add_lora", lay)
    report, _ = train(corpus, settings(1), model=model)
    assert refused and report.steps
    assert not hasattr(model, "peft_config")


def test_what_cannot_be_studied_is_refused(tmp_path):
    corpus = make_corpus(tmp_path)
    with pytest.raises(UsageError, match="no questions"):
        train(corpus, questions=[])
    with pytest.raises(FingerprintMismatch, match="another model"):
        train(corpus, model=make_model(seed=1))
    with studying.working(corpus), pytest.raises(CorpusBusy, match="Another process studies corpus 'c'"):
        train(corpus)
    with pytest.raises(ModelError, match="carries PEFT adapters"):
        train(corpus, model=add_lora(make_model(), 2, alpha=4).get_base_model())
    with pytest.raises(UsageError, match="no document 'whales'"):
        train(corpus, questions=[Question("whales", "How?", ("so",))])
    corpus.remove([*ANSWERS])
    with pytest.raises(CorpusError, match="holds nothing to answer"):
        train(corpus, questions=[Question(None, "How?", ("so",))])


def test_questions_that_no_passage_matches_are_not_learned_and_said(tmp_path):
    lost = [Question(None, "Zusammenfassung?", ("so",)), Question(None, "Wie bitte?", ("so",))]
    report, lines = train(make_corpus(tmp_path), questions=[*QUESTIONS, *lost])
    assert "Not learned, because no passage shares a word with them: 2 of 7 questions." in lines
    alone, _ = train(make_corpus(tmp_path, "alone"))
    assert report.last_loss == alone.last_loss


def test_a_damaged_checkpoint_is_named(tmp_path, monkeypatch):
    corpus = make_corpus(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda folder, **_: None)
        train(corpus)
    (folder,) = (corpus.work_path / "runs").iterdir()
    (folder / run.REPORT).unlink()
    (last_checkpoint(folder) / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"checkpoint-4' cannot be read .* delete it"):
        train(corpus)


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"epochs": 0}, "epochs"),
        ({"lora_rank": 0}, "lora_rank"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"batch_size": 0}, "batch_size"),
        ({"budget": 0}, "budget"),
        ({"accumulate": 0}, "accumulate"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"learning_rate": float("inf")}, "above 0"),
        ({"warmup": 1.0}, "warmup"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"loss": "hinge"}, "answers, distill"),
    ],
)
def test_settings_out_of_range(changes, word):
    with pytest.raises(UsageError, match=word):
        StudySettings(**changes)


def test_documents_added_later_make_it_another_run(tmp_path):
    corpus = make_corpus(tmp_path)
    train(corpus)
    corpus.add([Document("cat", "The cat smiles. " * 9)])
    train(corpus)
    assert len(list((corpus.work_path / "runs").iterdir())) == 2
