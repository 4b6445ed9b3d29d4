"""kvpress as a peer, by a stand-in for it: a process of its own, prompts like ours, what is said where it is not."""

import json
import os
import sys
from dataclasses import replace

import pytest

from longreach.errors import ContextError, MissingDependency, ModelError, UsageError
from longreach.evals.peers.kvpress import PYTHON, KvpressSystem
from longreach.evals.systems.models import ModelSystem
from longreach.models.loading.load import load
from tests.conftest import make_model, make_tokenizer
from tests.evals.systems.test_models import hybrid, sample

STAND_IN = '''
from contextlib import contextmanager

print("libraries print")

class SnapKVPress:
    """Drops the first keys and values of every layer, as many as the ratio says, when the context was read."""

    def __init__(self, compression_ratio):
        self.ratio = compression_ratio

    @contextmanager
    def __call__(self, model):
        def drop(module, args, kwargs, output):
            cache = kwargs["cache"] if "cache" in kwargs else kwargs["past_key_values"]
            layer = cache.layers[module.layer_idx]
            first = int(layer.keys.shape[2] * self.ratio)
            layer.keys, layer.values = layer.keys[:, :, first:], layer.values[:, :, first:]
            return output

        hooks = [layer.self_attn.register_forward_hook(drop, with_kwargs=True) for layer in model.model.layers]
        yield
        for hook in hooks:
            hook.remove()
'''


@pytest.fixture
def python(tmp_path):
    """The Python of an environment with the stand-in."""
    (tmp_path / "site" / "kvpress").mkdir(parents=True)
    (tmp_path / "site" / "kvpress" / "__init__.py").write_text(STAND_IN)
    return wrapper(tmp_path / "python", tmp_path / "site")


def wrapper(path, site):
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def loaded(tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return load(tmp_path / "model", device="cpu")


@pytest.mark.slow
def test_with_nothing_dropped_it_is_full_attention(loaded, python):
    asked = [sample(index, chat=bool(index)) for index in range(2)]
    reader = KvpressSystem("kvpress:SnapKVPress:0", *loaded, python=python)
    said, full = list(reader.answer(asked)), [next(ModelSystem("full", *loaded).answer([one])) for one in asked]
    reader.close()
    assert [one.text for one in said] == [one.text for one in full]
    assert [one.positions for one in said] == [one.positions for one in full]
    for one in said:
        assert one.new_tokens == 8 and 0 < one.first_token_seconds <= one.seconds and one.peak_bytes > 0
        assert one.kv_bytes == (one.positions + 7) * 2 * 3 * 2 * 8 * 4


@pytest.mark.slow
def test_what_is_dropped_is_gone_and_part_of_the_identity(loaded, python, monkeypatch):
    monkeypatch.setenv(PYTHON, python)
    half, default = (KvpressSystem(name, *loaded) for name in ("kvpress:SnapKVPress:0.5", "kvpress"))
    (said,) = half.answer([sample(words=50)])
    half.close()
    kept = said.kv_bytes / (2 * 3 * 2 * 8 * 4) - 7
    assert said.positions * 0.45 < kept < said.positions * 0.6
    assert (half.identity()["press"], half.identity()["ratio"]) == ("SnapKVPress", 0.5)
    assert (default.identity()["ratio"], default.identity()["kind"]) == (0.65, "kvpress")


def test_what_is_missing_or_cannot_be(loaded, python, tmp_path, monkeypatch):
    monkeypatch.delenv(PYTHON, raising=False)
    with pytest.raises(MissingDependency, match=r"pip install kvpress==.*\$LONGREACH_KVPRESS"):
        KvpressSystem("kvpress", *loaded)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "kvpress.py").write_text("import no_such_package")
    bare = wrapper(tmp_path / "bare", tmp_path / "empty")
    with pytest.raises(MissingDependency, match=r"has no kvpress \(No module named 'no_such_package'\): .*pip install"):
        next(KvpressSystem("kvpress", *loaded, python=bare).answer([sample()]))
    with pytest.raises(UsageError, match="no press 'FastPress': use one of SnapKVPress"):
        next(KvpressSystem("kvpress:FastPress", *loaded, python=python).answer([sample()]))
    for name, words in (
        ("kvpress:SnapKVPress:most", "does not exist"),
        ("kvpress:A:0.5:x", "does not exist"),
        ("kvpress:A:1", "ratio"),
    ):
        with pytest.raises(UsageError, match=words):
            KvpressSystem(name, *loaded, python=python)
    with pytest.raises(UsageError, match="reads stock models"):
        KvpressSystem("kvpress", hybrid(), loaded[1], python=python)
    (tmp_path / "site" / "kvpress" / "__init__.py").write_text("raise SystemExit(3)")
    with pytest.raises(ModelError, match="kvpress ended with code 3"):
        next(KvpressSystem("kvpress", *loaded, python=python).answer([sample()]))
    model, tokenizer = loaded
    model.config.max_position_embeddings = 50
    with pytest.raises(ContextError, match="window of 50"):
        next(KvpressSystem("kvpress", model, tokenizer, python=python).answer([sample()]))


@pytest.mark.skipif(PYTHON not in os.environ, reason="needs an environment with kvpress")
def test_the_real_one_with_nothing_dropped_is_full_attention(loaded):
    asked = replace(sample(words=60), chat=False)
    reader = KvpressSystem("kvpress:StreamingLLMPress:0", *loaded)
    (said,), (full,) = reader.answer([asked]), ModelSystem("full", *loaded).answer([asked])
    reader.close()
    assert said.text == full.text
    half = KvpressSystem("kvpress:StreamingLLMPress:0.5", *loaded)
    (less,) = half.answer([asked])
    half.close()
    assert less.kv_bytes < 0.7 * said.kv_bytes and json.dumps(half.identity())
