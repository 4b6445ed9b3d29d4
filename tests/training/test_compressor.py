"""The objective: what training sees is what compressing gives, and every loss is the one a plain computation gives."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longreach import AttentionPattern, AutoCompressor, convert
from longreach.compressors.autocompressor.objective import TextObjective, random_lengths
from longreach.compressors.autocompressor.recipe import AutoCompressorRecipe
from longreach.errors import ModelError, UsageError
from tests.conftest import FAMILIES, make_model, make_tokenizer

MODES = ("accumulate", "independent", "replace")
SMALL = {"segment_tokens": 10, "summary_tokens": 4, "min_summary_tokens": 1, "lora_rank": 2, "lora_dropout": 0.0}


def make_objective(model=None, *, trained=True, **changes):
    torch.manual_seed(11)
    objective = TextObjective(model or make_model(), make_tokenizer(), AutoCompressorRecipe(**(SMALL | changes)))
    if trained:  # as if: an adapter that does something, summary tokens that differ
        with torch.no_grad():
            objective.embed_summary.normal_()
            for name, parameter in objective.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.2)
    return objective.eval()


def batch(tokens, rows=2):
    ids = torch.randint(0, 256, (rows, tokens), generator=torch.Generator().manual_seed(3))
    return ids, torch.cat([ids[:, 1:], torch.full((rows, 1), -100)], dim=1)


def logits(objective, *parts):
    return objective.model(inputs_embeds=torch.cat(parts, dim=1)).logits


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 6), st.integers(2, 60), st.data())
def test_random_segments_hold_all_tokens_and_none_is_too_long(segments, mean, data):
    tokens, longest = segments * mean, data.draw(st.integers(mean, segments * mean))
    lengths = random_lengths(tokens, segments, longest, torch.Generator().manual_seed(mean))
    assert len(lengths) == segments and sum(lengths) == tokens
    assert min(lengths) >= 2 and max(lengths) <= longest


def test_every_cut_is_as_likely():
    generator = torch.Generator().manual_seed(0)
    seen = Counter(random_lengths(12, 2, 8, generator)[0] for _ in range(2000))
    assert set(seen) == {4, 5, 6, 7, 8} and min(seen.values()) > 330
    assert random_lengths(30, 3, 10, generator) == (10, 10, 10)
    with pytest.raises(UsageError, match="raise longest_segment"):
        random_lengths(31, 3, 10, generator)


def test_every_number_of_summary_tokens_is_drawn_and_a_draw_repeats():
    objective = make_objective(summary_tokens=9, min_summary_tokens=3)
    drawn = [objective.draw(torch.Generator().manual_seed(seed)) for seed in range(400)]
    counts = Counter(draw.summary_tokens for draw in drawn)
    assert set(counts) == set(range(3, 10)) and counts[3] > counts[9] > 20
    assert all(len(draw.lengths) == 2 and all(sum(part) == 20 for part in draw.lengths) for draw in drawn)
    assert objective.draw(torch.Generator().manual_seed(5)) == drawn[5]
    fixed = make_objective(min_summary_tokens=None)
    assert {fixed.draw(torch.Generator().manual_seed(seed)).summary_tokens for seed in range(20)} == {4}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [4, 3, 1])
def test_training_sees_the_vectors_that_compress_gives(tmp_path, mode, k):
    objective, (ids, labels) = make_objective(mode=mode), batch(40)
    objective.save(tmp_path, "")
    vectors = None
    with torch.no_grad():
        for substep in (0, 1):
            span = slice(20 * substep, 20 * substep + 20)
            vectors = objective(ids[:, span], labels[:, span], (10, 10), k, vectors).vectors
    compressor = AutoCompressor.from_pretrained(tmp_path, make_model(), make_tokenizer(), summary_tokens=k)
    assert compressor.describe() == {
        "method": "autocompressor",
        "summary_tokens": k,
        "segment_tokens": 10,
        "mode": mode,
    }
    for row, wanted in zip(vectors, compressor.compress(ids.tolist()), strict=True):
        assert row.shape == wanted.shape == (4 * k, 32)
        torch.testing.assert_close(row, wanted, rtol=0, atol=3e-5)  # merged weights are rounded once more
    untrained = AutoCompressor(make_model(), make_tokenizer(), k, 10, mode)
    assert (untrained.compress(ids.tolist())[0] - wanted).abs().max() > 1e-2


def test_a_hybrid_model_is_trained_as_it_is_read(tmp_path):
    pattern = AttentionPattern(block_size=4, sink_blocks=1, local_blocks=2)
    hybrid = lambda: convert(make_model(), pattern, [1], 2048)  # noqa: E731
    objective, (ids, labels) = make_objective(hybrid(), mode="independent"), batch(20)
    found = objective(ids, labels, (10, 10), 3)
    found.loss.backward()
    assert objective.embed_summary.grad.abs().sum() > 0
    objective.save(tmp_path, "")
    compressor = AutoCompressor.from_pretrained(tmp_path, hybrid(), make_tokenizer(), summary_tokens=3)
    wanted = torch.stack(compressor.compress(ids.tolist()))
    torch.testing.assert_close(found.vectors.detach(), wanted, rtol=0, atol=3e-5)
    with pytest.raises(ModelError, match="another model"):  # the same weights, read in full
        AutoCompressor.from_pretrained(tmp_path, make_model(), make_tokenizer())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_all_tokens_given_the_vectors(family):
    objective, (ids, labels) = make_objective(make_model(family), chunk_tokens=7), batch(20)
    embed = objective.model.get_input_embeddings()
    summary = objective.embed_summary[:3].expand(2, -1, -1)
    with torch.no_grad():
        found = objective(ids, labels, (8, 12), 3)
        first = logits(objective, embed(ids[:, :8]), summary)[:, :8]
        vectors = found.vectors[:, :3]
        second = logits(objective, vectors, embed(ids[:, 8:]), summary)[:, 3:15]
    wanted = torch.nn.functional.cross_entropy(
        torch.cat([first, second], dim=1)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    )
    torch.testing.assert_close(found.loss, wanted, rtol=1e-4, atol=1e-5)
    assert set(found.parts) == {"lm"}


@pytest.mark.parametrize("mode", MODES)
def test_what_a_segment_is_read_with(mode):
    """The third segment sees all vectors, those of the second only in mode 'replace'."""
    objective, (ids, labels) = make_objective(mode=mode, segments=3), batch(30)
    embed = objective.model.get_input_embeddings()
    with torch.no_grad():
        found = objective(ids, torch.where(torch.arange(30) < 20, -100, labels), (10, 10, 10), 2)
        before = found.vectors[:, 2:4] if mode == "replace" else found.vectors[:, :4]
        third = logits(objective, before, embed(ids[:, 20:]))[:, before.shape[1] : -1]
    wanted = torch.nn.functional.cross_entropy(third.flatten(0, 1), ids[:, 21:].flatten())
    torch.testing.assert_close(found.loss, wanted, rtol=1e-4, atol=1e-5)


def test_a_reconstruction_sees_nothing_but_the_vectors():
    objective, (ids, labels) = make_objective(reconstruction=0.5), batch(20)
    embed, total = objective.model.get_input_embeddings(), []
    with torch.no_grad():
        found = objective(ids, labels, (8, 12), 3)
        cue = embed(torch.full((2, 1), make_tokenizer().eos_token_id))
        for vectors, text in zip(found.vectors.split(3, dim=1), ids.split([8, 12], dim=1), strict=True):
            guessed = logits(objective, vectors, cue, embed(text[:, :-1]))[:, 3:]
            total.append(torch.nn.functional.cross_entropy(guessed.flatten(0, 1), text.flatten(), reduction="sum"))
    wanted = sum(total) / 40
    torch.testing.assert_close(found.parts["reconstruction"], wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.loss, found.parts["lm"] + 0.5 * wanted, rtol=1e-4, atol=1e-5)


def test_the_teacher_is_the_untouched_model_with_the_text_in_view():
    ids, labels = batch(20)
    objective, fresh = make_objective(distillation=2.0, top_k=5), make_objective(trained=False, distillation=1.0)
    with torch.no_grad():
        wanted = make_model()(ids).logits.log_softmax(-1).topk(5)
        teacher = objective.teach(ids)
        torch.testing.assert_close(teacher.log_probs, wanted.values, rtol=1e-4, atol=1e-4)
        assert torch.equal(teacher.ids, wanted.indices)
        found = objective(ids, labels, (8, 12), 3, None, teacher)
        torch.testing.assert_close(found.loss, found.parts["lm"] + 2 * found.parts["distillation"])
        taught = fresh.teach(ids)
        assert fresh(ids, labels, (20,), 2, None, taught).parts["distillation"].abs() <= 1e-5  # it sees the same
        assert fresh(ids, labels, (10, 10), 2, None, taught).parts["distillation"] > 1e-2  # vectors say nothing yet


def test_only_the_adapter_and_the_summary_tokens_drawn_are_trained():
    objective, (ids, labels) = make_objective(), batch(20)
    objective(ids, labels, (10, 10), 2).loss.backward()
    trained = {name for name, parameter in objective.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name == "embed_summary" for name in trained) and len(trained) == 1 + 3 * 4 * 2
    for name, parameter in objective.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
    rows = objective.embed_summary.grad.abs().sum(1)
    assert (rows[:2] > 0).all() and (rows[2:] == 0).all()


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"segment_tokens": 1}, "at least 2"),
        ({"segments": 1}, "at least 2"),
        ({"min_summary_tokens": 5}, "give 1 to 4"),
        ({"mode": "forward"}, "accumulate, independent, replace"),
        ({"reconstruction": -1.0}, "at least 0"),
        ({"distillation": float("nan")}, "at least 0"),
        ({"longest_segment": 9}, "raise it"),
        ({"lora_dropout": 1.0}, "below 1"),
        ({"segment_tokens": 2040}, "window of 2048"),
        ({"segment_tokens": 600, "mode": "replace", "distillation": 1.0}, "teacher"),
    ],
)
def test_refuses_settings_out_of_range(changes, word):
    with pytest.raises(UsageError, match=word):
        make_objective(**changes)


def test_no_input_leaves_the_window():
    model = make_model(max_position_embeddings=60)
    objective, seen = make_objective(model, segment_tokens=20), []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    assert objective.longest == 40  # of a substep of 40 tokens, 60 - 4 x 4 would fit
    ids, labels = batch(80)
    vectors = None
    with torch.no_grad():
        for lengths in ((2, 38), (2, 38)):
            vectors = objective(ids[:, :40], labels[:, :40], lengths, 4, vectors).vectors
    assert max(seen) <= 60
    assert make_objective(make_model(max_position_embeddings=40), segment_tokens=20).longest == 24


def test_refuses_models_it_cannot_train():
    from peft import LoraConfig

    adapted = make_model()
    adapted.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ModelError, match="merge or delete"):
        make_objective(adapted)
    import transformers

    config = transformers.GPT2Config(vocab_size=260, n_embd=32, n_layer=1, n_head=2, eos_token_id=256)
    with pytest.raises(ModelError, match="no q_proj"):
        make_objective(transformers.GPT2LMHeadModel(config))
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UsageError, match="no EOS"):
        TextObjective(make_model(), tokenizer, AutoCompressorRecipe(**SMALL))
