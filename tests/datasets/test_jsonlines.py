"""One reader of users' JSON lines: what it takes, and the one error with file and line."""

import json

import pytest

from longreach.datasets import jsonlines
from longreach.datasets.jsonlines import Record, read_records
from longreach.errors import DataError, DocumentError, UsageError


def write(tmp_path, data):
    path = tmp_path / "data.jsonl"
    path.write_bytes(data)
    return path


def values(path):
    return [record.values for record in read_records(path)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_of_any_system_are_read_and_blank_ones_count(tmp_path, end):
    path = write(tmp_path, end.join([b'{"a": 1}', b"", b" \t", '{"a": "\u2028é"}'.encode(), b""]))
    assert [(record.where, record.values) for record in read_records(path)] == [
        (f"Line 1 of '{path}'", {"a": 1}),
        (f"Line 4 of '{path}'", {"a": "\u2028é"}),
    ]


def test_byte_order_marks_nan_and_wide_numbers_are_no_mistake(tmp_path):
    path = write(tmp_path, b'\xef\xbb\xbf{"a": NaN, "b": 1180591620717411303424}\n\xef\xbb\xbf\n')
    (only,) = values(path)
    assert only["a"] != only["a"] and only["b"] == 1 << 70
    assert values(write(tmp_path, b"")) == []


@pytest.mark.parametrize(
    "line, fault",
    [
        (b'{"a": ', "is not JSON"),
        (b'{"a": "\xff"}', "it is not UTF-8"),
        (b"[1]", "is no JSON object"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', 'it names "c" twice'),
        (b"[" * 5000, "100 levels"),
        ('{"a": 1}'.encode("utf-16"), "it is not UTF-8"),
        (b'{"a": "' + b"x" * 100 + b'"}', "is longer than"),
    ],
)
def test_a_bad_line_is_named(tmp_path, monkeypatch, line, fault):
    monkeypatch.setattr(jsonlines, "MOST_LINE_BYTES", 100 if b"xxx" in line else 10_000)
    path, read = write(tmp_path, b'{"a": 1}\n\n' + line + b"\n"), []
    with pytest.raises(DataError, match=rf"^Line 3 of '.*data\.jsonl' .*{fault}.*: \w.*\.$"):
        read.extend(read_records(path))
    assert [record.values for record in read] == [{"a": 1}]  # what stands before is read


def test_a_file_that_is_not_there_is_named(tmp_path):
    for path, reason in ((tmp_path / "none.jsonl", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(DataError, match=rf"'{path}' cannot be read \({reason}.*\): check the path"):
            list(read_records(path))


def test_the_error_is_one_of_both_kinds_that_callers_catch():
    assert issubclass(DataError, UsageError) and issubclass(DataError, DocumentError)
    assert DataError.exit_code == 2


def test_fields_are_checked():
    values = {"a": {"b": " x "}, "n": 3, "list": ["y", " "], "rows": [{"c": "z"}], "columns": {"c": ["1", "2"]}}
    record = Record("Line 1 of 'f'", values)
    assert record.text("a", "b") == "x" and record.text("a", "b", strip=False) == " x "
    assert record.texts("list") == ["y"] and record.number("n") == 3
    assert [row.text("c") for row in record.records("rows")] == ["z"]
    second = record.records("columns")[1]
    assert (second.where, second.text("c")) == ("Line 1 of 'f', columns 2", "2")
    bad = Record("Row 2 of f", {"a": " ", "n": True, "list": [], "half": "\ud800", "columns": {"c": [1], "d": []}})
    for read, words in (
        (lambda: bad.text("a"), "no text under 'a'"),
        (lambda: bad.text("half"), "no text under 'half'"),
        (lambda: bad.text("none", "deep"), "no text under 'none.deep'"),
        (lambda: bad.texts("list"), "an empty list under 'list'"),
        (lambda: bad.texts("n"), "no list of texts under 'n'"),
        (lambda: bad.number("n"), "no whole number under 'n'"),
        (lambda: bad.records("columns"), "no list of objects under 'columns'"),
    ):
        with pytest.raises(DataError, match=f"^Row 2 of f has {words}: correct or remove it.$"):
            read()


def test_lines_are_read_as_they_are_asked_for(tmp_path):
    path = write(tmp_path, json.dumps({"a": 1}).encode() + b"\n{")
    assert next(read_records(path)).values == {"a": 1}
