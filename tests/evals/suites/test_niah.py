"""The needle's samples: every length, every depth, one needle each."""

import re

import pytest

from longreach.errors import ContextError, UsageError
from longreach.evals.scores.metrics import METRICS
from longreach.evals.suites.niah import samples as niah
from tests.evals.samples import guess, left, oracle, prose

LENGTHS = (1000, 3000)


@pytest.fixture(scope="module")
def haystack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("niah")
    (folder / "a.txt").write_text(prose(300), encoding="utf-8")
    (folder / "b.txt").write_text(prose(2000, seed=1), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def made(haystack, tokenizer):
    return list(niah.generate(tokenizer, LENGTHS, samples=2, tasks=niah.TASKS, haystack=haystack))


def test_the_grid_is_whole(made):
    cells = [(sample.task, sample.length, sample.tags["depth"]) for sample in made]
    depths = [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert cells == [(t, n, d) for t in niah.TASKS for n in LENGTHS for d in depths for _ in range(2)]
    assert len({sample.id for sample in made}) == len(made)


def test_answers_lie_in_the_context_and_prompts_fill_their_length(made, tokenizer):
    for sample in made:
        assert all(answer in sample.context for answer in sample.answers)
        assert 0 <= left(sample, tokenizer) < 10
        assert METRICS[sample.metric](oracle(sample), sample) == 1
    assert sum(METRICS[sample.metric](guess(sample), sample) for sample in made) / len(made) < 0.05


def test_the_needle_stands_where_its_depth_says_between_sentences(made):
    for sample in made:
        at = sample.context.index("The special magic" if sample.task == "niah" else "The best thing")
        needle = re.match(
            r"The (special magic \w+ number is: \d{7}|best thing to .* on a sunny day)\.", sample.context[at:]
        )[0]
        reached = at / (len(sample.context) - len(needle))
        wanted = sample.tags["depth"] / 100
        assert wanted - 100 / sample.length <= reached <= wanted + 2 / sample.length, sample.id
        assert at == 0 or sample.context[at - 2 : at] == ". " or sample.tags["depth"] == 100
        assert (at == 0) == (sample.tags["depth"] == 0)
        assert sample.context.endswith(needle) == (sample.tags["depth"] == 100)


def test_every_needle_is_its_own_unless_it_is_the_original(made):
    numbers = [sample.answers[0] for sample in made if sample.task == "niah"]
    assert len(set(numbers)) == len(numbers) and len({s.question for s in made}) > 10
    original = next(sample for sample in made if sample.task == "niah_original")
    assert original.question == "What is the best thing to do in San Francisco?"
    assert METRICS["all"]("Eat a sandwich and sit in Dolores Park on a sunny day.", original) == 1
    assert METRICS["all"]("Sit in dolores park.", original) == pytest.approx(1 / 3)


def test_a_sample_depends_on_seed_task_length_depth_and_index_alone(made, haystack, tokenizer):
    some = list(niah.generate(tokenizer, LENGTHS[1:], depths=6, samples=1, haystack=haystack))
    assert [s.tags["depth"] for s in some] == [0, 20, 40, 60, 80, 100]
    assert all(sample in made for sample in some)
    others = list(niah.generate(tokenizer, LENGTHS[1:], depths=6, seed=7, haystack=haystack))
    assert [s.id for s in others] == [s.id for s in some]
    assert not {s.answers for s in others} & {s.answers for s in some}


@pytest.mark.parametrize(
    "settings, error, words",
    [
        ({"tasks": ["needle"]}, UsageError, "NIAH has no task 'needle': its tasks are niah, niah_original"),
        ({"depths": 1}, UsageError, "two depths"),
        ({"lengths": []}, UsageError, "one length"),
        ({"lengths": [20_000]}, UsageError, "is shorter than the length: its"),
        ({"lengths": [60]}, ContextError, "ask for a greater length"),
    ],
)
def test_what_cannot_be_made_is_refused(haystack, tokenizer, settings, error, words):
    with pytest.raises(error, match=words):
        list(niah.generate(tokenizer, **({"lengths": LENGTHS, "haystack": haystack} | settings)))


def test_a_haystack_is_named_when_it_is_too_short(tokenizer, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text(prose(50), encoding="utf-8")
    with pytest.raises(UsageError, match=r"short\.txt' is shorter than the length"):
        list(niah.generate(tokenizer, [1000], haystack=path))
