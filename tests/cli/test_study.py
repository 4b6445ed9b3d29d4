"""`longreach study`, and what `ask` and `corpus show` make of it."""

import json
import re
import shutil
import sys

import pytest

from tests.cli.conftest import TEXTS
from tests.cli.test_extend import TENSORBOARD
from tests.training.test_selfstudy import Served

FEW = ("--lora-rank", 2, "--epochs", 1, "--device", "cpu")
ASKED = [
    {"question": f"Question {number}: who?", "answer": "The Knave.", "document": name}
    for number in range(3)
    for name in TEXTS
]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """The random model never stops by itself: what it writes is cut."""
    from longreach.evals.gate import gate
    from longreach.training.study import selfstudy

    monkeypatch.setitem(gate.gate.__kwdefaults__, "max_new_tokens", 4)
    for longest in ("_LONGEST_QUESTION", "_LONGEST_ANSWER"):
        monkeypatch.setattr(selfstudy, longest, 8)


@pytest.fixture
def asked(tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text("\n".join(map(json.dumps, ASKED)))
    return path


def test_study_ask_and_show(run, library, asked):
    plain = run("ask", "library", "Who stole the tarts?", "--max-new-tokens", 2, "--json")
    assert plain.code == 0 and plain.json["policy"] == "mixed" and plain.json["gate"] is None
    done = run("study", "library", "--questions", asked, *FEW, "--json")
    assert done.code == 0, done
    training, card = done.json["training"], done.json["scorecard"]
    assert training["questions"] == 5 and card["questions"] == 1 and training["adapter"] == str(library / "adapter")
    assert "study: 5 questions to learn, 1 to test on" in done.err and "loss" in done.err and "gate: mixed" in done.err
    assert run("corpus", "verify", "library").code == 0
    shown = run("corpus", "show", "library", "--json").json
    assert shown["scorecard"] == card and shown["adapter"] == str(library / "adapter")
    table = run("corpus", "show", "library").out
    assert f"{card['chosen']} *" in table and "wrong document" in table and "95%" in table
    best = next(row for row in card["rows"] if row["reading"] == card["chosen"])
    answer = run("ask", "library", "Who stole the tarts?", "--max-new-tokens", 2, "--json").json
    assert card["chosen"] == "default" and answer["policy"] == "mixed"
    assert "The default policy stays: 1 question cannot tell" in table and card["why"] in done.err
    assert answer["gate"] == {"f1": best["f1"], "questions": 1}
    said = run("ask", "library", "Who stole the tarts?", "--max-new-tokens", 2).out
    assert f"policy: {answer['policy']} (gate: F1 {best['f1']:.1f}, 1 question)" in said
    alice = next(document["document"] for document in shown["documents"] if "alice" in document["document"])
    other = run("ask", "library", "Who?", "--raw", 1, "--document", alice, "--max-new-tokens", 2)
    assert other.code == 0 and "policy: mixed\n" in other.out and "alice.txt" in other.out
    assert "tarts.txt" not in other.out
    again = run("study", "library", "--questions", asked, *FEW)
    assert again.code == 0 and "learned with these settings before" in again.err and "5 questions, 1 step," in again.out


@pytest.mark.parametrize("raw, compressed, policy", [("0", "none", "no context"), ("document", "none", "full")])
def test_ask_reads_nothing_or_everything(run, library, raw, compressed, policy):
    options = ("--raw", raw, "--compressed", compressed, "--max-new-tokens", 2, "--json")
    answer = run("ask", "library", "Who stole the tarts?", *options).json
    assert answer["policy"] == policy
    assert (answer["usage"]["raw_tokens"] == len(TEXTS["tarts.txt"])) == (policy == "full")
    assert answer["passages"] and answer["usage"]["vectors"] == 0


def test_trackers_get_what_is_logged(run, library, asked, tmp_path, monkeypatch):
    (tmp_path / "tensorboardX.py").write_text(TENSORBOARD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delitem(sys.modules, "tensorboardX", raising=False)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    done = run("study", "library", "--questions", asked, *FEW, "--report-to", "tensorboard", "--json")
    assert done.code == 0, done
    (file,) = library.rglob("scalars.jsonl")
    losses = [value for name, value, _ in map(json.loads, file.read_text().splitlines()) if name == "train/loss"]
    training = done.json["training"]
    assert (len(losses), losses[0], losses[-1]) == (
        training["steps"], training["first_loss"], training["last_loss"],
    )  # fmt: skip


def test_gate_only_measures_without_an_adapter(run, library, asked):
    done = run("study", "library", "--evaluation", asked, "--gate-only", "--device", "cpu")
    assert done.code == 0, done
    assert "no context" in done.out and "adapter off" not in done.out and "steps" not in done.out
    assert not (library / "adapter").exists() and (library / "scorecard.json").exists()
    assert run("corpus", "verify", "library").code == 0


def test_questions_are_made_where_there_are_none(run, wrong, library, monkeypatch):
    """The random model writes what is no question, until that counts as one; every passage is asked about, once."""
    wrong(1, ["no question that can be used", "--questions"], "study", "library", *FEW)
    monkeypatch.setattr("longreach.training.study.selfstudy._ASKED", re.compile(r"(\S.*)"))
    for fault in ("fault_of_question", "fault_of_answer"):
        monkeypatch.setattr(f"longreach.training.study.selfstudy.{fault}", lambda *texts: None)
    done = run("study", "library", *FEW, "--held-out", 0.2, "--json")
    assert done.code == 0, done
    notes = [json.loads(line) for line in (library / "study" / "questions.jsonl").read_text().splitlines()]
    passages = run("corpus", "show", "library", "--json").json["passages"]
    assert sum("question" in note for note in notes) == passages
    made = done.json["training"]["questions"] + done.json["scorecard"]["questions"]
    assert 2 <= made <= passages
    again = run("study", "library", *FEW, "--held-out", 0.2, "--json")
    assert f"/{passages}" not in again.err and again.json["training"] == done.json["training"]
    assert run("corpus", "verify", "library").code == 0


def test_a_teacher_makes_them_and_may_be_down(run, library, monkeypatch):
    monkeypatch.setattr("longreach.training.study.teacher._TRIES", 1)
    served = Served(lambda number: 500 if number >= 5 else None)
    options = ("study", "library", "--teacher", served.url, "--teacher-model", "big", *FEW)
    down = run(*options)
    served.close()
    assert down.code == 1 and "does not answer" in down.sentence and "is kept" in down.sentence
    back = Served()
    done = run("study", "library", "--teacher", back.url, "--teacher-model", "big", *FEW, "--json")
    back.close()
    passages = run("corpus", "show", "library", "--json").json["passages"]
    assert done.code == 0 and len(back.bodies) == 2 * passages - 5


@pytest.mark.parametrize(
    "options, code, words",
    [
        (("--questions", "{tmp}/none.jsonl"), 2, ["none.jsonl", "cannot be read"]),
        (("--questions", "{tmp}/bad.jsonl"), 2, ["Line 2 of", "is not JSON"]),
        (("--questions", "{tmp}/whale.jsonl"), 2, ["Line 1 of", "'whale.txt'", "corpus show library"]),
        (("--questions", "{tmp}/one.jsonl"), 2, ["One question", "--evaluation"]),
        (("--held-out", 1.5, "--questions", "{tmp}/asked.jsonl"), 2, ["between 0 and 1"]),
        (("--held-out", 1.5), 2, ["between 0 and 1"]),
        (("--budget", 4000, "--questions", "{tmp}/asked.jsonl"), 2, ["--budget is 4000", "4096 leaves 3968"]),
        (("--teacher", "http://x:y", "--teacher-model", "m"), 2, ["'http://x:y' is not the address"]),
        (("--teacher", "http://x/v1"), 2, ["--teacher-model"]),
        (("--teacher", "x", "--teacher-model", "m"), 2, ["not the address"]),
        (("--teacher", "http://x", "--questions", "{tmp}/asked.jsonl"), 2, ["leave one of them out"]),
        (("--loss", "hinge"), 2, ["answers, distill"]),
        (("--epochs", 0), 2, ["epochs is 0"]),
        (("--per-passage", 9), 2, ["1 to 5"]),
        (("--report-to", "nope"), 2, ["no tracker 'nope'"]),
        (("--device", "abacus"), 2, ["no device 'abacus'"]),
        (("--dtype", "int8", "--questions", "{tmp}/asked.jsonl"), 2, ["float32, bfloat16"]),
    ],
)
def test_wrong_use_gets_a_sentence(wrong, library, asked, tmp_path, options, code, words):
    good = json.dumps(ASKED[0])
    (tmp_path / "bad.jsonl").write_text(f"{good}\n{{")
    (tmp_path / "one.jsonl").write_text(good)
    (tmp_path / "whale.jsonl").write_text(json.dumps(ASKED[0] | {"document": "whale.txt"}))
    wrong(code, words, "study", "library", *(str(option).format(tmp=tmp_path) for option in options))
    assert not (library / "adapter").exists() and not list(library.glob("study/runs/*"))


def test_no_corpus_and_no_documents(wrong, run, library, asked):
    wrong(2, ["no corpus 'attic'"], "study", "attic", "--questions", asked)
    names = [document["document"] for document in run("corpus", "show", "library", "--json").json["documents"]]
    assert run("corpus", "rm", "library", *names).code == 0
    wrong(2, ["holds no documents"], "study", "library", "--device", "cpu")
    wrong(2, ["Line 1", "no such document"], "study", "library", "--questions", asked)


def test_adapters_that_are_none_or_of_another_base(wrong, run, library, asked, models, tmp_path):
    """Where no adapter is asked for, none is needed; one of the same shape for other weights is refused."""
    assert run("ask", "library", "Who was angry?", "--max-new-tokens", 2).code == 0
    (tmp_path / "empty").mkdir()
    wrong(1, ["empty", "holds no PEFT adapter"], "ask", "library", "Who?", "--adapter", tmp_path / "empty")
    wrong(2, ["nowhere", "does not exist"], "ask", "library", "Who?", "--adapter", tmp_path / "nowhere")
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    made = run("ingest", folder, "--corpus", "second", "--model", models / "other", "--segment-tokens", 64)
    assert made.code == 0, made
    assert run("study", "second", "--questions", asked, *FEW).code == 0
    foreign = library.parent / "second" / "adapter"
    wrong(1, ["trained for another model", "other"], "ask", "library", "Who?", "--adapter", foreign)
    shutil.copytree(foreign, library / "adapter")
    wrong(1, ["trained for another model"], "ask", "library", "Who?")
    wrong(2, ["--raw"], "ask", "library", "Who?", "--raw", "all")
    wrong(2, ["--raw"], "ask", "library", "Who?", "--raw=--2")


def test_a_study_is_taken_back(run, wrong, library, asked):
    wrong(2, ["no study that could be undone"], "study", "library", "--undo")
    wrong(2, ["--undo trains nothing: omit"], "study", "library", "--undo", "--gate-only")
    assert run("study", "library", "--questions", asked, *FEW).code == 0
    assert (library / "adapter").exists() and (library / "scorecard.json").exists()
    done = run("study", "library", "--undo")
    assert done.code == 0 and "ask reads without an adapter, by the default policy" in done.out
    assert not (library / "adapter").exists() and not (library / "scorecard.json").exists()
    assert run("corpus", "verify", "library").code == 0
    assert run("study", "library", "--questions", asked, "--gate-only", *FEW).code == 0
    assert run("study", "library", "--undo", "--json").json == {
        "corpus": "library", "undone": True, "adapter": None, "scorecard": False,
    }  # fmt: skip
