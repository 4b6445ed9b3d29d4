"""Probes: of one length, their answers outside the window, and of other words than the tests of quality."""

import random
import re

import pytest

import longreach
from longreach.errors import UsageError
from longreach.evals.suites.niah import samples as niah
from longreach.evals.suites.ruler import needles as ruler
from longreach.layers.filler import draw_sentences
from longreach.layers.kinds import KINDS
from longreach.layers.probes import digest_probes, make_probes
from tests.conftest import make_tokenizer

PATTERN = longreach.AttentionPattern(64, 1, 4, 0)
LENGTH = 4096  # bytes are tokens here


@pytest.fixture(scope="module")
def probes():
    return make_probes(make_tokenizer(), PATTERN, length=LENGTH, samples=2)


def test_all_are_of_one_length_and_of_every_kind(probes):
    assert {len(probe.ids) for probe in probes} == {LENGTH}
    assert [probe.kind for probe in probes] == [*KINDS] * 2


def test_answers_stand_in_the_text_once_before_and_outside_every_window(probes, tokenizer):
    for probe in probes:
        for answer in probe.answers:
            said = tokenizer.decode([probe.ids[at] for at in answer]).strip()
            before = tokenizer.decode(probe.ids[: probe.question_start])
            assert said and before.count(said) >= 1
            # Whatever a query of the questions sees in a sparse layer holds the answer nowhere but in itself.
            block = probe.question_start // PATTERN.block_size
            seen = probe.ids[PATTERN.local_start(block) * PATTERN.block_size : answer[0]]
            sink = probe.ids[: PATTERN.block_size * PATTERN.sink_blocks]
            assert said not in tokenizer.decode(seen) and said not in tokenizer.decode(sink)


def test_answers_are_those_of_their_questions(probes, tokenizer):
    for probe in probes:
        text = tokenizer.decode(probe.ids)
        for answer in probe.answers:
            said = tokenizer.decode([probe.ids[at] for at in answer])
            assert text.count(f"{said.strip()}.") >= 1
            assert probe.ids[answer[-1] + 1] == tokenizer.encode(".", add_special_tokens=False)[0]


def test_the_seed_decides_and_nothing_else():
    def make(**options):
        return make_probes(make_tokenizer(), PATTERN, length=LENGTH, **options)

    assert make(samples=1) == make(samples=1) == make(samples=2)[:5]
    assert make(samples=1, kinds=["prose"])[0] == make(samples=1)[2]
    assert digest_probes(make(samples=1)) != digest_probes(make(samples=1, seed=1))


def test_filler_comes_from_the_users_text():
    words = [f"Sentence number {at} says that zebras sleep." for at in range(400)]
    made = make_probes(make_tokenizer(), PATTERN, length=LENGTH, samples=1, text=" ".join(words))
    for probe in made:
        text = make_tokenizer().decode(probe.ids)
        assert len(probe.ids) == LENGTH and "zebras sleep." in text and "Toward evening" not in text


@pytest.mark.parametrize(
    "options, word",
    [
        ({"text": "Too short."}, "give a longer text"),
        ({"length": 700}, "greater length"),
        ({"kinds": ["numbers", "riddles"]}, "numbers, keys, prose, tracking, copying"),
        ({"kinds": []}, "none"),
        ({"kinds": ["keys", "keys"]}, "different"),
        ({"samples": 0}, "at least 1"),
    ],
)
def test_wrong_values_are_one_sentence(options, word):
    with pytest.raises(UsageError, match=word):
        make_probes(make_tokenizer(), PATTERN, **({"length": LENGTH} | options))


def test_a_stride_is_refused():
    with pytest.raises(UsageError, match="stride 0"):
        make_probes(make_tokenizer(), longreach.AttentionPattern(64, 1, 4, 8))


# -- held apart from the tests of quality ----------------------------------------------------------------------------


def words_of(text):
    return re.findall(r"[a-z]+", text.lower())


def runs_of(text, count=4):
    """Every run of so many words that a text holds."""
    words = words_of(text)
    return {tuple(words[at : at + count]) for at in range(len(words) - count + 1)}


def sentences():
    """Sentences of all kinds of probes and of the filler."""
    chance = random.Random(5)
    found = []
    for draw in KINDS.values():
        for _ in range(20):
            hidden = draw(chance)
            found += [*hidden.facts, *(f"{asked} {answer}" for asked, answer in hidden.questions)]
    filler = draw_sentences(chance)
    return found + [next(filler) for _ in range(50)]


def test_no_template_is_that_of_niah_or_ruler():
    needle = niah.draw_needle("niah", "seed")
    original = niah.draw_needle(niah.ORIGINAL, "seed")
    theirs = [*needle[:3], *original[:3], niah._BEFORE, ruler.NOISE, ruler._NEEDLE]
    for task in (ruler.Needles("noise"), ruler.Needles("essay", keys=4, queries=4), ruler.Needles("noise", values=4)):
        theirs += ruler._ask(task, [f"key{at}" for at in range(task.queries)])
    theirs += [
        "Memorize and track the chain(s) of variable assignment hidden in the following text.",
        "Find all variables that are assigned the value 12345 in the text above.",
        "VAR ABCDE = VAR FGHIJ",
    ]
    known = set().union(*map(runs_of, theirs))
    for sentence in sentences():
        assert not runs_of(sentence) & known, sentence
        assert not {"magic", "special", "var"} & set(words_of(sentence)), sentence


def test_no_key_or_value_is_one_that_niah_or_ruler_could_draw():
    pytest.importorskip("wonderwords")
    from longreach.evals.suites.ruler.words import words
    from longreach.layers import words as own

    theirs = {*words(), *map(str.lower, niah._CITIES)}
    chance = random.Random(7)
    drawn = {own.draw_name(chance).lower() for _ in range(3000)}
    drawn.update(*(own.draw_line(chance, 4).split() for _ in range(500)))
    drawn.update(*(own.draw_phrase(chance).split() for _ in range(500)))
    assert not drawn & theirs
    # Their numbers have seven digits, their variables' values five.
    assert {len(own.draw_number(chance)) for _ in range(200)} == {6}
    assert {len(own.draw_count(chance)) for _ in range(200)} == {4}
