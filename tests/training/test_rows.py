"""Rows of equally many tokens: documents cut whole, what is left joined, read from the disk."""

import random

import numpy as np
import pytest
import torch

from longreach import Document
from longreach.errors import DocumentError, UsageError
from longreach.training.pretrain import rows as module
from longreach.training.pretrain.rows import TokenRows
from tests.conftest import make_tokenizer

END = make_tokenizer().eos_token_id


def ids_of(rows):
    return [row["ids"].tolist() for row in rows]


def write(folder, texts):
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_text(text)
    return folder


def with_bos():
    """As Llama's: a BOS before every text, an EOS after none."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    template = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = template
    assert tokenizer("ab")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer


def by_lists(texts, tokenizer, length):
    """The definition, with lists."""
    rows, left = [], []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = len(ids) - len(ids) % length
        rows += [ids[start : start + length] for start in range(0, whole, length)]
        left += [*ids[whole:], END] if len(ids) > whole else []
    return rows + [left[start : start + length] for start in range(0, len(left) - length + 1, length)]


def test_documents_are_cut_whole_and_what_is_left_is_joined(tmp_path):
    tokenizer = make_tokenizer()
    found = TokenRows.make(
        [Document("a", "a" * 25), Document("b", "b" * 7), Document("c", "c" * 4)], tokenizer, 10, cache=tmp_path
    )
    a, b = (tokenizer(letter)["input_ids"][0] for letter in "ab")
    assert ids_of(found) == [[a] * 10, [a] * 10, [*[a] * 5, END, *[b] * 4]]
    assert found[0]["ids"].dtype == torch.long


@pytest.mark.parametrize("make", [make_tokenizer, with_bos])
@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_rows_are_those_of_the_definition(tmp_path, make, length):
    chance = random.Random(length)
    texts = ["".join(chance.choices("abcdef", k=chance.randrange(1, 5 * length))) for _ in range(40)]
    tokenizer = make()
    one, two = write(tmp_path / "one", texts[:25]), write(tmp_path / "two", texts[25:])
    found = TokenRows.make([one, two], tokenizer, length, cache=tmp_path / "cache")
    assert ids_of(found) == by_lists(texts, tokenizer, length)
    assert tokenizer.bos_token_id not in {token for row in ids_of(found) for token in row}
    with pytest.raises(IndexError):
        found[len(found)]


def test_rows_stay_on_the_disk(tmp_path):
    rows = TokenRows.make(
        [write(tmp_path / "texts", ["word " * 999] * 9)], make_tokenizer(), 50, cache=tmp_path / "cache"
    )
    (tokens,) = rows._sources
    assert isinstance(tokens.ids, np.memmap) and len(rows) > 800
    held = sum(each.nbytes for each in vars(rows).values() if isinstance(each, np.ndarray))
    assert held <= 16 * (len(rows) + 2 * 9)


def test_the_digest_names_texts_vocabulary_and_length(tmp_path):
    def digest(texts, name, length=5, tokenizer=None):
        folder = write(tmp_path / name, texts)
        return TokenRows.make([folder], tokenizer or make_tokenizer(), length, cache=tmp_path / "cache").digest

    wanted = digest(["some text"], "a")
    assert digest(["some text"], "b") == wanted
    others = {
        digest(["some tex"], "c"),
        digest(["some text"], "d", length=4),
        digest(["some text"], "e", tokenizer=with_bos()),
    }
    assert wanted not in others and len(others) == 3


def test_what_is_left_out_is_said_and_what_was_named_is_refused(tmp_path):
    folder, notes = write(tmp_path / "texts", ["d" * 30, " "]), []
    assert len(TokenRows.make([folder], make_tokenizer(), 10, cache=tmp_path / "cache", note=notes.append)) == 3
    assert [line for line in notes if "Omitted" in line and "001.txt" in line]
    with pytest.raises(DocumentError, match=r"001\.txt"):
        TokenRows.make([folder, folder / "001.txt"], make_tokenizer(), 10, cache=tmp_path / "cache")


def test_too_little_text_is_one_sentence(tmp_path):
    folder = write(tmp_path / "texts", ["abc", "de"])
    with pytest.raises(UsageError, match="holds 5 tokens and one sequence takes 8: give more text, or lower --segment"):
        TokenRows.make([folder], with_bos(), 8, cache=tmp_path / "cache")
    with pytest.raises(UsageError, match="no data"):
        TokenRows.make([], make_tokenizer(), 8)


def test_token_files_lie_in_the_cache_folder_unless_told(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "cache")
    assert TokenRows.make([write(tmp_path / "texts", ["abcdef"])], make_tokenizer(), 2)
    assert list((tmp_path / "cache" / "tokens").glob("*/tokens.bin"))
