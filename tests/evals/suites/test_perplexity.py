"""Perplexity by position on random models, against the model's own logits; resuming; what is refused."""

import json
import math
import random

import pytest
import torch
from torch.nn.functional import cross_entropy

from longreach.errors import ContextError, UsageError
from longreach.evals.suites.perplexity.measure import measure
from longreach.evals.suites.perplexity.texts import read_texts
from longreach.evals.systems.models import ModelSystem
from longreach.evals.systems.registry import make_model_systems
from longreach.models import perplexity as arithmetic
from longreach.models.hybrid.convert import convert
from longreach.pattern import AttentionPattern
from tests.conftest import make_model


@pytest.fixture
def held_out(tmp_path, tokenizer):
    (tmp_path / "data").mkdir()
    for n in range(3):
        chance = random.Random(n)
        (tmp_path / "data" / f"{n}.txt").write_text("".join(chance.choices("abcdefgh .", k=400 + 1000 * n)))
    said = []
    found = read_texts([tmp_path / "data"], tokenizer, 1300, say=said.append)
    assert said == ["Texts of fewer than 1,300 tokens are omitted: 1 of them."]
    return found


def test_no_more_texts_are_read_than_are_asked_for(held_out, tmp_path, tokenizer):
    read = []

    def reading(text, **options):
        read.append(len(text))
        return tokenizer(text, **options)

    assert read_texts([tmp_path / "data"], reading, 1300, samples=1, say=lambda text: None) == held_out[:1]
    assert read == [400, 1400]


def run(held_out, readers, out, **more):
    return measure(held_out, readers, out, settings={"length": 1300}, say=lambda text: None, **more)


def test_it_is_that_of_the_models_own_logits(held_out, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(arithmetic, "_FIRST_BUCKET", 300)
    pattern = AttentionPattern(block_size=16, sink_blocks=1, local_blocks=2, stride=0)
    hybrid = convert(make_model(), pattern, [1], 4096)
    readers = make_model_systems(["full", "hybrid", "sink-window"], hybrid, tokenizer, "refuse")
    rows = run(held_out, readers, tmp_path / "out")["rows"]
    assert rows == json.loads((tmp_path / "out" / "scores.json").read_text())["rows"]
    spans = [(0, 300), (300, 600), (600, 1200), (1200, 1300)]
    assert [(row["reader"], *row["bucket"]) for row in rows] == [(r.name, *span) for r in readers for span in spans]
    for reader in readers:
        losses = []
        for text in held_out:
            ids = torch.tensor(text.ids)
            with torch.no_grad():
                losses.append(cross_entropy(reader.model(ids[None]).logits[0, :-1], ids[1:], reduction="none"))
        for row in rows:
            if row["reader"] == reader.name:
                start, stop = row["bucket"]
                own = torch.cat([loss[max(0, start - 1) : stop - 1] for loss in losses])
                assert row["tokens"] == len(own) == 2 * (stop - max(start, 1))
                assert row["perplexity"] == pytest.approx(math.exp(own.double().mean()), rel=1e-5)
    last = {row["reader"]: row["perplexity"] for row in rows if row["bucket"] == [1200, 1300]}
    assert len({round(value, 3) for value in last.values()}) == 3


def test_lines_and_a_run_that_goes_on(held_out, tokenizer, tmp_path):
    readers = [ModelSystem("full", make_model(), tokenizer)]
    first = run(held_out, readers, tmp_path / "out")
    log = tmp_path / "out" / "predictions.jsonl"
    whole = log.read_text()
    line = json.loads(whole.splitlines()[0])
    assert set(line) == {"reader", "suite", "task", "id", "bucket", "tokens", "nll"}
    assert (line["suite"], line["task"], line["bucket"], line["tokens"]) == ("perplexity", "data#1", [0, 1024], 1023)
    log.write_text("".join(whole.splitlines(keepends=True)[:1]) + '{"reader": "fu')
    calls = []
    readers[0].model.model.register_forward_hook(lambda *_: calls.append(1))
    assert run(held_out, readers, tmp_path / "out") == first and log.read_text() == whole and calls
    calls.clear()
    assert run(held_out, readers, tmp_path / "out") == first and not calls
    with pytest.raises(UsageError, match="samples is 2 there and 1 here"):
        run(held_out[:1], readers, tmp_path / "out")


def test_what_cannot_be(held_out, tokenizer, tmp_path):
    model = make_model(max_position_embeddings=1200)
    with pytest.raises(ContextError, match=r"1,300 tokens are more than the model's window of 1,200"):
        run(held_out, [ModelSystem("full", model, tokenizer)], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run(held_out, [ModelSystem("full", model, tokenizer, too_long="read")], tmp_path / "out")["rows"]
    with pytest.raises(UsageError, match="None of the texts has 9,000 tokens"):
        read_texts([tmp_path / "data"], tokenizer, 9000, say=lambda text: None)
    with pytest.raises(UsageError, match="at least 2 tokens"):
        read_texts([tmp_path / "data"], tokenizer, 1)
    some = read_texts([tmp_path / "data"], tokenizer, 20, samples=2, say=lambda text: None)
    assert [text.name for text in some] == ["data#0", "data#1"]
    assert tokenizer.decode(some[0].ids) == (tmp_path / "data" / "0.txt").read_text()[:20]

    assert len(read_texts([tmp_path / "data"], tokenizer, 300, samples=2, say=lambda text: None)) == 2


def test_texts_of_one_name_and_readers_of_one_name(tokenizer, tmp_path):
    given = [tmp_path / name / "book.txt" for name in "ab"]
    for path, letter in zip(given, "xy", strict=True):
        path.parent.mkdir()
        path.write_text(letter * 60)
    found = read_texts(given, tokenizer, 50)
    assert [text.name for text in found] == ["book.txt#0", "book.txt (2)#0"]
    full = ModelSystem("full", make_model(), tokenizer)
    run(found, [full], tmp_path / "out")
    said = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [line["task"] for line in said] == [text.name for text in found] and said[0]["nll"] != said[1]["nll"]
    with pytest.raises(UsageError, match="Two systems are called 'full'"):
        run(found, [full, full], tmp_path / "other")
    with pytest.raises(UsageError, match=r"Two texts are called 'book\.txt#0'"):
        run([found[0], found[0]], [full], tmp_path / "other")
