"""How far a trained compressor compresses, chosen when it is loaded: any prefix of its summary tokens."""

import pytest
import torch

from longreach import AutoCompressor, Document
from longreach.compressors.autocompressor.checkpoint import write_peft
from longreach.errors import FingerprintMismatch, ModelError, UsageError
from longreach.session import open_or_create, open_workspace
from tests.conftest import make_model, make_tokenizer

TEXT = Document("a", "The rabbit had a watch. " * 20)


def train(folder, seed=0, model_ref=""):
    """A PEFT folder as training writes it, 6 summary tokens at 24 tokens a segment."""
    from peft import LoraConfig, get_peft_model

    model, lora = make_model(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(seed)
    adapted = get_peft_model(model, lora)
    settings = {"method": "autocompressor", "summary_tokens": 6, "segment_tokens": 24, "mode": "accumulate"}
    fingerprint = AutoCompressor(make_model(), make_tokenizer()).model_fingerprint
    summary = torch.randn(6, 32)
    write_peft(folder, adapted, summary, settings, model_ref, fingerprint)
    return adapted.merge_and_unload(), summary


@pytest.fixture
def trained(tmp_path):
    train(tmp_path / "trained")
    return tmp_path / "trained"


def opened(folder, **settings):
    return AutoCompressor.from_pretrained(folder, make_model(), make_tokenizer(), **settings)


@pytest.mark.parametrize(
    "settings, k", [({}, 6), ({"ratio": 4}, 6), ({"ratio": 5}, 4), ({"ratio": 24}, 1), ({"ratio": 6.5}, 3)]
)
def test_a_ratio_takes_the_first_summary_tokens(tmp_path, settings, k):
    model, summary = train(tmp_path)
    compressor, ids = opened(tmp_path, **settings), list(range(60))
    wanted = AutoCompressor(model, make_tokenizer(), k, 24, embed_summary=summary[:k]).compress([ids])[0]
    assert compressor.summary_tokens == k
    torch.testing.assert_close(compressor.compress([ids])[0], wanted, rtol=0, atol=1e-5)


def test_other_segments_change_what_a_ratio_comes_to(trained):
    assert opened(trained, ratio=4, segment_tokens=20).describe() == {
        "method": "autocompressor",
        "summary_tokens": 5,
        "segment_tokens": 20,
        "mode": "accumulate",
    }
    assert opened(trained, summary_tokens=2, mode="replace").mode == "replace"


def test_each_number_of_vectors_has_its_own_fingerprint(trained):
    found = [opened(trained, summary_tokens=k).fingerprint for k in range(1, 7)]
    assert len({*found}) == 6
    assert opened(trained, ratio=12).fingerprint == found[1] and opened(trained).fingerprint == found[5]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"ratio": 3}, "trained with 6 summary tokens, and ratio 3 takes 8 .* ratio of 4 or more"),
        ({"summary_tokens": 7}, "summary_tokens 7 takes 7"),
        ({"ratio": 0}, "between 1 and the 24"),
        ({"ratio": 25}, "between 1 and the 24"),
        ({"ratio": 4, "summary_tokens": 6}, "give one of them"),
        ({"summary_tokens": 0}, "at least 1"),
        ({"segment_tokens": 5000}, "window of 2048"),
        ({"segment_tokens": 10, "mode": "forward"}, "accumulate"),
    ],
)
def test_refuses_what_was_not_trained_or_cannot_be(trained, settings, words):
    with pytest.raises(UsageError, match=words):
        opened(trained, **settings)


def test_refuses_a_base_model_it_was_not_trained_on(trained):
    with pytest.raises(ModelError, match="made for another model"):
        AutoCompressor.from_pretrained(trained, make_model(seed=4), make_tokenizer())


def test_merged_weights_have_one_name_in_every_dtype(tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        train(tmp_path / name, seed)
    exact, half = (
        opened(tmp_path / "one", merged=True),
        AutoCompressor.from_pretrained(
            tmp_path / "one", make_model().to(torch.bfloat16), make_tokenizer(), merged=True
        ),
    )
    assert exact.model_fingerprint == half.model_fingerprint and exact.fingerprint != half.fingerprint
    assert exact.model_fingerprint != opened(tmp_path / "two", merged=True).model_fingerprint
    assert exact.model_fingerprint != AutoCompressor(make_model(), make_tokenizer()).model_fingerprint
    assert opened(tmp_path / "one", merged=True).fingerprint == exact.fingerprint
    before = exact.model_fingerprint
    with torch.no_grad():
        exact.model.lm_head.weight.mul_(1.01)
    assert exact.model_fingerprint != before


@pytest.mark.slow
def test_a_corpus_keeps_its_ratio(tmp_path):
    base = tmp_path / "base"
    make_model().save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    train(tmp_path / "trained", model_ref=str(base))
    options = {"compressor_ref": str(tmp_path / "trained"), "device": "cpu"}
    store = tmp_path / "store"
    made = open_or_create(store, "c", ratio=8, **options)
    made.corpus.add(TEXT)

    assert made.corpus.settings.compressor["summary_tokens"] == 3
    for again in (open_workspace(store, "c"), open_or_create(store, "c", ratio=8), open_or_create(store, "c")):
        assert again.corpus.add(TEXT).unchanged == ["a"]
        assert again.corpus.compressor.summary_tokens == 3
    with pytest.raises(UsageError, match="made with summary_tokens 3"):
        open_or_create(store, "c", ratio=4, **options)
    with pytest.raises(FingerprintMismatch, match="other settings"):
        type(made.corpus).open(store, "c", opened(tmp_path / "trained", ratio=4))
    with pytest.raises(UsageError, match="ratio of 4 or more"):
        open_or_create(store, "d", ratio=2, **options)
