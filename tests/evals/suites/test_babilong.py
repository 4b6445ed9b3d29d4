"""BABILong's samples: facts in order among sentences, whatever told them; the score by hand."""

import random
import re

import pytest

from longreach.errors import ContextError, UsageError
from longreach.evals.run.sample import Sample
from longreach.evals.scores.metrics import METRICS
from longreach.evals.suites.babilong import samples as babilong
from longreach.evals.suites.babilong.babi import GIVERS, OBJECTS, read_stories, tell_story
from tests.evals.samples import guess, left, prose

LENGTH = 6000
BABI = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Daniel went back to the hallway.
5 Where is Daniel? \thallway\t4
1 Sandra travelled to the office.
2 Where is Sandra? \toffice\t1
"""


@pytest.fixture(scope="module")
def haystack(tmp_path_factory):
    path = tmp_path_factory.mktemp("babilong") / "prose.txt"
    path.write_text(prose(6000) + " So. Ha. " + prose(10, seed=2), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(haystack, tokenizer):
    return list(babilong.generate(tokenizer, LENGTH, samples=6, haystack=haystack))


def facts_in(context):
    """Sentences that are facts: the prose has none of their words."""
    return re.findall(r"[A-Z][a-z]+ [a-z ]*?\bthe (?:[a-z]+)[^.]*\.", context)


def test_prompts_fill_their_length_and_facts_keep_their_order(made, tokenizer):
    assert [sample.task for sample in made] == [task for task in babilong.TASKS for _ in range(6)]
    for sample in made:
        assert 0 <= left(sample, tokenizer) < 20, sample.id
        assert len(facts_in(sample.context)) == sample.tags["facts"], sample.id
        assert sample.before.endswith("\n\n<context>\n") and sample.before.count("<example>") in (2, 3)
        assert sample.after == f"\n</context>\n\nQuestion: {sample.question}"
        assert sample.answers[0] in sample.context and sample.max_new_tokens == 20
    spread = [sample.context.index(fact) / len(sample.context) for sample in made for fact in facts_in(sample.context)]
    assert min(spread) < 0.1 and max(spread) > 0.9
    assert len({sample.context[:40] for sample in made}) > 20  # the prose begins elsewhere


def test_short_sentences_are_left_out(haystack, tokenizer):
    assert " So. Ha. " in haystack.read_text(encoding="utf-8")
    whole = babilong.read_prose(haystack, tokenizer, LENGTH, sentence_tokens=10).text
    assert " So. " not in whole and len(whole) > 20_000


def answer(task, facts, question):
    """What follows from the facts, worked out apart from the simulator: by replaying them."""
    place, holder, journey, gifts = {}, {}, {}, []
    for fact in facts:
        words = fact.rstrip(".").split()
        if task == "qa4":
            gifts.append((words[1], words[3], words[6]))
        elif re.search(r"\b(to) the", fact):
            place[words[0]] = words[-1]
            for thing in (thing for thing in holder if holder[thing] == words[0]):
                journey[thing].append(words[-1])
        elif " to " in fact:
            holder[words[3]] = words[-1]
            gifts.append((words[0], words[3], words[-1]))
        else:
            thing = next(word for word in words if word in OBJECTS)
            if re.search(r"got|took|grabbed|picked", fact):
                holder[thing] = words[0]
                journey.setdefault(thing, [place[words[0]]])
            else:
                assert holder.pop(thing) == words[0]
    asked = question.rstrip("?").split()
    if task == "qa1":
        return place[asked[-1]]
    if task == "qa2":
        return journey[asked[-1]][-1]
    if task == "qa3":
        places = journey[asked[3]]
        return places[len(places) - 1 - places[::-1].index(asked[-1]) - 1]
    if task == "qa4":
        opposite = {"north": "south", "south": "north", "east": "west", "west": "east"}
        relations = {(side, far): near for near, side, far in gifts}
        relations |= {(opposite[side], near): far for near, side, far in gifts}
        if asked[-1] == "of":  # What is the B north of? It is south of the answer's other side.
            return relations[opposite[asked[4]], asked[3]]
        return relations[asked[2], asked[-1]]
    giver, thing, receiver = next(
        gift for gift in reversed(gifts) if all(name in gift for name in asked if name in (*GIVERS, *OBJECTS))
    )
    if asked[0] == "What":
        return thing
    return receiver if "received" in asked or "did" in asked else giver


@pytest.mark.parametrize("task", babilong.TASKS)
def test_made_up_stories_are_true(task):
    stories = [tell_story(task, random.Random(seed)) for seed in range(200)]
    for story in stories:
        assert answer(task, story.facts, story.question) == story.answer, story
        assert story.answer not in story.question
    assert len({story.answer for story in stories}) == (7 if task == "qa5" else 6)
    assert len({len(story.facts) for story in stories}) > (0 if task == "qa4" else 4)


def test_facts_in_the_prompt_answer_the_question(made):
    for sample in made:
        assert answer(sample.task, facts_in(sample.context), sample.question) == sample.answers[0], sample.id


def test_an_oracle_is_always_right_and_a_guess_hardly_ever(made):
    for sample in made:
        assert METRICS[sample.metric](f"It is the {sample.answers[0]}.", sample) == 1
    assert sum(METRICS[sample.metric](guess(sample), sample) for sample in made) / len(made) < 0.1


def test_a_sample_depends_on_seed_task_length_and_index_alone(made, haystack, tokenizer):
    alone = list(babilong.generate(tokenizer, LENGTH, samples=2, tasks=["qa3"], haystack=haystack))
    assert alone == [sample for sample in made if sample.task == "qa3"][:2]
    others = list(babilong.generate(tokenizer, LENGTH, samples=6, seed=1, haystack=haystack))
    assert [s.id for s in others] == [s.id for s in made]
    assert not {s.context for s in others} & {s.context for s in made}


@pytest.mark.parametrize(
    "text, score",
    [
        ("The most recent location of Mary is kitchen.", 1),
        ("KITCHEN", 1),
        ("Mary is in the kitchen. Before she was in the garden.", 1),  # the first sentence alone counts
        ("kitchen<context>garden", 1),
        ("kitchen or garden", 0),
        ("garden. kitchen", 0),
        ("in the hallway", 0),
        ("", 0),
    ],
)
def test_the_score_by_hand(text, score):
    sample = Sample("1", "babilong", "qa1", "", "", "", "Where is Mary?", ("kitchen",), "babilong", 20)
    assert METRICS["babilong"](text, sample) == score


def test_labels_of_the_question_do_not_count():
    sample = Sample("1", "babilong", "qa5", "", "", "", "Who did Mary give the apple to?", ("Fred",), "babilong", 20)
    assert METRICS["babilong"]("Mary gave the apple to Fred", sample) == 1
    assert METRICS["babilong"]("Mary gave the milk to Fred", sample) == 0


def test_babis_own_files_are_read(haystack, tokenizer, tmp_path):
    (tmp_path / "qa1_single-supporting-fact_test.txt").write_text(BABI, encoding="utf-8")
    stories = list(read_stories(tmp_path, "qa1"))
    assert [(len(story.facts), story.question, story.answer) for story in stories] == [
        (2, "Where is Mary?", "bathroom"),
        (3, "Where is Daniel?", "hallway"),
        (1, "Where is Sandra?", "office"),
    ]
    settings = {"tasks": ["qa1"], "haystack": haystack, "facts": tmp_path}
    samples = list(babilong.generate(tokenizer, LENGTH, samples=3, **settings))
    assert {sample.answers[0] for sample in samples} == {"bathroom", "hallway", "office"}
    assert all(answer("qa1", facts_in(s.context), s.question) == s.answers[0] for s in samples)
    with pytest.raises(UsageError, match="holds 3 questions"):
        babilong.generate(tokenizer, LENGTH, samples=4, **settings)
    with pytest.raises(UsageError, match=r"holds no file qa2_\*_test\.txt"):
        babilong.generate(tokenizer, LENGTH, samples=1, **(settings | {"tasks": ["qa2"]}))


@pytest.mark.parametrize("line", ["Where is Mary?", "2 Where is Mary? \tbathroom", "3", "3 Where?\t\t1"])
def test_a_malformed_line_is_named(tmp_path, line):
    (tmp_path / "qa1_test.txt").write_text(f"1 Mary moved to the bathroom.\n{line}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"Line 2 of '.*qa1_test\.txt'"):
        list(read_stories(tmp_path, "qa1"))


@pytest.mark.parametrize(
    "settings, error, words",
    [
        ({"tasks": ["qa6"]}, UsageError, "BABILong has no task 'qa6'"),
        ({"length": 60_000}, UsageError, "is shorter than the length"),
        ({"length": 800}, ContextError, "ask for a greater length"),
    ],
)
def test_what_cannot_be_made_is_refused(haystack, tokenizer, settings, error, words):
    with pytest.raises(error, match=words):
        list(babilong.generate(tokenizer, **({"length": LENGTH, "haystack": haystack} | settings)))
