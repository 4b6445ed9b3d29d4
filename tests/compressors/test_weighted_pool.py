import json
import math
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longreach import Corpus, Document, MeanPool, Policy, Reader, WeightedPool
from longreach.compressors.registry import make_compressor
from longreach.compressors.weighted_pool.compressor import shared, write_pool
from longreach.errors import ModelError, UsageError
from longreach.models.decoder import length_of_embeddings, note_base
from longreach.models.fingerprint import base_fingerprint
from longreach.session import open_or_create, open_workspace
from longreach.training.common.adapter import add_lora
from longreach.training.study.study import study
from tests.compressors.test_autocompressor import random_ids
from tests.conftest import make_model, make_tokenizer
from tests.training import studied


@pytest.fixture
def folder(tmp_path):
    """A weighted pool with a reader that is not nothing."""
    model, tokenizer = make_model(), make_tokenizer()
    torch.manual_seed(1)
    fingerprint = base_fingerprint(model, tokenizer)
    chosen = {"ratio": 4, "segment_tokens": 20}
    reader = write_pool(tmp_path / "pool", torch.randn(260), chosen, str(tmp_path / "base"), fingerprint)
    adapted = add_lora(make_model(), 3, alpha=5)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(reader)
    note_base(reader, fingerprint, "")
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "pool"


def test_vectors_equal_a_plain_computation(model, tokenizer):
    ids, loudness = random_ids(23), torch.randn(260)
    (got,) = WeightedPool(model, tokenizer, 4, segment_tokens=10, token_loudness=loudness).compress([ids])
    embed, wanted = model.get_input_embeddings().weight.detach(), []
    for segment, count in ((ids[:10], 3), (ids[10:20], 3), (ids[20:], 1)):
        masses = [math.exp(loudness[token] / 2) for token in segment]
        groups, heard = [[] for _ in range(count)], 0.0
        last = 0
        for place, (token, mass) in enumerate(zip(segment, masses, strict=True)):
            into = int((heard + mass / 2) / sum(masses) * count)
            last = max(min(into, last + 1 if place else 0), count - len(segment) + place)
            groups[last].append(token)
            heard += mass
        for group in groups:
            total = sum(loudness[token].exp() * embed[token] for token in group)
            wanted.append(total / total.norm() * length_of_embeddings(model))
    torch.testing.assert_close(got, torch.stack(wanted), atol=1e-5, rtol=1e-4)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-40, 40), min_size=1, max_size=60), st.data())
def test_every_token_has_a_vector_and_every_vector_a_token(loudness, data):
    count = data.draw(st.integers(1, len(loudness)))
    bins = shared(torch.tensor(loudness), count).tolist()
    assert bins == sorted(bins) and set(bins) == set(range(count))


def test_telling_words_share_a_vector_with_few():
    assert shared(torch.tensor([0.0, 0, 0, 0, 0, 0, 6, 6]), 3).tolist() == [0, 0, 0, 0, 0, 0, 1, 2]
    assert shared(torch.zeros(6), 3).tolist() == [0, 0, 1, 1, 2, 2]


def test_where_all_are_alike_it_points_where_mean_pooling_does(model, tokenizer):
    ids = random_ids(40)
    (got,) = WeightedPool(model, tokenizer, 5, segment_tokens=20).compress([ids])
    (mean,) = MeanPool(model, tokenizer, 5, segment_tokens=20, layer=0).compress([ids])
    assert torch.nn.functional.cosine_similarity(got, mean).min() > 0.9999


def test_the_loudest_token_is_heard(model, tokenizer):
    loudness = torch.zeros(260)
    loudness[70] = 30.0
    (got,) = WeightedPool(model, tokenizer, 4, token_loudness=loudness).compress([[65, 66, 70, 67]])
    own = model.get_input_embeddings().weight[70]
    assert torch.nn.functional.cosine_similarity(got[0], own, dim=0) > 0.9999


def test_it_says_how_many_vectors_there_will_be(model, tokenizer):
    pool = WeightedPool(model, tokenizer, 7, segment_tokens=20)
    for count in (0, 1, 7, 8, 20, 21, 55):
        assert len(pool.compress([random_ids(count)])[0]) == sum(pool.vectors_in(len(s)) for s in pool.segments(count))


@pytest.mark.parametrize(
    "wrong", [{"ratio": 0}, {"ratio": 30, "segment_tokens": 20}, {"token_loudness": torch.zeros(3)}]
)
def test_refuses_settings_out_of_range(model, tokenizer, wrong):
    with pytest.raises(UsageError, match=r"must lie between|one a token"):
        WeightedPool(model, tokenizer, **wrong)


def test_what_was_learned_is_part_of_its_name(model, tokenizer):
    one, other = (WeightedPool(model, tokenizer, 4, token_loudness=torch.full((260,), x)) for x in (0.0, 1.0))
    assert one.fingerprint != other.fingerprint


def test_a_folder_is_loaded_at_any_ratio(folder):
    model, tokenizer = make_model(), make_tokenizer()
    pool = make_compressor(str(folder), model, tokenizer, ratio=10)
    assert isinstance(pool, WeightedPool) and (pool.ratio, pool.segment_tokens) == (10, 20)
    assert pool.token_loudness.std() > 0.5 and pool.reader == folder / "reader"
    assert WeightedPool.from_pretrained(folder).ratio == 4  # and the model it names
    with pytest.raises(ModelError, match="another model"):
        WeightedPool.from_pretrained(folder, make_model(seed=1), tokenizer)
    with pytest.raises(UsageError, match="has no option summary_tokens: it has ratio, segment_tokens"):
        make_compressor(str(folder), model, tokenizer, summary_tokens=3)
    (folder / "reader" / "adapter_model.safetensors").rename(folder / "away")
    with pytest.raises(ModelError, match="reader' lacks its adapter"):
        WeightedPool.from_pretrained(folder, model, tokenizer)
    (folder / "away").rename(folder / "reader" / "adapter_model.safetensors")
    stored = json.loads((folder / "compressor.json").read_text())
    (folder / "compressor.json").write_text(json.dumps(stored | {"ratio": None}))
    with pytest.raises(ModelError, match=r"compressor\.json' lacks ratio"):
        WeightedPool.from_pretrained(folder, model, tokenizer)
    (folder / "compressor.json").write_text(json.dumps(stored))
    (folder / "compressor.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="cannot be read"):
        WeightedPool.from_pretrained(folder, model, tokenizer)
    with pytest.raises(ModelError, match="holds no weighted-pool"):
        WeightedPool.from_pretrained(folder / "reader", model, tokenizer)


def test_a_corpus_is_read_without_the_compressors_folder_and_says_what_it_needs_to_grow(folder, tmp_path):
    pool = WeightedPool.from_pretrained(folder, make_model(), make_tokenizer())
    base = json.loads((folder / "compressor.json").read_text())["model"]
    nameless = Corpus.create(tmp_path / "store", "c", pool, model_ref=base, compressor_ref="")
    nameless.add([Document("d", "The sky is blue. " * 9)])
    with pytest.raises(UsageError, match=r"does not say which: name it with --compressor"):
        open_or_create(tmp_path / "store", "c")
    grown = open_or_create(tmp_path / "store", "c", compressor_ref=str(folder)).corpus
    assert grown.add([Document("e", "The sea is deep. " * 9)]).added == ["e"]
    named = open_or_create(tmp_path / "store", "named", compressor_ref=str(folder)).corpus
    named.add([Document("d", "It is blue. " * 9)])
    shutil.rmtree(folder)
    for name in ("c", "named"):
        opened = open_workspace(tmp_path / "store", name, compressing=False)
        assert Reader(opened.corpus, opened.model, opened.tokenizer).ask("What is blue?").text is not None
    with pytest.raises(UsageError, match="There is no compressor"):
        open_or_create(tmp_path / "store", "named")


def test_a_corpus_takes_the_reader_along_and_study_goes_on_from_it(folder, tmp_path):
    made = open_or_create(tmp_path / "store", "c", compressor_ref=str(folder), ratio=5)
    made.corpus.add([Document(name, f"The {name} is {answer}. " * 5) for name, answer in studied.ANSWERS.items()])
    corpus = open_workspace(tmp_path / "store", "c").corpus
    assert corpus.adapter_path == corpus.path / "reader" and corpus.verify().ok
    with_it = Reader(corpus, make_model(), make_tokenizer())
    assert with_it.adapter is not None
    kept = (corpus.path / "reader" / "adapter_model.safetensors").read_bytes()
    begun = study(corpus, make_model(), make_tokenizer(), studied.QUESTIONS, studied.settings(1, learning_rate=1e-9))
    assert corpus.adapter_path == corpus.path / "adapter" == begun.adapter and corpus.verify().ok
    config = json.loads((begun.adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 5)
    texts = []
    for path, policy in ((None, Policy()), (corpus.path / "reader", Policy()), (None, Policy(adapter=False))):
        texts.append(Reader(corpus, make_model(), make_tokenizer(), path).ask("How is it?", policy=policy).text)
    assert texts[0] == texts[1] != texts[2]
    study(corpus, make_model(), make_tokenizer(), studied.QUESTIONS, studied.settings(2))
    assert (corpus.path / "reader" / "adapter_model.safetensors").read_bytes() == kept
