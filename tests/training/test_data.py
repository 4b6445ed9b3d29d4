"""Samples: the right ids and labels, shared out over processes, from the exact place on."""

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches

from longreach.errors import UsageError
from longreach.training.extend.data import Data, Samples, only
from longreach.training.extend.order import Mix

MIX = Mix(length=64, capacity=128, long_tokens=40, seed=1)


@pytest.fixture
def data(texts, tokenizer, tmp_path):
    return Data.make([texts], tokenizer, MIX, held_out=2, cache=tmp_path / "cache")


def test_labels_are_the_ids_that_something_predicts(data):
    samples = Samples(data, 10, positions=True)
    assert len(samples) == 10
    for index in range(10):
        sample, pieces = samples[index], data.order[index]
        assert sample["input_ids"].shape == sample["labels"].shape == sample["position_ids"].shape
        for row, piece in enumerate(pieces):
            ids = data.sources[0].read(piece.start, piece.start + piece.tokens)
            assert np.array_equal(sample["input_ids"][row, : piece.tokens], ids)
            wanted = torch.full_like(sample["labels"][row], -100)
            wanted[1 : piece.tokens] = torch.from_numpy(ids[1:])
            assert torch.equal(sample["labels"][row], wanted)
            assert torch.equal(sample["position_ids"][row], torch.arange(len(wanted)))
    assert "position_ids" not in Samples(data, 1)[0]


def loader(data, ranks, rank, count=24):
    plain = torch.utils.data.DataLoader(Samples(data, count), batch_size=1, collate_fn=only)
    return prepare_data_loader(plain, num_processes=ranks, process_index=rank, put_on_device=False)


def test_processes_share_the_samples_and_go_on_at_the_exact_one(data):
    alone = [sample["input_ids"] for sample in loader(data, 1, 0)]
    shared = [[sample["input_ids"] for sample in loader(data, 2, rank)] for rank in range(2)]
    together = [sample for pair in zip(*shared, strict=True) for sample in pair]
    assert len(alone) == len(together) == 24
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    for rank in range(2):
        rest = [sample["input_ids"] for sample in skip_first_batches(loader(data, 2, rank), 5)]
        assert len(rest) == 7 and all(torch.equal(a, b) for a, b in zip(rest, shared[rank][5:], strict=True))


def test_held_out_documents_are_the_longest_and_not_learned(data, tokenizer):
    rows = [row.tolist() for row in data.held_out]
    lengths = sorted(np.minimum(data.sources[0].lengths, 64))
    assert sorted(map(len, rows)) == lengths[-2:]
    learned = {tuple(data.sources[0].read(p.start, p.start + p.tokens)) for i in range(60) for p in data.order[i]}
    assert not learned & {tuple(row) for row in rows}


def test_other_data_for_testing(data, texts, tokenizer, tmp_path):
    (tmp_path / "test.txt").write_text("the queen of hearts")
    made = Data.make([texts], tokenizer, MIX, evaluation=[tmp_path / "test.txt"], cache=tmp_path / "cache")
    (row,) = made.held_out
    assert tokenizer.decode(row[:-1]) == "the queen of hearts"
    assert made.order.pieces > data.order.pieces and made.keys["evaluation"] and not data.keys["evaluation"]


def test_few_documents_are_not_taken_away_for_testing(tokenizer, tmp_path):
    (tmp_path / "one.txt").write_text("alice " * 30)
    said = []
    made = Data.make([tmp_path / "one.txt"], tokenizer, MIX, held_out=1, cache=tmp_path / "cache", note=said.append)
    assert made.held_out == [] and made.order.rectangles() >= 1
    assert said[-1] == (
        "No document is held out for testing: there is 1 document in all; give others with --evaluation."
    )


@pytest.mark.parametrize("documents, asked, kept", [(2, 1, 1), (2, 8, 1), (3, 1, 1), (8, 2, 2), (8, 3, 2), (2, 0, 0)])
def test_one_of_few_documents_is_held_out(tokenizer, tmp_path, documents, asked, kept):
    for number in range(documents):
        (tmp_path / f"{number}.txt").write_text("alice " * 30)
    said = []
    made = Data.make([tmp_path], tokenizer, MIX, held_out=asked, cache=tmp_path / "cache", note=said.append)
    assert len(made.held_out) == kept and made.order.rectangles() >= 1
    wanted = f"{kept} document{'s' * (kept > 1)} held out for testing, not {asked}: never more than a quarter of "
    told = [line for line in said if "held out" in line]
    assert told == ([f"{wanted}{documents} documents in all."] if kept < asked else [])


def test_a_share_of_the_documents_is_held_out(tokenizer, tmp_path):
    for number in range(12):
        (tmp_path / f"{number}.txt").write_text("alice " * 30)
    made = Data.make([tmp_path], tokenizer, MIX, held_out=0.2, cache=tmp_path / "cache")
    assert len(made.held_out) == 2
    tests = Data.make([tmp_path], tokenizer, MIX, held_out=0.5, evaluation=[tmp_path], cache=tmp_path / "cache")
    assert len(tests.held_out) == 6


def test_no_data_is_refused(tokenizer, tmp_path):
    with pytest.raises(UsageError, match="at least one file"):
        Data.make([], tokenizer, MIX, cache=tmp_path)
    with pytest.raises(UsageError, match="held out"):
        Data.make([tmp_path], tokenizer, MIX, held_out=-1, cache=tmp_path)
