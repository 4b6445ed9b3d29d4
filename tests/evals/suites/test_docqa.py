"""Published formats in tiny, the words and metrics of each data set, and what is said where a file is damaged."""

import json

import pytest

from longreach.corpus.documents import Document
from longreach.errors import DocumentError, MissingDependency, UsageError
from longreach.evals.scores.metrics import METRICS
from longreach.evals.suites.docqa.longbench import TASKS
from longreach.evals.suites.docqa.presets import PRESETS
from longreach.evals.suites.docqa.samples import own_samples, preset_samples, read_documents

QASPER = {
    "1909.1": {
        "title": "On Trees",
        "abstract": "We plant trees.",
        "full_text": [{"section_name": "Roots", "paragraphs": ["They go down.", "Far."]}],
        "qas": [
            {
                "question": "Where do roots go?",
                "answers": [
                    {"answer": {"unanswerable": False, "extractive_spans": ["down", "far"], "free_form_answer": ""}},
                    {"answer": {"unanswerable": False, "extractive_spans": [], "free_form_answer": "Down below."}},
                    {"answer": {"unanswerable": True, "extractive_spans": [], "free_form_answer": ""}},
                    {"answer": {"extractive_spans": [], "free_form_answer": "", "yes_no": False}},
                ],
            }
        ],
    }
}
QMSUM = {
    "meeting_transcripts": [{"speaker": "Ann", "content": "Shall we ?"}, {"speaker": "Bob", "content": "Yes ."}],
    "general_query_list": [{"query": "Summarize the whole meeting", "answer": "They agreed."}],
    "specific_query_list": [{"query": "What did Bob say?", "answer": "Yes.", "relevant_text_span": [["1", "1"]]}],
    "meeting_id": "M1",
}
SQUALITY = {
    "metadata": {"passage_id": "61"},
    "document": "Once upon a time.\n\nThe end.",
    "questions": [
        {"question_text": "What is the plot?", "responses": [{"response_text": "Little."}, {"response_text": "None."}]}
    ],
}
QUALITY = {
    "article_id": "7",
    "article": "A long story.",
    "questions": [{"question": "Who?", "options": ["Ann", "Bob", "Cy", "Di"], "gold_label": 3}],
}
HOTPOT = {
    "_id": "h1",
    "question": "Which is older?",
    "answer": "A",
    "context": [["A", ["A is old. ", "Very."]], ["B", ["B is young."]]],
}
NARRATIVE = {
    "document": {"id": "n1", "text": "A tale."},
    "question": {"text": "Who?"},
    "answers": [{"text": "Ann"}, {"text": "ann"}],
}
LONG = {"input": "Who?", "context": "  Text.\n", "answers": ["Ann"], "length": 2, "all_classes": None, "_id": "l1"}


def lines(path, *values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, values)))
    return str(path)


def fairytales(folder, split="val", answers="Nara,,,the capital,,"):
    for kind in ("section-stories", "questions"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    (folder / "section-stories" / split / "tale-story.csv").write_text(
        'section,text\n1,"One.\nTwo, ""three""."\n2,Four.\n'
    )
    header = "question_id,local-or-sum,cor_section,question,answer1,answer2,answer3,answer4,answer5,answer6"
    (folder / "questions" / split / "tale-questions.csv").write_text(f"{header}\n1,local,1,Where?,{answers}\n")
    return str(folder)


def only(task, given, **more):
    (sample,) = preset_samples(task, given, **more)
    assert sample.metric in METRICS and sample.suite == "docqa" and sample.task == task and sample.length == 0
    return sample


def test_stories(tmp_path):
    tale = only("fairytaleqa", fairytales(tmp_path))
    assert tale.context == 'One.\nTwo, "three".\n\nFour.' and tale.answers == ("Nara", "the capital")
    assert tale.after.endswith("in one short sentence, using the text above.\n\nQuestion: Where?")
    assert (tale.document, tale.metric, tale.id) == ("fairytaleqa/tale", "f1", "fairytaleqa/0")
    story = only("squality", lines(tmp_path / "s.jsonl", SQUALITY))
    assert story.answers == ("Little.", "None.") and story.metric == "rouge_l" and story.document == "squality/61"
    choice = only("quality", lines(tmp_path / "q.jsonl", QUALITY))
    assert choice.answers == ("C", "Cy") and choice.metric == "choice"
    assert "Question:\nWho?\n\nChoices:\nA. Ann\nB. Bob\nC. Cy\nD. Di\nChoose the best" in choice.after
    tale = only("narrativeqa", lines(tmp_path / "n.jsonl", NARRATIVE))
    assert (tale.context, tale.answers, tale.document) == ("A tale.", ("Ann", "ann"), "narrativeqa/n1")


def test_the_repository_of_narrativeqa(tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "n1.content").write_text("A tale.")
    rows = "n1,valid,Who?,Ann,Anna,who ?\nn2,test,No?,a,b,no ?\n"
    (tmp_path / "qaps.csv").write_text(f"document_id,set,question,answer1,answer2,question_tokenized\n{rows}")
    tale = only("narrativeqa", str(tmp_path))
    assert (tale.context, tale.question, tale.answers) == ("A tale.", "Who?", ("Ann", "Anna"))
    with pytest.raises(UsageError, match=r"n2.content' cannot be read"):
        preset_samples("narrativeqa", str(tmp_path), split="test")


def test_articles(tmp_path):
    (tmp_path / "qasper.json").write_text(json.dumps(QASPER))
    paper = only("qasper", str(tmp_path / "qasper.json"))
    assert paper.context == "On Trees\n\nWe plant trees.\n\nRoots\n\nThey go down.\n\nFar."
    assert paper.answers == ("down, far", "Down below.", "Unanswerable", "No") and paper.document == "qasper/1909.1"
    both = preset_samples("qmsum", lines(tmp_path / "m.jsonl", QMSUM))
    assert [sample.question for sample in both] == ["Summarize the whole meeting", "What did Bob say?"]
    assert both[0].context == "Ann: Shall we ?\nBob: Yes ." and both[0].metric == "rouge_l"
    assert {sample.document for sample in both} == {"qmsum/M1"} and both[1].after.endswith(
        "Query: What did Bob say?\nAnswer:"
    )
    (tmp_path / "h.json").write_text(json.dumps([HOTPOT]))
    pages = only("hotpotqa", str(tmp_path / "h.json"))
    assert pages.context == "A\nA is old. Very.\n\nB\nB is young." and pages.answers == ("A",)


def test_rows_of_the_hub_have_columns_inside(tmp_path):
    """`datasets` keeps lists of objects as objects of lists; files of that shape are read in the same way."""
    row = dict(QASPER["1909.1"]) | {"id": "1909.1"}
    row["full_text"] = {"section_name": ["Roots"], "paragraphs": [["They go down.", "Far."]]}
    question = QASPER["1909.1"]["qas"][0]
    answers = {"answer": [one["answer"] for one in question["answers"]], "worker_id": ["1", "2", "3", "4"]}
    row["qas"] = {"question": [question["question"]], "answers": [answers]}
    (tmp_path / "hub.json").write_text(json.dumps({"1909.1": row}))
    (tmp_path / "file.json").write_text(json.dumps(QASPER))
    assert only("qasper", str(tmp_path / "hub.json")) == only("qasper", str(tmp_path / "file.json"))
    uneven = row | {"full_text": {"section_name": ["Roots", "Leaves"], "paragraphs": [["They go down.", "Far."]]}}
    (tmp_path / "hub.json").write_text(json.dumps({"1909.1": uneven}))
    with pytest.raises(UsageError, match="has no list of objects under 'full_text'"):
        preset_samples("qasper", str(tmp_path / "hub.json"))
    context = {"title": ["A", "B"], "sentences": [["A is old. ", "Very."], ["B is young."]]}
    (tmp_path / "hub.json").write_text(json.dumps([HOTPOT | {"context": context}]))
    (tmp_path / "file.json").write_text(json.dumps([HOTPOT]))
    assert only("hotpotqa", str(tmp_path / "hub.json")) == only("hotpotqa", str(tmp_path / "file.json"))


def test_longbench_asks_in_its_own_words(tmp_path):
    lines(tmp_path / "qasper.jsonl", LONG)
    paper = only("longbench-qasper", str(tmp_path))
    text = paper.before + paper.context + paper.after
    assert text == TASKS["qasper"].prompt.replace("{context}", LONG["context"]).replace("{input}", "Who?")
    assert (paper.max_new_tokens, paper.chat, paper.metric) == (128, True, "f1")
    lines(tmp_path / "trec.jsonl", LONG | {"all_classes": ["Person", "Group of persons"], "answers": ["Person"]})
    kind = only("longbench-trec", str(tmp_path))
    assert not kind.chat and kind.tags == {"classes": "Person\nGroup of persons"}
    lines(tmp_path / "gov_report.jsonl", LONG | {"input": ""})
    assert (
        only("longbench-gov_report", str(tmp_path)).question
        == "Now, write a one-page summary of the report.\n\nSummary:"
    )


@pytest.mark.parametrize("task", TASKS)
def test_a_prompt_of_longbench_holds_its_context_once(task):
    preset = PRESETS[f"longbench-{task}"]
    assert TASKS[task].prompt.count("{context}") == 1 and "{" not in preset.before
    assert preset.after.count("{question}") == TASKS[task].prompt.count("{input}") and preset.metric in METRICS


def test_a_draw_is_by_the_seed_and_keeps_the_order(tmp_path):
    many = [QUALITY | {"article_id": str(i), "article": f"Story {i}."} for i in range(20)]
    given = lines(tmp_path / "q.jsonl", *many)
    drawn = preset_samples("quality", given, samples=6, seed=1)
    assert [s.id for s in drawn] == [s.id for s in preset_samples("quality", given, samples=6, seed=1)]
    assert [s.id for s in drawn] != [s.id for s in preset_samples("quality", given, samples=6, seed=2)]
    numbers = [int(sample.id.rpartition("/")[2]) for sample in drawn]
    assert numbers == sorted(numbers) and len(numbers) == 6
    assert len(preset_samples("quality", given, samples=99)) == 20
    assert preset_samples("quality", given, samples=1, max_new_tokens=3)[0].max_new_tokens == 3


def test_two_editions_of_a_story_are_two_documents(tmp_path):
    given = lines(tmp_path / "q.jsonl", QUALITY, QUALITY, QUALITY | {"article": "Another."})
    names = [sample.document for sample in preset_samples("quality", given)]
    assert names == ["quality/7", "quality/7", "quality/7 (2)"]


def test_own_documents_and_questions(tmp_path):
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "a.txt").write_text("About a.")
    (tmp_path / "docs" / "deep" / "b.md").write_text("About b.")
    documents = read_documents([tmp_path / "docs"])
    assert [document.name for document in documents] == ["a.txt", "deep/b.md"]
    given = lines(tmp_path / "q.jsonl", {"question": "What?", "answers": ["b", "B"], "document": "b.md"})
    (sample,) = own_samples(documents, given)
    assert (sample.document, sample.context, sample.answers) == ("deep/b.md", "About b.", ("b", "B"))
    assert sample.task == "documents" and sample.metric == "f1" and sample.chat
    given = lines(tmp_path / "q.jsonl", {"question": "What?", "answer": "b"})
    assert own_samples(documents[:1], given)[0].document == "a.txt"
    with pytest.raises(UsageError, match=r"Question 1 of '.*q.jsonl' names no document, and there are 2"):
        own_samples(documents, given)
    given = lines(tmp_path / "q.jsonl", {"question": "What?", "answer": "b", "document": "c.txt"})
    with pytest.raises(UsageError, match=r"Line 1 of '.*' is about 'c.txt', and no document of that name is given"):
        own_samples(documents, given)
    with pytest.raises(DocumentError, match=r"does not exist|no such file|cannot"):
        read_documents([tmp_path / "nowhere.txt"])


@pytest.mark.parametrize(
    "task, spoiled, words",
    [
        ("squality", SQUALITY | {"document": ""}, r"Line 2 of '.*data' has no text under 'document'"),
        ("squality", SQUALITY | {"metadata": 3}, r"Line 2 of '.*data' has no text under 'metadata.passage_id'"),
        ("squality", SQUALITY | {"questions": [{"question_text": "x", "responses": []}]}, "questions 1 has no answer"),
        ("quality", QUALITY | {"questions": "none"}, "Line 2 .* has no list of objects under 'questions'"),
        ("quality", QUALITY | {"questions": [QUALITY["questions"][0] | {"gold_label": 5}]}, "Line 2 .* lacks its four"),
        ("quality", QUALITY | {"questions": [QUALITY["questions"][0] | {"gold_label": "3"}]}, "no whole number under"),
        ("qmsum", {k: v for k, v in QMSUM.items() if k != "meeting_transcripts"}, "Line 2 .* 'meeting_transcripts'"),
        ("narrativeqa", NARRATIVE | {"answers": [{"text": 3}]}, "Line 2 .*answers 1 has no text under 'text'"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, task, spoiled, words):
    good = {"squality": SQUALITY, "quality": QUALITY, "qmsum": QMSUM, "narrativeqa": NARRATIVE}[task]
    with pytest.raises(UsageError, match=words):
        preset_samples(task, lines(tmp_path / "data", good, spoiled))
    (tmp_path / "data").write_text(f"{json.dumps(good)}\n\n{{")
    with pytest.raises(UsageError, match=r"Line 3 of '.*data' is not JSON"):
        preset_samples(task, str(tmp_path / "data"))


def test_other_damage(tmp_path):
    for text, words in (
        ("[", "is not JSON"),
        ("[]", "not an object of papers"),
        ('{"a": 1}', "not an object of papers"),
    ):
        (tmp_path / "f").write_text(text)
        with pytest.raises(UsageError, match=words):
            preset_samples("qasper", str(tmp_path / "f"))
    (tmp_path / "f").write_text(json.dumps([HOTPOT, HOTPOT | {"context": [["A"]]}]))
    with pytest.raises(UsageError, match=r"Item 2 of '.*f' has no list of titles"):
        preset_samples("hotpotqa", str(tmp_path / "f"))
    (tmp_path / "f").write_text(json.dumps([HOTPOT | {"context": {"title": ["A"], "sentences": []}}]))
    with pytest.raises(UsageError, match=r"Item 1 of '.*f' has no list of titles"):
        preset_samples("hotpotqa", str(tmp_path / "f"))
    (tmp_path / "f").write_text("{}")
    with pytest.raises(UsageError, match="is not a list of objects"):
        preset_samples("hotpotqa", str(tmp_path / "f"))
    with pytest.raises(UsageError, match=r"Line 2 of '.*tale-questions.csv' has no answer"):
        preset_samples("fairytaleqa", fairytales(tmp_path / "one", answers=",,,,,"))
    with pytest.raises(UsageError, match=r"Line 2 of '.*tale-questions.csv' has other fields"):
        preset_samples("fairytaleqa", fairytales(tmp_path / "two", answers="a,b"))
    with pytest.raises(UsageError, match=r"no FairytaleQA of the split 'test' \(there: val\)"):
        preset_samples("fairytaleqa", str(tmp_path / "one"), split="test")
    with pytest.raises(UsageError, match="There is no task 'riddles' of docqa: use one of fairytaleqa"):
        preset_samples("riddles", str(tmp_path))
    with pytest.raises(UsageError, match=r"cannot be read"):
        preset_samples("longbench-lcc", str(tmp_path))
    (tmp_path / "f").write_text("")
    with pytest.raises(UsageError, match="holds no questions"):
        preset_samples("quality", str(tmp_path / "f"))


def test_a_hub_id_without_the_library_names_the_command(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependency, match=r"pip install 'longreach\[hub\]'"):
        preset_samples("narrativeqa", "deepmind/narrativeqa")


def test_a_hub_data_set_is_read_row_by_row(monkeypatch):
    asked = []

    def rows(given, **options):
        asked.append((given, options))
        return [NARRATIVE, NARRATIVE | {"question": {}}]

    monkeypatch.setattr("longreach.evals.suites.records.load_hub_rows", rows)
    with pytest.raises(UsageError, match=r"Row 2 of deepmind/narrativeqa has no text under 'question.text'"):
        preset_samples("narrativeqa", "deepmind/narrativeqa")
    assert asked == [("deepmind/narrativeqa", {"config": None, "split": "validation"})]


def test_documents_keep_their_names_where_there_is_only_one(tmp_path):
    (tmp_path / "a.txt").write_text("About a.")
    assert read_documents([tmp_path / "a.txt"]) == [Document("a.txt", "About a.")]
