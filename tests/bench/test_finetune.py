"""`bench finetune` on tiny models: losses, work and ratios against what transformers and arithmetic say; no speed."""

import statistics
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from longreach.bench import finetune
from longreach.bench.cases import FinetuneCase
from longreach.bench.finetune import amortised, run
from longreach.bench.timing import Times
from longreach.compressors.autocompressor.compressor import AutoCompressor
from longreach.errors import UsageError
from longreach.models.hybrid.convert import convert
from longreach.pattern import AttentionPattern
from longreach.planning.plan import Shape, shape
from tests.conftest import make_model, make_tokenizer

CASE = FinetuneCase(length=90, ratio=9, qa_tokens=7, rows=2, repeats=2)
OPTIONS = {"dtype": torch.float32, "device": torch.device("cpu")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    make_model(num_hidden_layers=6).save_pretrained(out)
    make_tokenizer().save_pretrained(out)
    return str(out)


@pytest.fixture(scope="module")
def report(folder):
    return run(CASE, model=folder, **OPTIONS)


def test_every_figure_follows_from_the_rounds(report):
    rounds, (full, ours) = report["rounds_seconds"], (report["variants"][name] for name in ("full", "vectors"))
    assert {name: len(seconds) for name, seconds in rounds.items()} == {"full": 2, "vectors": 2, "compression": 2}
    assert (full["positions"], ours["positions"], report["vectors"], report["ratio"]) == (97, 17, 10, 9)
    ratios = [f / o for f, o in zip(rounds["full"], rounds["vectors"], strict=True)]
    assert ours["speedup"] == statistics.median(ratios) and "speedup" not in full
    assert ours["achieved_over_ideal"] == pytest.approx(ours["speedup"] * ours["flops"] / full["flops"])
    for figures in (full, ours, report["compression"]):
        assert figures["documents_per_second"] * figures["seconds"] == pytest.approx(2)
    for figures in (full, ours):
        assert figures["flops_per_second"] * figures["seconds"] == pytest.approx(figures["flops"])
    assert (report["goal"], report["paper"]) == (11.5, 11.52)


def test_a_lora_of_rank_8_is_trained_and_nothing_else(report):
    s = Shape.of(make_model(num_hidden_layers=6).config)
    assert report["trained_parameters"] == 8 * 6 * 2 * (2 * s.hidden + s.head_dim * (s.heads + s.kv_heads))
    assert report["weights_bytes"] == 4 * s.parameters


@pytest.mark.parametrize("again", [False, True])
def test_questions_and_answers_alone_are_learned(folder, monkeypatch, again):
    answers, compressed, switched = [], {}, []
    loss, compress, switch = finetune.chunked_cross_entropy, AutoCompressor.compress, finetune.checkpointing

    def watch(hidden, weight, labels):
        answers.append(labels)
        return loss(hidden, weight, labels)

    def keep(self, documents):
        compressed["vectors"] = torch.stack(found := compress(self, documents))
        compressed["documents"] = torch.tensor(documents)
        return found

    monkeypatch.setattr(finetune, "chunked_cross_entropy", watch)
    monkeypatch.setattr(AutoCompressor, "compress", keep)
    monkeypatch.setattr(finetune, "checkpointing", lambda model, on: switched.append(on) or switch(model, on))
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)  # the LoRA stays what it starts as: nothing
    available = 0 if again else 2**40
    monkeypatch.setattr(finetune.psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    report = run(CASE, model=folder, **OPTIONS)
    assert report["checkpointing"] is again and switched == [again]
    model, embed = make_model(num_hidden_layers=6), make_model(num_hidden_layers=6).get_input_embeddings()
    assert all(torch.equal(answers[0], other) for other in answers)  # the same for both
    contexts = {"full": embed(compressed["documents"]), "vectors": compressed["vectors"]}
    for name, context in contexts.items():
        inputs = torch.cat([context, embed(answers[0])], dim=1)
        labels = torch.cat([torch.full(context.shape[:2], -100), answers[0]], dim=1)
        expected = float(model(inputs_embeds=inputs, labels=labels).loss.detach())
        assert report["variants"][name]["loss"] == pytest.approx(expected, rel=1e-4)


def test_steps_learn(folder):
    first, last = (run(FinetuneCase(40, 4, 7, repeats=count), model=folder, **OPTIONS)["variants"] for count in (1, 12))
    assert all(last[name]["loss"] < first[name]["loss"] for name in ("full", "vectors"))


@pytest.mark.parametrize("again", [False, True])
def test_the_work_is_what_torch_counts(folder, monkeypatch, again):
    counted, time = {}, finetune.measure

    def count(calls, *rest, **options):
        for name, call in calls.items():
            with FlopCounterMode(display=False) as counter:
                call()
            counted[name] = counter.get_total_flops()
        return time(calls, *rest, **options)

    monkeypatch.setattr(finetune, "measure", count)
    monkeypatch.setattr(finetune, "_needs_checkpointing", lambda *args: again)
    monkeypatch.setattr("longreach.pattern.LayerPlan.attention_flops", lambda *args: [0])  # torch counts none on a CPU
    report = run(CASE, model=folder, **OPTIONS)
    for name in ("full", "vectors"):  # the first layer needs no gradient of its input, a checkpoint stops early
        assert 0.85 * report["variants"][name]["flops"] < counted[name] <= report["variants"][name]["flops"]


def test_sparse_layers_do_less_work(folder, report, tmp_path):
    hybrid = convert(make_model(num_hidden_layers=6), AttentionPattern(4, 1, 2, 0), 2, max_length=256)
    hybrid.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    found = run(CASE, model=str(tmp_path), **OPTIONS)["variants"]["full"]
    seen = AttentionPattern(4, 1, 2, 0).density(97)
    attention = 2 * 6 * 4 * 8 * 4 * (97 * 98 // 2) * 3.5  # rows, layers, operations, head dim, heads, pairs
    saved = report["variants"]["full"]["flops"] - found["flops"]
    assert saved == pytest.approx(attention * 4 / 6 * (1 - seen))


def test_the_arithmetic_for_a_7b_shape_is_what_the_results_say():
    s = shape("llama2-7b")
    config = SimpleNamespace(
        num_hidden_layers=s.layers,
        hidden_size=s.hidden,
        num_attention_heads=s.heads,
        num_key_value_heads=s.kv_heads,
        head_dim=s.head_dim,
        intermediate_size=s.intermediate,
        vocab_size=s.vocab,
        tie_word_embeddings=s.tied,
    )
    full, ours = (finetune._flops(config, positions, 64, True) for positions in (8192 + 64, 276 + 64))
    results = (Path(__file__).parents[2] / "docs/results.md").read_text(encoding="utf-8")
    assert f"the same arithmetic gives {full / ours:.2f}x" in results


def test_when_compressing_has_paid_for_itself():
    full, ours, once = Times([10.0, 20.0, 11.0]), Times([1.0, 2.0, 1.0]), Times([3.0, 6.0, 5.0])
    found = amortised(full, ours, once)
    assert found["epochs_to_pay"] == pytest.approx(1 / 3)
    assert found["speedup_after_epochs"] == pytest.approx({"1": 10 / 4, "3": 30 / 6, "10": 100 / 13})
    assert amortised(ours, full, once)["epochs_to_pay"] is None


@pytest.mark.parametrize("length, ratio, vectors", [(8192, 30, 276), (1537, 10, 154), (45, 45, 1), (1536, 1, 1536)])
def test_segments_are_equal_so_that_the_ratio_is_what_was_asked(length, ratio, vectors):
    compressor = finetune._compressor(make_model(max_position_embeddings=10**5), FinetuneCase(length, ratio))
    spans = compressor.segments(length)
    assert len(spans) * compressor.summary_tokens == vectors and max(map(len, spans)) <= 1536


@pytest.mark.parametrize("length, ratio", [(60, 1), (60, 2), (1600, 1)])
def test_low_ratios_and_short_documents_fit_the_window_too(tmp_path, length, ratio):
    make_model(num_hidden_layers=1, max_position_embeddings=64).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    report = run(FinetuneCase(length, ratio, qa_tokens=3, repeats=1), model=str(tmp_path), **OPTIONS)
    assert report["vectors"] == length // ratio


@pytest.mark.parametrize(
    "values, words",
    [
        ({"length": 0}, "length is 0"),
        ({"ratio": 0}, "ratio is 0"),
        ({"qa_tokens": 0}, "qa_tokens is 0"),
        ({"rows": 0}, "rows is 0"),
        ({"repeats": 0}, "repeats is 0"),
        ({"length": 20, "ratio": 21}, "at most the length, 20"),
    ],
)
def test_wrong_numbers_are_refused(values, words):
    with pytest.raises(UsageError, match=words):
        FinetuneCase(**values)
