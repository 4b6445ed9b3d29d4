"""What is asked: five kinds of facts, how they are told, and their questions.

A kind draws a `Matter`: statements for the text, of which some are evidence and the others mislead,
and questions with the numbers of the statements that answer them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from longreach.datasets.asks.words import Vocabulary, draw_different


class Asking(NamedTuple):
    """A question about a text.

    Attributes:
        question: Its words.
        lead: How the reply begins, before what has to be found; may be empty.
        answer: What has to be found.
        evidence: Numbers of the statements that say it.
    """

    question: str
    lead: str
    answer: str
    evidence: tuple[int, ...]


class Matter(NamedTuple):
    """What a row is about.

    Attributes:
        kind: Its name.
        statements: What is said, in the order in which it is said.
        askings: Questions about it.
        crowd: Makes one more statement that answers nothing, as the n-th of many; None where prose
            stands around the statements.
    """

    kind: str
    statements: list[str]
    askings: list[Asking]
    crowd: Callable[[], str] | None = None


class Form(NamedTuple):
    """How a pair is told and asked for; {k} is the key, {v} the value."""

    told: str
    asked: str
    lead: str


_ENTRIES = (
    Form("{k} => {v}", "Which entry stands beside {k}?", "{k} =>"),
    Form("'{k}': '{v}',", "Look up '{k}' in the list.", "'{k}':"),
    Form("{k} ...... {v}", "What is listed for {k}?", "{k} ......"),
    Form("| {k} | {v} |", "Give the second column of the row of {k}.", "| {k} |"),
    Form("<{k}> {v}", "What follows <{k}>?", "<{k}>"),
    Form("Shelf mark {k}, reader {v}.", "Which reader goes with shelf mark {k}?", "Reader"),
)
_CODES = (
    Form(
        "The locker of {k} opens with {v}.",
        "Which code opens the locker of {k}?",
        "{k}'s locker opens with",
    ),
    Form("{k} drew lot {v} that day.", "Which lot did {k} draw?", "{k} drew lot"),
    Form(
        "In the register {k} is entered under {v}.",
        "Under what is {k} entered in the register?",
        "",
    ),
    Form(
        "The ticket of {k} bore the mark {v}.", "What mark did the ticket of {k} bear?", "It bore"
    ),
    Form("Letters for {k} go to box {v}.", "To which box do letters for {k} go?", "To box"),
    Form("{k} keeps the watchword {v}.", "What watchword does {k} keep?", "The watchword of {k}:"),
    Form("(Note: account {v} belongs to {k}.)", "Which account belongs to {k}?", "Account"),
)
_SERIES = (
    Form(
        "{k} sold a cask of {v} gallons.",
        "How many gallons did each cask of {k} hold?",
        "In all, {k} sold casks of",
    ),
    Form(
        "A parcel numbered {v} came for {k}.",
        "List the numbers of the parcels for {k}.",
        "Parcels for {k}:",
    ),
    Form("{k} was seen in {v}.", "In which places was {k} seen?", "{k} was seen in"),
    Form("{k} owes {v} something.", "To whom does {k} owe something?", "{k} owes"),
    Form("Page {v} mentions {k}.", "Name each page that mentions {k}.", "Pages"),
)
_LINKS = (
    Form("{k} := {v}", "After all of these lines, {k} is worth how much?", "{k} is worth"),
    Form("let {k} be {v};", "Give the value of {k}.", "{k} is"),
    Form("{k} <- {v}", "Follow the arrows: what does {k} hold?", "{k} holds"),
    Form(
        "Jar {k} has the same label as {v}.", "What is the label of jar {k} in the end?", "Jar {k}:"
    ),
)
_LIVES = (
    Form("{k} was born in {v}.", "Where was {k} born?", "{k} was born in"),
    Form("{k} earned a living as {v}.", "What was the trade of {k}?", "{k} was"),
    Form("To {k} an uncle left {v}.", "What did an uncle leave to {k}?", "An uncle left"),
    Form("{k} had moved to {v} before the winter.", "To which village had {k} moved?", ""),
    Form(
        "In those years {k} never traveled without {v}.",
        "Without what did {k} never travel?",
        "Without",
    ),
    Form("{k} was to marry {v}.", "Whom was {k} to marry?", "{k} was to marry"),
)
_FEWEST_LINKS = 2
_MOST_LINKS = 5
# Share of chains of which every name is asked for, instead of the value of one.
_EVERY_NAME = 0.4


def draw_entries(chance: random.Random, words: Vocabulary, count: int) -> Matter:
    """Returns entries of a long list: nothing stands around them but others of their form."""
    form = chance.choice(_ENTRIES)
    name = _choose(chance, words.mark, words.made_up, words.person, words.place, words.number)
    value = _choose(chance, words.mark, words.made_up, words.number, words.number)
    keys = draw_different(lambda: name(chance), count)
    told = set(keys)
    statements = []
    askings = []
    for number, key in enumerate(keys):
        held = value(chance)
        statements.append(_fill(form.told, key, held))
        askings.append(_ask(form, key, held, (number,)))

    def crowd() -> str:
        key = name(chance)
        # A key that comes twice would have two answers.
        while key in told:
            key = name(chance)
        told.add(key)
        return _fill(form.told, key, value(chance))

    return Matter("entries", statements, askings, crowd)


def draw_keys(chance: random.Random, words: Vocabulary, count: int) -> Matter:
    """Returns several keys of one form, with a value each; about half of them are asked for."""
    form = chance.choice(_CODES)
    name = _choose(chance, words.person, words.place, words.made_up)
    value = _choose(chance, words.number, words.number, words.mark, words.made_up)
    keys = draw_different(lambda: name(chance), 2 * count)
    statements = []
    askings = []
    for number, key in enumerate(keys):
        held = value(chance)
        statements.append(_fill(form.told, key, held))
        if number < count:
            askings.append(_ask(form, key, held, (number,)))
    return _shuffle(chance, Matter("keys", statements, askings))


def draw_values(chance: random.Random, words: Vocabulary, count: int) -> Matter:
    """Returns keys with two to four values each, told apart from each other; all are asked for."""
    form = chance.choice(_SERIES)
    places = {"was seen in": words.place, "owes": words.person}
    value: Callable[[random.Random], str] = words.number
    for phrase, other in places.items():
        if phrase in form.told:
            value = other
    keys = draw_different(lambda: words.person(chance), max(1, count // 2))
    told = []
    for key in keys:
        held = draw_different(lambda: value(chance), chance.choice((2, 3, 4)))
        told += [(key, one) for one in held]
    # The order of the text is the order of the answer, so that there is one right answer.
    chance.shuffle(told)
    statements = [_fill(form.told, key, held) for key, held in told]
    askings = []
    for key in keys:
        places_of = [place for place, pair in enumerate(told) if pair[0] == key]
        answer = ", ".join(told[place][1] for place in places_of)
        askings.append(_ask(form, key, answer, tuple(places_of)))
    return Matter("values", statements, askings)


def draw_links(chance: random.Random, words: Vocabulary, count: int) -> Matter:
    """Returns chains of names, each of which stands for the one before it, and asks for values.

    The statements of a chain keep their order.
    """
    form = chance.choice(_LINKS)
    used = iter(draw_different(lambda: words.made_up(chance), count * _MOST_LINKS))
    chains = []
    askings = []
    for _ in range(count):
        value = words.number(chance)
        names = [next(used) for _ in range(chance.randint(_FEWEST_LINKS, _MOST_LINKS))]
        held = value
        lines = []
        for name in names:
            lines.append(_fill(form.told, name, held))
            held = name
        chains.append(lines)
        if chance.random() < _EVERY_NAME:
            every = tuple(range(len(names)))
            question = f"Name everything that comes to {value}."
            askings.append(Asking(question, f"{value}:", ", ".join(names), every))
        else:
            asked = chance.randrange(len(names))
            askings.append(_ask(form, names[asked], value, tuple(range(asked + 1))))
    # Which chain each line of the text is of.
    order = list[int]()
    for number, lines in enumerate(chains):
        order += [number] * len(lines)
    chance.shuffle(order)
    statements = list[str]()
    places: list[list[int]] = [[] for _ in chains]
    for number in order:
        step = len(places[number])
        places[number].append(len(statements))
        statements.append(chains[number][step])
    placed = []
    for number, one in enumerate(askings):
        evidence = tuple(places[number][step] for step in one.evidence)
        placed.append(one._replace(evidence=evidence))
    return Matter("links", statements, placed)


def draw_lives(chance: random.Random, words: Vocabulary, count: int) -> Matter:
    """Returns what became of people: several facts about each of them, a few of them asked for."""
    people = draw_different(lambda: words.person(chance), max(2, count))
    kinds: dict[str, Callable[[random.Random], str]] = {
        "born": words.place,
        "trade": words.trade,
        "uncle": words.thing,
        "moved": words.place,
        "travel": words.thing,
        "marry": words.person,
    }
    statements = []
    askings = []
    for person in people:
        forms = chance.sample(_LIVES, 2)
        for form in forms:
            (make,) = [make for word, make in kinds.items() if word in form.asked]
            held = make(chance)
            if make == words.trade:
                held = f"a {held}"
            statements.append(_fill(form.told, person, held))
            askings.append(_ask(form, person, held, (len(statements) - 1,)))
    chance.shuffle(askings)
    return _shuffle(chance, Matter("lives", statements, askings[:count]))


KINDS: dict[str, Callable[[random.Random, Vocabulary, int], Matter]] = {
    "entries": draw_entries,
    "keys": draw_keys,
    "values": draw_values,
    "links": draw_links,
    "lives": draw_lives,
}
"""Draw a matter by chance, words and the number of questions."""


def _choose(
    chance: random.Random, *makers: Callable[[random.Random], str]
) -> Callable[[random.Random], str]:
    return chance.choice(makers)


def _fill(template: str, key: str, value: str) -> str:
    return template.format(k=key, v=value)


def _ask(form: Form, key: str, answer: str, evidence: tuple[int, ...]) -> Asking:
    return Asking(_fill(form.asked, key, ""), _fill(form.lead, key, ""), answer, evidence)


def _shuffle(chance: random.Random, matter: Matter) -> Matter:
    """Returns a matter with its statements in another order."""
    order = list(range(len(matter.statements)))
    chance.shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    askings = []
    for one in matter.askings:
        askings.append(one._replace(evidence=tuple(place[old] for old in one.evidence)))
    statements = [matter.statements[old] for old in order]
    return matter._replace(statements=statements, askings=askings)
