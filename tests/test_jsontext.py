"""Whatever stands in a file of JSON, each reader of one returns a value or says one sentence."""

import json
import math

import pytest

from longreach.corpus.artefacts import Artefacts
from longreach.corpus.schema import SCORECARD, SETTINGS, Settings, _encode, sha256
from longreach.datasets.questions import read_questions
from longreach.datasets.sources import find
from longreach.datasets.texts import read_texts
from longreach.errors import LongreachError
from longreach.evals.report.runs import read_run
from longreach.evals.suites.records import json_file, json_items, json_lines
from longreach.evals.suites.ruler.documents import read_paragraphs as read_ruler
from longreach.jsontext import NotJson, misfit, parse_json, parse_object, read_field
from longreach.models.hybrid.adapted import read_json
from longreach.reading.scorecard import Scorecard
from longreach.training.common.run import settings_of

HOSTILE = {
    "deep list": "[" * 200_000,
    "deep closed list": "[" * 5000 + "]" * 5000,
    "deep object": '{"a":' * 200_000,
    "deep but whole": "[" * 400 + "]" * 400,
    "a list": "[]",
    "a number": "5",
    "beyond 64 bits": '{"question": 1180591620717411303424}',
    "thousands of digits": '{"question": ' + "9" * 10_000 + "}",
    "no number": '{"question": NaN}',
    "infinite": '{"question": 1e999}',
    "null": "null",
    "half": '{"question": "wh',
    "nothing useful": '{"rows": 5, "data": 5, "text": 5, "questions": [[]], "readers": 7}',
    "not UTF-8": b'{"question": "\xff"}',
    "UTF-16": '{"question": "a"}'.encode("utf-16"),
}
READERS = {
    "questions": lambda path: read_questions(path, ["a"], "c"),
    "texts": lambda path: read_texts([path]),
    "training data": lambda path: list(find(path).texts(print)),
    "records by line": lambda path: [record.text("question") for record in json_lines(path)],
    "records of a list": lambda path: [record.text("question") for record in json_items(path)],
    "ruler": read_ruler,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_readers_of_data_say_one_sentence(tmp_path, reader, text):
    path = tmp_path / "data.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        found = list(reader(path))
    except LongreachError as error:
        found = []
        assert 10 < len(str(error)) < 400 and "\n" not in str(error) and str(error).endswith(".")
    assert found == []


@pytest.mark.parametrize("text", [text for name, text in HOSTILE.items() if name != "nothing useful"])
def test_readers_of_our_own_files_say_one_sentence(tmp_path, text):
    raw = text if isinstance(text, bytes) else text.encode()
    for name in (SETTINGS, SCORECARD, "run.json", "scores.json"):
        (tmp_path / name).write_bytes(raw)
    for read in (Settings.load, lambda folder: Scorecard.load(Artefacts(folder)), read_run):
        with pytest.raises(LongreachError) as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    for read in (
        settings_of,
        lambda folder: read_json(folder / "run.json"),
        lambda folder: json_file(folder / "run.json"),
    ):
        try:
            read(tmp_path)
        except LongreachError as error:
            assert "\n" not in str(error) and str(error).endswith(".")


SETTINGS_VALUES = {
    "format": 1,
    "name": "c",
    "compressor": {"method": "mean-pool", "ratio": 30},
    "fingerprint": "f",
    "model_fingerprint": "m",
    "model_ref": "",
    "compressor_ref": "",
    "dim": 4,
    "dtype": "float32",
    "segment_tokens": 8,
    "created": "2026-01-01T00:00:00+00:00",
}


def test_settings_whose_checksum_holds_are_checked_all_the_same(tmp_path):
    def load(values):
        sealed = values | {"sha256": sha256(_encode(values))}
        (tmp_path / SETTINGS).write_text(json.dumps(sealed))
        return Settings.load(tmp_path)

    assert load(SETTINGS_VALUES).dim == 4
    for name in SETTINGS_VALUES:
        with pytest.raises(LongreachError):
            load({key: value for key, value in SETTINGS_VALUES.items() if key != name})
    wrong = {
        "dim": "4",
        "dtype": "load",
        "compressor": [],
        "created": 5,
        "segment_tokens": 0,
        "format": True,
        "more": 1,
    }
    for name, value in wrong.items():
        with pytest.raises(LongreachError, match="is damaged: restore"):
            load(SETTINGS_VALUES | {name: value})
    for compressor in ({}, {"method": 5}, {"method": "mean-pool", "scale": "x"}):
        with pytest.raises(LongreachError, match="is damaged: restore"):
            load(SETTINGS_VALUES | {"compressor": compressor})
    with pytest.raises(LongreachError, match="reads 1 and 2"):
        load(SETTINGS_VALUES | {"format": 3})


def test_values_come_back_as_they_are():
    assert parse_json('\ufeff{"a": [1, -2.5, true, null, "é"]}'.encode()) == {"a": [1, -2.5, True, None, "é"]}
    assert parse_json(str(2**63 - 1)) == 2**63 - 1 and parse_json(str(-(2**63))) == -(2**63)
    assert parse_json(str(10**30), wide=True) == 10**30
    assert math.isnan(parse_json("[NaN]", nan=float)[0]) and parse_json("[-Infinity]", nan=lambda name: None) == [None]
    assert parse_json("[" * 100 + "]" * 100) and parse_json("[" + "[]," * 500 + "[]]")
    with pytest.raises(NotJson, match="100 levels"):
        parse_json("[" * 102 + "]" * 102)
    with pytest.raises(NotJson, match="out of range"):
        parse_json(str(2**63))
    with pytest.raises(NotJson, match="no JSON object"):
        parse_object("[]")


def test_a_misfit_is_named():
    kinds = {"count": (int,), "flag": (bool,), "share": (int, float)}
    assert misfit({"count": 1, "flag": False, "share": 0.5}, kinds) is None
    assert misfit({"count": True, "flag": False, "share": 1}, kinds) == "count"
    assert misfit({"count": 1, "flag": False}, kinds) == "share"
    assert misfit([], kinds) == "count"


def test_a_field_is_read_as_its_kind_or_refused():
    values = {"text": "a", "count": 3, "share": 0.5, "on": True, "list": [1]}
    assert read_field(values, "text", str) == "a"
    assert read_field(values, "count", float) == 3
    assert read_field(values, "share", float) == 0.5
    assert read_field(values, "on", bool) is True
    assert read_field(values, "list", list) == [1]
    with pytest.raises(KeyError):
        read_field(values, "none", str)
    for name, kind in (("text", int), ("share", int), ("on", int), ("on", float), ("list", dict)):
        with pytest.raises(TypeError, match=f"the field '{name}' holds no {kind.__name__}"):
            read_field(values, name, kind)
