"""What is learned is not what is measured: templates and words of benchmarks stand in no row of training."""

import ast
import random
import re
from pathlib import Path

import pytest

import longreach
from longreach.datasets.asks.kinds import KINDS
from longreach.datasets.asks.words import Vocabulary
from longreach.evals.suites.niah.samples import _CITIES

PACKAGE = Path(longreach.__file__).parent
SUITES = PACKAGE / "evals" / "suites"
RUN = 4  # words in a row that two templates may not share


def strings(paths):
    """All texts in modules that are no docstrings, as lists of words."""
    found = []
    for path in paths:
        tree = ast.parse(path.read_text())
        documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
        nodes = [node for node in ast.walk(tree) if isinstance(node, documented)]
        docstrings = {ast.get_docstring(node, clean=False) for node in nodes}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in docstrings:
                found.append(re.findall(r"\w+|\S", node.value.lower()))
    return found


def runs(texts, length):
    found = set()
    for words in texts:
        for start in range(len(words) - length + 1):
            found.add(tuple(words[start : start + length]))
    return found


def test_templates_share_no_run_of_words_with_a_benchmark():
    own = runs(strings((PACKAGE / "datasets" / "asks").glob("*.py")), RUN)
    theirs = runs(strings([*SUITES.glob("niah/*.py"), *SUITES.glob("ruler/*.py")]), RUN)
    assert len(own) > 300 and len(theirs) > 300
    shared = {run for run in own & theirs if any(word.isalpha() for word in run)}
    # What an error of either says is no template.
    assert shared == set()


def test_rows_say_nothing_that_benchmarks_say():
    said = []
    for make in KINDS.values():
        for seed in range(30):
            matter = make(random.Random(seed), Vocabulary(), 6)
            said += matter.statements
            said += [f"{one.question} {one.lead} {one.answer}" for one in matter.askings]
    text = " ".join(said).lower()
    for phrase in ("special magic", "VAR ", "hidden within", "memorize", "grass is green", "quiz you", "sandwich"):
        assert phrase.lower() not in text
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-", text)  # RULER's UUIDs


def names(words):
    chance = random.Random(0)
    found = set()
    for make in (words.person, words.place, words.made_up):
        for _ in range(2000):
            found.update(make(chance).lower().split())
    return found


def test_no_name_is_a_word_of_a_benchmark():
    found = names(Vocabulary())
    assert not found & {city.lower() for city in _CITIES}
    pytest.importorskip("wonderwords")
    from longreach.evals.suites.ruler.words import words

    assert not found & {word.lower() for word in words()}


def test_words_of_validation_are_never_learned():
    chance = random.Random(1)
    for draw in ("person", "trade", "thing"):
        learned = {getattr(Vocabulary(), draw)(chance) for _ in range(4000)}
        kept = {getattr(Vocabulary(validation=True), draw)(chance) for _ in range(4000)}
        assert len(kept) > 5 and not learned & kept
