"""The command line in this process, with tiny models that lie in folders as a user's would."""

import json
import shutil
from dataclasses import dataclass
from typing import Any

import pytest

from longreach.cli import main
from tests.conftest import make_model, make_tokenizer

TEXTS = {
    "alice.txt": "Alice fell down the rabbit hole. She was very surprised.\n" * 6,
    "tarts.txt": "The Knave of Hearts stole the tarts. The King was angry.\n" * 6,
}


@dataclass
class Result:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def sentence(self) -> str:
        """The one sentence of a command that failed."""
        return self.err.splitlines()[-1].removeprefix("longreach: ")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Two models of one shape and different weights."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "other")):
        make_model(seed=seed, max_position_embeddings=4096).save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    return folder


def run_here(capture, *arguments) -> Result:
    """Runs a command in this process. Whatever it does, it ends by an exit and shows no traceback."""
    capture.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capture.readouterr()
    assert "Traceback" not in out + err
    return Result(ended.value.code, out, err)


@pytest.fixture
def run(capfd, tmp_path, monkeypatch):
    """Runs a command on an empty store."""
    monkeypatch.setenv("LONGREACH_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("LONGREACH_CACHE", str(tmp_path / "cache"))
    return lambda *arguments: run_here(capfd, *arguments)


@pytest.fixture
def wrong(run):
    """Runs a command that has to fail, in both kinds of output; returns its sentence, which holds all of `words`."""

    def check(code, words, *arguments):
        plain, as_json = run(*arguments), run(*arguments, "--json")
        for result in (plain, as_json):
            assert result.code == code, result
            for word in words:
                assert str(word) in result.sentence, result
        assert set(as_json.json) == {"error", "type"} and as_json.json["error"] == as_json.sentence
        assert "Something went wrong" not in plain.sentence
        return plain.sentence

    return check


@pytest.fixture(scope="session")
def made(models, texts, tmp_path_factory):
    """A store with the corpus 'library', made once."""
    from longreach.session import open_or_create

    store = tmp_path_factory.mktemp("made")
    settings = {"ratio": 10, "segment_tokens": 64}
    open_or_create(store, "library", model_ref=str(models / "one"), device="cpu", **settings).corpus.add([texts])
    return store


@pytest.fixture
def library(run, made, tmp_path):
    """The store of `run`, with a corpus 'library' of two documents in it."""
    shutil.copytree(made, tmp_path / "store")
    return tmp_path / "store" / "library"
