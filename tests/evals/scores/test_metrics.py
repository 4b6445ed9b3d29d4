"""Scorers on hand-made answers with known scores."""

from dataclasses import replace

import pytest

from longreach.evals.scores.metrics import CLASSES, METRICS
from tests.evals.scripted import samples


def score(metric, text, *answers, classes=()):
    tags = {CLASSES: "\n".join(classes)} if classes else {}
    return METRICS[metric](text, replace(samples()[0], answers=answers, metric=metric, tags=tags))


@pytest.mark.parametrize(
    "metric, text, answers, wanted",
    [
        ("all", "It is 7 and Nine.", ("7", "nine", "ten"), 2 / 3),
        ("part", "It is 7.", ("7", "nine"), 1),
        ("part", "It is six.", ("7", "nine"), 0),
        ("f1", "the red fox", ("a red fox", "dog"), 1),
        ("f1", "red hen", ("red fox",), 0.5),
        ("choice", "B", ("B", "Bob"), 1),
        ("choice", "B. Bob", ("B", "Bob"), 1),
        ("choice", " (B) since he was there", ("B", "Bob"), 1),
        ("choice", "The answer is B, not C.", ("B", "Bob"), 1),
        ("choice", "The correct answer: (C).", ("B", "Bob"), 0),
        ("choice", "Answer: B", ("B", "Bob"), 1),
        ("choice", "**B**", ("B", "Bob"), 1),
        ("choice", "C. Bob", ("B", "Bob"), 0),
        ("choice", "A dog was there.", ("A", "Ann"), 0),
        ("choice", "bob.", ("B", "Bob"), 1),
        ("choice", "Because", ("B", "Bob"), 0),
        ("choice", "", ("B", "Bob"), 0),
        ("first_line_f1", "\n\nred fox\nQuestion: blue", ("red fox",), 1),
        ("first_line_rouge_l", "red fox\nand more words", ("red fox",), 1),
        ("retrieval", "Paragraph 7", ("Paragraph 7",), 1),
        ("retrieval", "7 or 12", ("Paragraph 7",), 0.5),
        ("retrieval", "none", ("Paragraph 7",), 0),
        ("count", "There are 3.", ("3",), 1),
        ("count", "3 of 13", ("3",), 0.5),
        ("code_similarity", "# a comment\n```\nreturn x", ("return x",), 1),
        ("code_similarity", "return y\nreturn x", ("return x",), 0.88),
        ("code_similarity", "", ("return x",), 0),
    ],
)
def test_known_scores(metric, text, answers, wanted):
    assert score(metric, text, *answers) == pytest.approx(wanted)


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("Type: Person", 1),
        ("Person or Place", 0.5),
        ("Group of Person", 1 / 2),  # the right one is a part of it, and it is another
        ("Place\nPerson", 0),
        ("Planet", 0),
    ],
)
def test_classes_are_found_in_the_first_line(text, wanted):
    assert score("classification", text, "Person", classes=("Person", "Place", "Group of Person")) == wanted


def test_a_class_inside_of_the_right_one_does_not_count_against_it():
    classes = ("Person", "Group of Person")
    assert score("classification", "Group of Person", "Group of Person", classes=classes) == 1
