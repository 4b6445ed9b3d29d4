"""What a run learns, sample by sample."""

import numpy as np
import pytest
import torch

from longreach.training.extend.curriculum import Stage
from longreach.training.extend.data import Data, Samples
from longreach.training.extend.schedule import Reach, Schedule, ScheduledSamples
from longreach.training.extend.settings import ExtendSettings

ASKING = {
    "length": 1024,
    "steps": 8,
    "asks": 0.5,
    "lengths": (Stage(512, 0.5), Stage(1024, 0.5)),
    "windows": (64, 128),
    "long_tokens": 64,
    "seed": 3,
}
REACH = Reach(256, 32)


@pytest.fixture
def make(tmp_path, tokenizer):
    folder = tmp_path / "long"
    folder.mkdir()
    for number in range(6):
        text = f"The hare ran to hill {number}. It sat down! Nobody came. " * 60
        (folder / f"{number}.txt").write_text(text)

    def call(count=16, held_out=1, reach=REACH, **change):
        settings = ExtendSettings(**(ASKING | change))
        data = Data.make([folder], tokenizer, settings.mix, held_out=held_out, cache=tmp_path / "cache")
        return data, Schedule(data, settings, tokenizer, reach, count)

    return call


def test_rows_that_ask_learn_their_replies_and_nothing_else(make):
    _, schedule = make()
    samples = ScheduledSamples(schedule)
    assert len(samples) == 16
    asked = 0
    for index in range(16):
        sample = samples[index]
        length = 512 if index < 8 else 1024
        ids, labels = sample["input_ids"], sample["labels"]
        assert int(sample["asked"]) == schedule.is_asked(index)
        assert int(sample["window"]) in (64, 128)
        if not schedule.is_asked(index):
            assert ids.shape[1] <= length and (labels[:, 1:] == ids[:, 1:]).any()
            continue
        asked += 1
        assert ids.shape == (1024 // length, length)
        assert schedule.tokens(index) == schedule.slots(index) == 1024
        for row, made in zip(range(len(ids)), schedule.asked_rows(index), strict=True):
            wanted = torch.full((length,), -100)
            for reply in made.replies:
                assert reply.distance >= int(sample["window"])
                assert min(span.start for span in reply.evidence) >= REACH.sink
                wanted[slice(*reply.tokens)] = ids[row][slice(*reply.tokens)]
            assert torch.equal(labels[row], wanted)
    assert asked == 8


def test_a_sample_depends_on_its_number_alone(make):
    _, one = make()
    _, other = make()
    for index in (13, 2, 13, 0):
        first, second = ScheduledSamples(one)[index], ScheduledSamples(other)[index]
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_without_asking_it_is_the_order_of_documents(make):
    data, schedule = make(asks=0.0, lengths=(), windows=())
    plain = Samples(data, 16, positions=True)
    for index in range(16):
        sample = ScheduledSamples(schedule, positions=True)[index]
        assert int(sample.pop("window")) == 0 and int(sample.pop("asked")) == 0
        assert sample.keys() == plain[index].keys()
        assert all(torch.equal(value, plain[index][name]) for name, value in sample.items())
    assert schedule.epochs() == data.order.epoch_of(16)


def test_every_window_is_drawn(make):
    _, schedule = make(count=60)
    drawn = [schedule.window(index) for index in range(60)]
    assert 15 < drawn.count(64) < 45 and drawn.count(64) + drawn.count(128) == 60


def test_a_row_wider_than_the_window_of_a_model_hides_half_of_itself(make):
    _, schedule = make(windows=(), reach=Reach(4096, 32), asks=1.0)
    for index in range(4):
        for row in schedule.asked_rows(index):
            assert all(reply.distance >= 256 for reply in row.replies)


def test_tests_ask_with_other_words_over_held_out_text(make):
    data, schedule = make(lengths=())
    rows = schedule.test_rows()
    assert [row.window for row in rows[:4]] == [64, 128, 64, 128]
    again = make(lengths=())[1].test_rows()
    assert all(np.array_equal(a.row.ids, b.row.ids) for a, b in zip(rows, again, strict=True))
    learned = set()
    for index in filter(schedule.is_asked, range(16)):
        learned.update(row.ids.tobytes() for row in schedule.asked_rows(index))
    assert not learned & {test.row.ids.tobytes() for test in rows}
    assert make(asks=0.0)[1].test_rows() == []
    assert len(data.kept) == 1
