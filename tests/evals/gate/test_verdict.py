"""Whether a way of reading takes the place of the default one: only where it is better beyond chance."""

from longreach.evals.gate.verdict import DEFAULT, verdict
from longreach.reading.policy import Policy
from longreach.reading.scorecard import ScorecardRow


def judged(base, **others):
    scores = {DEFAULT: base} | others
    rows = []
    for number, (reading, found) in enumerate(scores.items()):
        policy = Policy(raw=1 + number)
        mean = sum(found) / len(found)
        rows.append(ScorecardRow(reading, policy, len(found), mean, None, None, 0.0, 0.0, 100.0 + number))
    return verdict(rows, scores, 0)


def test_better_on_every_question_wins_though_the_intervals_overlap():
    """Pairs tell more than means: questions differ far more from each other than ways of reading."""
    base = [float(value) for value in range(0, 90, 3)]
    found = judged(base, raw=[score + 2 for score in base])
    assert found.chosen == "raw" and found.why == (
        "'raw' beats the default policy by +2.0 F1 (+2.0 to +2.0) on 30 questions."
    )


def test_a_tie_and_what_chance_explains_leave_the_default():
    base = [0.0, 100.0] * 20
    tie = judged(base, raw=list(base))
    assert tie.chosen == DEFAULT and "'raw', the best other, differs by no more than chance, +0.0 F1" in tie.why
    luck = judged(base, raw=[100.0, 0.0] * 19 + [100.0, 100.0])
    assert luck.chosen == DEFAULT and "+2.5 F1 (-" in luck.why and "40 questions" in luck.why
    assert judged(base, raw=[0.0] * 40).chosen == DEFAULT


def test_the_best_of_those_that_win_is_taken():
    base = [50.0] * 30
    found = judged(base, mixed=[60.0] * 30, raw=[70.0] * 30, full=[0.0, 100.0] * 15)
    assert found.chosen == "raw"
    # The highest mean may be luck where a lower one is sure.
    assert judged(base, full=[0.0, 110.0] * 15, raw=[54.0] * 30).chosen == "raw"


def test_few_questions_tell_nothing():
    found = judged([0.0] * 29, raw=[100.0] * 29)
    assert found == (DEFAULT, "The default policy stays: 29 questions cannot tell, it takes 30.")
    assert judged([0.0], raw=[100.0]).why == "The default policy stays: 1 question cannot tell, it takes 30."
    assert judged([50.0] * 30).why == "The default policy stays: no other was measured."
