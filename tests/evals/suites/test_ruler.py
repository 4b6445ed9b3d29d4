"""RULER's samples: what is asked lies in them, they fill their length, and a seed and an index decide them."""

import json
import random
import re
from collections import Counter

import pytest

from longreach.errors import ContextError, DocumentError, UsageError
from longreach.evals.scores.metrics import METRICS
from longreach.evals.suites.draw import count_tokens
from longreach.evals.suites.ruler import samples as ruler
from tests.evals.samples import guess, left, oracle, prose

LENGTH = 8192  # a byte is a token of the tests' tokenizer
NEEDLES = [task for task in ruler.TASKS if task.startswith("niah")]
UNIT = {"niah_single_1": 91, "niah_multikey_2": 110, "niah_multikey_3": 140, "vt": 91, "cwe": 70, "fwe": 60} | {
    task: 1200 for task in ruler.QUESTIONS
}  # the most that one more piece of haystack takes; of prose a word


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Prose, and question files in the published forms."""
    folder = tmp_path_factory.mktemp("ruler")
    chance = random.Random(1)
    (folder / "prose.txt").write_text(prose(20_000), encoding="utf-8")

    def paragraph(name):
        return f"{name} lives in {prose(chance.randrange(40, 160), chance.random())}"

    articles = []
    for article in range(6):
        names = [f"Person {article}-{i}" for i in range(4)]
        paragraphs = [
            {
                "context": paragraph(name),
                "qas": [
                    {
                        "question": f"Who lives in {article}?",
                        "answers": [{"text": name, "answer_start": 0}],
                        "id": name,
                    },
                    {"question": "Nobody knows?", "answers": [], "is_impossible": True, "id": f"{name} unknown"},
                ],
            }
            for name in names
        ]
        articles.append({"title": str(article), "paragraphs": paragraphs})
    (folder / "squad.json").write_text(json.dumps({"version": "2.0", "data": articles}), encoding="utf-8")
    hotpot = [
        {
            "question": f"Which {i}?",
            "answer": f"Place {i}",
            "context": [[f"Title {i} {j}", [paragraph(f"Place {i}"), " And more."]] for j in range(3)],
        }
        for i in range(10)
    ]
    (folder / "hotpot.json").write_text(json.dumps(hotpot), encoding="utf-8")
    return folder


def generate(tokenizer, files, length=LENGTH, **settings):
    qa = {"qa_1": files / "squad.json", "qa_2": files / "hotpot.json"}
    return list(
        ruler.generate(tokenizer, length, haystack=files / "prose.txt", **({"qa": qa, "samples": 3} | settings))
    )


@pytest.fixture(scope="module")
def made(files, tokenizer):
    return generate(tokenizer, files)


def test_all_thirteen_tasks_answer_from_their_context_and_fill_their_length(made, tokenizer):
    assert len(ruler.TASKS) == 13 and Counter(sample.task for sample in made) == dict.fromkeys(ruler.TASKS, 3)
    assert len({sample.id for sample in made}) == len(made)
    for sample in made:
        assert sample.answers and all(answer in sample.context for answer in sample.answers), sample.id
        assert sample.length == LENGTH
        assert 0 <= left(sample, tokenizer) <= UNIT.get(sample.task, 20), (sample.id, left(sample, tokenizer))


def test_an_oracle_is_always_right_and_a_guess_hardly_ever(made):
    for sample in made:
        assert METRICS[sample.metric](oracle(sample), sample) == 1
    assert sum(METRICS[sample.metric](guess(sample), sample) for sample in made) / len(made) < 0.05


def test_a_sample_depends_on_seed_task_length_and_index_alone(made, files, tokenizer):
    assert generate(tokenizer, files) == made
    alone = generate(tokenizer, files, tasks=["cwe", "qa_2"], samples=2)
    assert alone == [s for s in made if s.task in ("cwe", "qa_2") and not s.id.endswith("-2")]
    others = generate(tokenizer, files, seed=43)
    assert [s.id for s in others] == [s.id for s in made]
    assert not {s.context for s in others} & {s.context for s in made}
    assert len({s.context for s in made}) == len(made)


@pytest.mark.parametrize("task", NEEDLES)
def test_needles_are_asked_for_by_keys_that_have_no_other_value(made, task):
    kind = "uuid" if task in ("niah_single_3", "niah_multikey_3") else "number"
    one = task not in ("niah_multivalue", "niah_multiquery")
    hidden = {"niah_multikey_1": 4, "niah_multivalue": 4, "niah_multiquery": 4}.get(task, 1)
    for sample in (s for s in made if s.task == task):
        needles = re.findall(rf"One of the special magic {kind}s for (.*?) is: (\S+)\.", sample.context)
        query = re.search(r"for (.*) mentioned", sample.question)[1]
        asked = query.replace(", and ", ", ").split(", ")
        assert len(asked) == (4 if task == "niah_multiquery" else 1) and len(sample.answers) == (1 if one else 4)
        assert sorted(value for key, value in needles if key in asked) == sorted(sample.answers)
        assert len(needles) > 40 if task in ("niah_multikey_2", "niah_multikey_3") else len(needles) == hidden
        assert sample.before.startswith(f"{'A' if one else 'Some'} special magic {kind}{'' if one else 's'} ")
        assert sample.after.endswith(f"for {query} mentioned in the provided text {'is' if one else 'are'}")
        assert sample.max_new_tokens == 128


def test_needles_stand_at_many_depths_of_the_prose(files, tokenizer):
    samples = generate(tokenizer, files, tasks=["niah_single_2"], samples=40)
    depths = [sample.context.index("One of the special") / len(sample.context) for sample in samples]
    assert min(depths) < 0.15 and max(depths) > 0.85 and len({round(depth, 1) for depth in depths}) > 6
    for sample in samples:  # before a sentence or at the end
        assert re.search(r"(^|[.] )One of the special", sample.context) or sample.context.endswith(
            f"{sample.answers[0]}."
        )


def test_variables_are_a_chain_behind_a_worked_example(made):
    for sample in (s for s in made if s.task == "vt"):
        value = re.search(r"assigned the value (\d+) in", sample.question)[1]
        names = [re.search(rf"VAR (\w+) = {value}\n", sample.context)[1]]
        while found := re.search(rf"VAR (\w+) = VAR {names[-1]} \n", sample.context):
            names.append(found[1])
        assert tuple(names) == sample.answers and len(names) == 5
        lines = sample.context.split("\n")
        places = [next(i for i, line in enumerate(lines) if line.startswith(f"VAR {name} ")) for name in names]
        assert places == sorted(places)
        example, shown = sample.before.split("they are:  ")
        answer = shown.split("\n\n")[0].split()
        assert len(answer) == 5 and all(f"VAR {name} = " in example for name in answer)
        assert not set(answer) & set(names) and value not in example
        assert sample.after.endswith(f"5 variables are assigned the value {value}, they are: ")


@pytest.mark.parametrize("length, often, seldom, shown", [(2048, 6, 1, (3, 1)), (LENGTH, 30, 3, (10, 3))])
def test_common_words_come_as_often_as_upstream_has_them(files, tokenizer, length, often, seldom, shown):
    for sample in generate(tokenizer, files, length, tasks=["cwe"]):
        counts = Counter(re.findall(r"\d+\. (.*?)(?= \d+\. |$)", sample.context))
        assert {word for word, count in counts.items() if count == often} == set(sample.answers)
        assert set(counts.values()) == {often, seldom} and len(sample.answers) == 10
        example, answer = sample.before.split("appear most often in the list are: ")
        words = Counter(re.findall(r"\d+\. (.*?)(?= \d+\. |\n|$)", example))
        answer = re.findall(r"\d+\. (.*?)(?= \d+\. |\n|$)", answer.split("\n")[0])
        assert set(words.values()) == set(shown) and {w for w in words if words[w] == shown[0]} == set(answer)


def test_coded_words_follow_the_zeta_distribution(made):
    for sample in (s for s in made if s.task == "fwe"):
        counts = Counter(sample.context.split()).most_common()
        assert counts[0][0] == "..." and {word for word, _ in counts[1:4]} == set(sample.answers)
        assert counts[3][1] > counts[4][1] and all(len(word) == 6 for word, _ in counts[1:])
        assert counts[0][1] / counts[1][1] == pytest.approx(4, rel=0.05)


def test_questions_stand_among_numbered_documents_those_of_their_article_first(made):
    for sample in (s for s in made if s.task in ruler.QUESTIONS):
        titles = re.findall(r"^Document (\d+):$", sample.context, re.MULTILINE)
        assert [int(title) for title in titles] == list(range(1, len(titles) + 1)) and len(titles) > 4
        assert sample.metric == "part" and sample.question.endswith("?") and sample.question != "Nobody knows?"
        assert sample.after.endswith(f"Question: {sample.question} Answer:")
    first = next(s for s in made if s.task == "qa_1")
    assert {f"Person 0-{i}" for i in range(4)} <= set(re.findall(r"Person \d-\d", first.context))


def test_where_all_english_words_fit_lists_are_made_of_compounds(files, tokenizer, monkeypatch):
    from longreach.evals.suites.ruler import lists

    few = lists.words()[:60]
    monkeypatch.setattr(lists, "words", lambda: few)
    (sample,) = generate(tokenizer, files, LENGTH * 2, tasks=["cwe"], samples=1)
    assert all("-" in answer for answer in sample.answers) and left(sample, tokenizer) < 120


def test_the_scores_of_answers(made):
    sample = next(s for s in made if s.task == "niah_multivalue")
    score = METRICS["all"]
    assert score(f"They are {sample.answers[0]} and {sample.answers[2]}", sample) == 0.5
    assert score("", sample) == 0
    sample = next(s for s in made if s.task == "qa_1")
    assert METRICS["part"](f"it is {sample.answers[0].upper()}.", sample) == 1


@pytest.mark.parametrize(
    "settings, error, words",
    [
        ({"tasks": ["niah_single_9"]}, UsageError, "RULER has no task 'niah_single_9'"),
        ({"tasks": []}, UsageError, "one task"),
        ({"samples": 0}, UsageError, "one sample"),
        ({"qa": {}, "tasks": ["qa_1"]}, UsageError, "qa_1 needs a file of questions: give SQuAD's JSON"),
        ({"qa": None, "tasks": ["vt", "qa_2"]}, UsageError, "qa_2 needs a file of questions: give HotpotQA's JSON"),
        ({"samples": 99, "tasks": ["qa_2"]}, UsageError, "holds 10 questions"),
        ({"length": 100_000, "tasks": ["qa_1"]}, UsageError, "do not fill qa_1 at 100,000 tokens"),
        ({"length": 300_000, "tasks": ["niah_single_2"]}, UsageError, "is shorter than the length"),
        ({"length": 300, "tasks": ["vt"]}, ContextError, "ask for a greater length"),
        ({"length": 100, "tasks": ["fwe"]}, ContextError, "ask for a greater length"),
    ],
)
def test_what_cannot_be_made_is_refused(files, tokenizer, settings, error, words):
    with pytest.raises(error, match=re.escape(words)) as caught:
        generate(tokenizer, files, **settings)
    assert str(caught.value).count("\n") == 0 and caught.value.exit_code == 2


def test_noise_is_repeated_as_long_as_it_takes(files, tokenizer):
    (sample,) = generate(tokenizer, files, 300_000, tasks=["niah_single_1"], samples=1)
    assert 0 <= left(sample, tokenizer) < 91


def test_tasks_without_questions_and_prose_need_no_files(tokenizer, tmp_path):
    tasks = ["niah_single_1", "niah_multikey_3", "vt", "fwe"]
    missing = tmp_path / "nothing.txt"
    assert len(list(ruler.generate(tokenizer, 4096, samples=1, tasks=tasks, haystack=missing))) == 4
    with pytest.raises(DocumentError):
        list(ruler.generate(tokenizer, 4096, samples=1, tasks=["niah_single_2"], haystack=missing))


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ('{"rows": []}', "lacks 'data'"),
        ('[{"question": "Who?"}]', "lacks 'title_a'"),
        ('["Who?"]', "holds something else"),
        ("7", "holds something else"),
        ('{"data": []}', "holds no question"),
    ],
)
def test_malformed_question_files_are_refused(tokenizer, tmp_path, text, words):
    path = tmp_path / "questions.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words) as caught:
        ruler.generate(tokenizer, 4096, tasks=["qa_1"], qa={"qa_1": path})
    assert "questions.json" in str(caught.value)


def test_words_that_are_not_installed_are_named_with_the_command(tokenizer, monkeypatch):
    import sys

    from longreach.errors import MissingDependency
    from longreach.evals.suites.ruler import words

    words._english.cache_clear()
    monkeypatch.setitem(sys.modules, "wonderwords", None)
    with pytest.raises(MissingDependency, match=r"pip install 'longreach\[evals\]'"):
        next(ruler.generate(tokenizer, 4096, tasks=["niah_single_1"]))


def test_the_book_that_comes_with_the_package_fills_a_prompt(tokenizer):
    (sample,) = ruler.generate(tokenizer, 4096, samples=1, tasks=["niah_single_2"])
    assert "Alice was beginning to get very tired" in sample.context
    assert count_tokens(tokenizer, sample.before + sample.context + sample.after) + 128 in range(4070, 4097)
