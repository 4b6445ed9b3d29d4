"""Which letter an answer to a multiple-choice question names, however it says so."""

import pytest

from longreach.evals.scores.choices import chosen, options_of

OPTIONS = {"A": "Berlin", "B": "Paris", "C": "London", "D": "The city of Tokyo"}


def test_options_stand_in_the_question():
    question = "Where is it?\n\nChoices:\nA. Berlin\nB. Paris\nC. London\nD. The city of Tokyo"
    assert options_of(question) == OPTIONS and options_of("Where is it?") == {}


@pytest.mark.parametrize(
    "text",
    [
        # A letter, with what people and models put around it.
        *(
            "B",
            "b",
            "B.",
            "B)",
            "(B)",
            "[B]",
            "b)",
            "b.",
            "{B}",
            "'B'",
            '"B"',
            "\u201cB\u201d",
            "**B**",
            "__B__",
            "`B`",
        ),
        *(
            "*B*",
            "- B",
            "\u2022 B",
            "> B",
            "1. B",
            "B!",
            "<b>B</b>",
            "<answer>B</answer>",
            "\uff22",
            "\uff08\uff22\uff09",
        ),
        *("Option B", "option b.", "Choice B", "OPTION B", "Option (B)", "Answer B", "Answer: B", "Answer - B"),
        *("**Answer:** B", "## Answer\n\nB", "Final answer: B", '{"answer": "B"}', "answer=B", "Answer:\nB. Paris"),
        # A letter and words of its option.
        *("B. Paris", "B: Paris", "B - Paris", "B \u2013 Paris", "B\u2014Paris", "B) Paris", "(B) Paris", "(b) Paris"),
        *(
            "b: Paris",
            "b - Paris",
            "B.Paris",
            "B:Paris",
            "B)Paris",
            "B (Paris)",
            "B, Paris",
            "B = Paris",
            "Option B: Paris",
        ),
        # LaTeX.
        *(r"\boxed{B}", r"$\boxed{\text{B}}$", r"\[\boxed{B}\]", r"\boxed{\textbf{(B)}\ Paris}", r"\text{B}", r"\(B\)"),
        *(
            r"\boxed{\mathbf{B}}",
            r"\mathrm{B}",
            "Final Answer: The final answer is $\\boxed{B}$. I hope it is correct.",
        ),
        # Sentences.
        *("The correct answer is **B**.", "the answer is (b) Paris", "The answer is: B", r"The answer is \text{B}."),
        *("The answer is **B. Paris**", "The answer to the question is B", "The answer is option B: Paris", "It's B"),
        *("The answer is clearly B", "The answer should be B", "The right answer is B: Paris", "My answer is B"),
        *(
            "I choose B",
            "I would go with option B since it fits",
            "I'd pick (B).",
            "I think the answer is B",
            "I think B",
        ),
        *("B is correct", "B is the correct answer.", "Option B (Paris) is right", "I am sure that B is the answer."),
        *("B because he lives there", "B, because he lives there", "(B) since he lives there", "Probably B", "So B."),
        *("\u7b54\u6848\u662fB", "\u7b54\u6848\uff1aB\u3002"),
        # What it is not.
        *(
            "The answer is B, not C.",
            "The answer is not A but B",
            "The answer is not A, it is B",
            "It is not A. It's B.",
        ),
        *("B\nC is wrong", "The answer is B and not A", "B is the best answer, A is not"),
        *(
            "It could be A, but B is the correct one",
            "A is tempting, however (B) is right",
            "D fits, yet option B is better suited and B is correct",
        ),
        # Reasoning before it, or after it.
        "A. Berlin is in Germany.\nB. Paris is in France.\nC. London is in England.\n\nThe answer is B.",
        "A is wrong because Berlin is in Germany. C is wrong too. So B.",
        "A man walked in, so the answer is B",
        "At first I thought that the answer is A. But the answer is B",
        "Considering that A, C and D are wrong, the answer is B.",
        "It could be A or C. On reflection the answer is B.",
        "Among A, B, C and D, the answer is B",
        "<think>The answer is A. Or is it C?</think>\nB",
        "Therefore, the correct option is:\n\n**B. Paris**",
        "Answer: B\n\nExplanation: A is the capital of Germany. C is in England.",
        "B. Paris\n\nQuestion:\nWhere is Rome?\nChoices:\nA. here\nB. there\n\nAnswer:\nC. nowhere",
        # The words of the option alone.
        *("Paris", "paris.", "\u201cParis\u201d", "The answer is Paris.", "The answer is **Paris**."),
    ],
)
def test_this_is_b(text):
    assert chosen(text, OPTIONS) == "B"


@pytest.mark.parametrize(
    "text",
    [
        *("", "Because", "None of the above", "I don't know", "I think...", "Answer:", "The answer is not clear"),
        # "A" and "a" are words, and letters are parts of names.
        *(
            "A man walked in",
            "A dog was there.",
            "The answer is a man",
            "It's a man",
            "A lot of people",
            "Dad",
            "Be careful",
        ),
        *(
            "D'Artagnan",
            "C. S. Lewis wrote it",
            "B. B. King",
            "A-frame",
            "B-flat",
            "Vitamin C is good",
            "Plan B was started",
        ),
        # Nothing is decided.
        *("A or B", "b or c", "A and B", "Either A or B", "Both A and B", "A/B", "A, B", "B & C", "A, B, and C"),
        *("The answer is A or B.", "The answer is either B or C", "The answer is B/C", "Option A or option B"),
        *("The answer is (A) or (B)", "B and C are both correct", r"\boxed{A or B}", "neither B nor C is correct"),
        "A. Berlin\nB. Paris\nC. London\nD. The city of Tokyo",
        "A is wrong",
    ],
)
def test_this_is_no_choice(text):
    assert chosen(text, OPTIONS) is None


@pytest.mark.parametrize(
    "text", ["A", "a", "A.", "(a)", "It's A.", "The answer is a.", "A because he left", "Option A"]
)
def test_a_is_a_letter_where_it_stands_alone(text):
    assert chosen(text, OPTIONS) == "A"


def test_words_count_where_no_letter_does():
    people = {"A": "A man walked in", "B": "C. S. Lewis", "C": "Nobody", "D": "D. H. Lawrence"}
    assert chosen("A man walked in", people) == "A"
    assert chosen("C. S. Lewis", people) == "B"
    assert chosen("D. H. Lawrence.", people) == "D"
    assert chosen("C. Nobody", people) == "C"
    assert chosen("B. Nobody", people) == "B"  # the letter is what was asked for
    assert chosen("Nobody", {"A": "Nobody", "B": "nobody!"}) is None


def test_only_the_end_of_an_endless_answer_is_looked_at():
    """No answer takes quadratic time: what a model repeats without an end is cut."""
    for text in ("\n", "answer ", "A ", "(", "A, ", "option A ", "the answer is either ", "\\text{", "A or "):
        chosen(text * 100_000, OPTIONS)
    assert chosen("We shall see. " * 10_000 + "The answer is B.", OPTIONS) == "B"
