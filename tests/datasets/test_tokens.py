"""Token files: exact, made once, and whole whatever interrupts their making."""

import json

import numpy as np
import pytest

from longreach.datasets import tokens
from longreach.datasets.sources import Source, find
from longreach.errors import DocumentError
from tests.conftest import make_tokenizer
from tests.training.conftest import make_texts

TEXTS = ["", *make_texts(40, seed=1), "  \n", "日本語 👩‍🚀"]


def source_of(texts, digest="d", fail_after=None, seen=None):
    def iterate(note):
        for number, text in enumerate(texts):
            if number == fail_after:
                raise KeyboardInterrupt
            if seen is not None:
                seen.append(number)
            yield text

    return Source("here", digest, iterate)


def quiet(text):
    pass


def make(source, tokenizer, cache):
    return tokens.tokenize(source, tokenizer, cache, quiet)


def same(a, b):
    return np.array_equal(a.ids, b.ids) and np.array_equal(a.offsets, b.offsets)


def test_documents_come_back_with_their_end(tokenizer, tmp_path):
    made = make(source_of(TEXTS), tokenizer, tmp_path)
    with_words = [text for text in TEXTS if text.strip()]
    assert len(made.lengths) == len(with_words) and made.ids.dtype == np.uint16
    for number, text in enumerate(with_words):
        ids = made.document(number).tolist()
        assert ids[-1] == tokenizer.eos_token_id and tokenizer.decode(ids[:-1]) == text
        assert made.document(number, 3).tolist() == ids[:3]


def test_they_are_made_once(tokenizer, tmp_path):
    seen = []
    first = make(source_of(TEXTS, seen=seen), tokenizer, tmp_path)
    assert len(seen) == len(TEXTS)
    assert same(first, make(source_of(TEXTS, fail_after=0), tokenizer, tmp_path))


def test_another_content_or_tokenizer_has_files_of_its_own(tokenizer, tmp_path):
    other = make_tokenizer()
    other.add_tokens(["alice"])
    keys = {
        make(source_of(TEXTS), tokenizer, tmp_path).key,
        make(source_of(TEXTS, digest="e"), tokenizer, tmp_path).key,
        make(source_of(TEXTS), other, tmp_path).key,
    }
    assert len(keys) == 3


@pytest.mark.parametrize("fail_after", [1, 17, 42])
def test_what_was_interrupted_goes_on(tokenizer, tmp_path, monkeypatch, fail_after):
    monkeypatch.setattr(tokens, "NOTE_EVERY_TOKENS", 1)
    monkeypatch.setattr(tokens, "_BATCH_TEXTS", 4)
    whole = make(source_of(TEXTS), tokenizer, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        make(source_of(TEXTS, fail_after=fail_after), tokenizer, tmp_path)
    assert not (tmp_path / whole.key).exists()
    aside = tmp_path / f".{whole.key}.partial"
    for name in ("tokens.bin", "lengths.bin"):  # what a process that was killed had begun to write
        with (aside / name).open("ab") as file:
            file.write(b"\x01\x02\x03")
    done = json.loads((aside / "progress.json").read_bytes())["texts"] if fail_after > 4 else 0
    assert done == fail_after // 4 * 4
    assert same(whole, make(source_of(TEXTS), tokenizer, tmp_path))


def test_it_goes_on_and_not_anew(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "NOTE_EVERY_TOKENS", 1)
    monkeypatch.setattr(tokens, "_BATCH_TEXTS", 4)
    with pytest.raises(KeyboardInterrupt):
        make(source_of(TEXTS, fail_after=21), tokenizer, tmp_path)

    class Watched:
        texts = 0

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __len__(self):
            return len(tokenizer)

        def __call__(self, given, **options):
            self.texts += len(given) if isinstance(given, list) else 0
            return tokenizer(given, **options)

    watched = Watched()
    make(source_of(TEXTS), watched, tmp_path)
    assert watched.texts == len(TEXTS) - 20


def test_a_damaged_folder_is_made_anew(tokenizer, tmp_path):
    first = make(source_of(TEXTS), tokenizer, tmp_path)
    ids = np.array(first.ids)
    for name, damage in (("tokens.bin", b"12"), ("index.json", b"{"), ("lengths.bin", b"")):
        (tmp_path / first.key / name).write_bytes(damage)
        assert np.array_equal(make(source_of(TEXTS), tokenizer, tmp_path).ids, ids)


def test_no_text_at_all_is_refused(tokenizer, tmp_path):
    with pytest.raises(DocumentError, match="holds no text"):
        make(source_of(["", " "]), tokenizer, tmp_path)
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(DocumentError, match=r"a\.jsonl holds no text"):
        make(find(tmp_path / "a.jsonl"), tokenizer, tmp_path)
