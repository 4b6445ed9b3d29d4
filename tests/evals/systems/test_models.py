"""Readers of whole texts on random models: what they read, what they write, and what is too long for them."""

from dataclasses import replace

import pytest
import torch

import longreach as lr
from longreach.errors import ContextError, UsageError
from longreach.evals.run.runner import evaluate
from longreach.evals.run.sample import Sample
from longreach.evals.systems.models import ModelSystem, cut_middle
from longreach.evals.systems.registry import make_model_systems
from tests.conftest import make_model, make_tokenizer

PATTERN = lr.AttentionPattern(block_size=16, sink_blocks=1, local_blocks=2, stride=0)


def sample(index=0, words=30, chat=False, **more):
    text = " ".join(f"word{(index * 31 + i) % 97}" for i in range(words))
    values = {"length": 0, "max_new_tokens": 8} | more
    return Sample(
        id=f"s{index}", suite="scripted", task="t", before="Read this. ", context=text, after=" Now say:",
        question="What?", answers=("x",), metric="f1", chat=chat, **values,
    )  # fmt: skip


def hybrid(**shape):
    return lr.convert(make_model(**shape), PATTERN, [1], 2048)


@pytest.mark.parametrize("make", [make_model, hybrid])
@pytest.mark.parametrize("chat", [False, True])
def test_it_reads_the_prompt_and_writes_what_generate_writes(make, tokenizer, chat):
    model, asked = make(), sample(chat=chat)
    text = asked.before + asked.context + asked.after
    text = f"<|user|>{text}<|end|><|assistant|>" if chat else text
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    (said,) = ModelSystem("full", model, tokenizer).answer([asked])
    wanted = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    assert said.text == tokenizer.decode(wanted, skip_special_tokens=True) and said.text
    assert said.positions == ids.shape[1] and said.read_tokens == ids.shape[1] - (3 if chat else 0)
    assert 0 < said.new_tokens <= 8 and 0 < said.first_token_seconds <= said.seconds
    assert said.kv_bytes > 0 and said.peak_bytes > sum(p.nbytes for p in model.parameters())


def test_without_a_template_a_sample_that_asks_for_one_is_gone_on_with():
    model, bare = make_model(), make_tokenizer(chat=False)
    texts = [next(ModelSystem("full", model, bare).answer([sample(chat=chat)])).text for chat in (False, True)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("make", [make_model, hybrid])
def test_in_chunks_and_in_a_batch_equals_alone_and_at_once(make, tokenizer):
    model = make()
    asked = [sample(index, words) for index, words in enumerate((30, 12, 44))]
    whole = ModelSystem("full", model, tokenizer)
    alone = [next(whole.answer([one])) for one in asked]
    for reader in (whole, ModelSystem("full", model, tokenizer, chunk_tokens=37)):
        together = list(reader.answer(asked))
        assert [said.text for said in together] == [said.text for said in alone]
        assert [said.positions for said in together] == [said.positions for said in alone]
    assert next(ModelSystem("full", model, tokenizer, chunk_tokens=37).answer(asked[2:])).text == alone[2].text


def test_the_three_ways_of_attending_share_weights_and_differ(tokenizer):
    model = make_model()
    full, untrained, window = make_model_systems(["full", "hybrid", "sink-window"], model, tokenizer, "refuse")
    assert (full.name, untrained.name, window.name) == ("full", "hybrid, untrained", "sink-window")
    assert full.model is model
    assert untrained.model.lm_head.weight is window.model.lm_head.weight is model.lm_head.weight
    assert untrained.model.config.full_layers == [1] and window.model.config.full_layers == []
    assert window.model.config.max_position_embeddings == model.config.max_position_embeddings
    known = [reader.identity() for reader in (full, untrained, window)]
    assert len({identity["model_fingerprint"] for identity in known}) == 3
    assert known[0]["pattern"] is None and known[2]["pattern"]["stride"] == 0
    trained = hybrid()
    full, same, window = make_model_systems(["full", "hybrid", "sink-window"], trained, tokenizer, "refuse")
    assert same.name == "hybrid" and same.model is trained and full.model.config.full_layers == [0, 1, 2]
    assert window.model.config.sparse_attention["local_blocks"] == 2
    asked = sample(words=60)
    said = {reader.name: next(reader.answer([asked])) for reader in (full, same, window)}
    assert said["full"].text == next(ModelSystem("full", make_model(), tokenizer).answer([asked])).text
    assert said["full"].text != said["sink-window"].text
    assert said["full"].kv_bytes > said["hybrid"].kv_bytes > said["sink-window"].kv_bytes
    # Two sparse blocks of a ring and one of sink, in keys and values of 3 layers, 2 heads of 8, in float32.
    assert said["sink-window"].kv_bytes == 2 * 3 * 3 * 16 * 2 * 8 * 4


def test_a_prompt_beyond_the_window(tokenizer):
    model = make_model(max_position_embeddings=300)
    long, short = sample(0, 60), sample(1, 20)
    refusing = ModelSystem("full", model, tokenizer)
    excess = refusing.excess(long)
    text = long.before + long.context + long.after
    assert excess == len(text) + 8 - 300 > 0 and refusing.excess(short) <= 0
    with pytest.raises(ContextError, match=f"'s0' takes {excess} tokens more than the model's window of 300"):
        next(refusing.answer([long]))
    assert next(ModelSystem("full", model, tokenizer, too_long="read").answer([long])).positions == len(text)
    leaving = ModelSystem("full", model, tokenizer, too_long="leave out")
    assert leaving.reads(short) and not leaving.reads(long)
    cutting = ModelSystem("full", model, tokenizer, too_long="cut")
    assert next(cutting.answer([long])).positions == 292
    kept = len(long.context) - excess
    half = (kept + 1) // 2
    cut = replace(long, context=long.context[:half] + long.context[len(long.context) - kept + half :])
    assert torch.equal(cutting._prompt(long).embeds, refusing._prompt(cut).embeds)
    # A length of the sample's own is what counts, so that a template's few positions do not.
    assert refusing.excess(replace(short, length=300)) == 0 and refusing.excess(replace(short, length=301)) == 1


def test_the_middle_is_cut():
    assert cut_middle(range(10), 5) == ([0, 1, 2], [8, 9]) and cut_middle(range(3), 9) == ([0, 1], [2])
    assert cut_middle(range(4), 0) == ([], [])


def test_one_run_of_three_readers_twice_gives_the_same_to_the_letter(tokenizer, tmp_path):
    asked = [sample(index, 40) for index in range(4)]

    def run(out):
        readers = make_model_systems(["full", "hybrid", "sink-window"], make_model(), tokenizer, "refuse")
        evaluate(asked, readers, out, suite="scripted", settings={}, batch_size=2, say=lambda text: None)
        return [line.split('"read_tokens"')[0] for line in (out / "predictions.jsonl").read_text().splitlines()]

    assert run(tmp_path / "one") == run(tmp_path / "two")


def test_unknown_readers_and_families(tokenizer):
    with pytest.raises(UsageError, match="no system 'fast' of whole texts"):
        make_model_systems(["fast"], make_model(), tokenizer, "refuse")
    with pytest.raises(UsageError, match="cannot become hybrid"):
        make_model_systems(["hybrid"], make_model("gemma"), tokenizer, "refuse")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_memory_is_what_was_allocated(tokenizer):
    model = make_model().cuda()
    (said,) = ModelSystem("full", model, tokenizer).answer([sample()])
    assert sum(p.nbytes for p in model.parameters()) < said.peak_bytes < 2**30
