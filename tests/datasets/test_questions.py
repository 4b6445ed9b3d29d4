"""Questions out of JSON lines; what is held out."""

import json

import pytest

from longreach.datasets.questions import Question, hold_out, read_questions, without
from longreach.errors import UsageError

DOCUMENTS = ["/books/one/alice.txt", "/books/two/alice.txt", "/books/two/tarts.md", "note"]


def write(tmp_path, *lines):
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_lines_become_questions(tmp_path):
    path = write(
        tmp_path,
        "\ufeff" + json.dumps({"question": " Who? ", "answer": "The\u2028Knave", "document": "tarts.md"}),
        "",
        {"question": "What?", "answers": ["one", "two"], "document": "one/alice"},
        {"question": "Why?", "answer": "So.", "document": "/books/two/alice.txt", "more": 1},
        {"question": "Where?", "answer": "There.", "document": "tarts"},
        {"question": "When?", "answer": "Then.", "document": "note"},
        {"question": "How?", "answer": "Thus."},
    )
    assert read_questions(path, DOCUMENTS, "c") == [
        Question("/books/two/tarts.md", "Who?", ("The\u2028Knave",)),
        Question("/books/one/alice.txt", "What?", ("one", "two")),
        Question("/books/two/alice.txt", "Why?", ("So.",)),
        Question("/books/two/tarts.md", "Where?", ("There.",)),
        Question("note", "When?", ("Then.",)),
        Question(None, "How?", ("Thus.",)),
    ]


@pytest.mark.parametrize(
    "line, words",
    [
        ('{"question": "Who?", ', "Line 3 of .* is not JSON"),
        ("[1]", "Line 3 of .* is no JSON object: correct or remove it"),
        ({"question": "Who?"}, "Line 3 of .* lacks a question or an answer"),
        ({"question": "Who?", "answers": []}, "Line 3 of .* lacks"),
        ({"question": "  ", "answer": "He."}, "Line 3 of .* lacks"),
        ({"question": "Who?", "answer": 4}, "Line 3 of .* lacks"),
        ({"question": "Who\ud800?", "answer": "He."}, "Line 3 of .* lacks"),  # half a character: no text
        ({"question": "Who?", "answers": ["He.", "\ud800"]}, "Line 3 of .* lacks"),
        ({"question": "Who?", "answer": "He.", "document": 4}, "Line 3 of .* names a document that is no text"),
        (
            {"question": "Who?", "answer": "He.", "document": "whale.txt"},
            "Line 3 .*'whale.txt'.*corpus 'c' has no",
        ),
        ({"question": "Who?", "answer": "He.", "document": "lice.txt"}, "no such document"),
        ({"question": "Who?", "answer": "He.", "document": "alice"}, "may be '/books/one.*', '/books/two"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path, line, words):
    good = {"question": "Who?", "answer": "He."}
    with pytest.raises(UsageError, match=words):
        read_questions(write(tmp_path, good, good, line), DOCUMENTS, "c")


def test_files_that_hold_none(tmp_path):
    with pytest.raises(UsageError, match="holds no questions"):
        read_questions(write(tmp_path, "", " "), DOCUMENTS, "c")
    with pytest.raises(UsageError, match=r"cannot be read .*No such file"):
        read_questions(tmp_path / "none.jsonl", DOCUMENTS, "c")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_questions(tmp_path / "bytes", DOCUMENTS, "c")


def make(count):
    return [Question(None, f"Question {number}?", ("Yes.",)) for number in range(count)]


@pytest.mark.parametrize(
    "count, share, held",
    [
        (2, 0.1, 1),
        (10, 0.1, 1),
        (30, 0.1, 3),
        (3, 0.99, 2),
        (5000, 0.1, 200),
        (10, 1, 1),
        (30, 7, 7),
        (3, 3, 2),
        (900, 300, 200),
    ],
)
def test_a_share_or_a_number_is_held_out(count, share, held):
    questions = make(count)
    split = hold_out(questions, share, seed=1)
    assert len(split.held_out) == held and len(split.learned) == count - held
    assert {*split.learned, *split.held_out} == {*questions}
    assert split == hold_out(questions, share, seed=1)
    assert count < 30 or split.held_out != hold_out(questions, share, seed=2).held_out


def test_the_same_question_is_never_on_both_sides():
    asked_twice = [Question("d", text, ("x",)) for text in ("Who was it?", "who  was it?", "Why?", "why?")]
    for seed in range(5):
        split = hold_out(asked_twice, 0.3, seed)
        assert len(split.held_out) == 2 and split.held_out in (asked_twice[:2], asked_twice[2:])
    assert without(asked_twice, [Question("d", "WHY?", ("y",))]) == asked_twice[:2]
    assert without(asked_twice, [Question("e", "Why?", ("y",))]) == asked_twice
    assert without(asked_twice, [Question(None, "Why?", ("y",))]) == asked_twice[:2]  # it may be about the same one
    assert without([Question(None, "Why?", ("x",))], asked_twice) == []
    unnamed = [Question(None, "Who was it?", ("x",)), *asked_twice[1:]]
    for seed in range(5):
        assert hold_out(unnamed, 0.3, seed).held_out in (unnamed[:2], unnamed[2:])


def test_what_cannot_be_held_out():
    with pytest.raises(UsageError, match="One question cannot both"):
        hold_out(make(1), 0.1, 0)
    for share in (0, 1.5, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="between 0 and 1"):
            hold_out(make(9), share, 0)
