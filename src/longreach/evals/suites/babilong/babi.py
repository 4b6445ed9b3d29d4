"""Stories of bAbI's tasks one to five: read from its files, or told by a small world of persons,
places and objects.

Paper: Weston et al. 2015, Towards AI-Complete Question System (arXiv 1502.05698). The world here
tells stories of the same kinds, words and labels; they are not bAbI's own, and figures of the two
are not to be mixed.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from longreach.errors import UsageError
from longreach.evals.suites.records import read_text

PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
GIVERS = ("Bill", "Fred", "Jeff", "Mary")
_PERSONS = ("Daniel", "John", "Mary", "Sandra")
OBJECTS = ("apple", "football", "milk")
_GO = ("moved to", "went to", "journeyed to", "travelled to", "went back to")
_TAKE = ("got", "took", "grabbed", "picked up")
_LEAVE = ("dropped", "left", "discarded", "put down")
_GIVE = ("gave", "handed", "passed")
_OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


class Story(NamedTuple):
    """Facts in the order they happened, a question about them, and its answer."""

    facts: tuple[str, ...]
    question: str
    answer: str


def read_stories(folder: str | Path, task: str) -> Iterator[Story]:
    """Reads the stories of a task from bAbI's files, one for each question, with all facts before
    it.

    Args:
        folder: where a file such as qa1_single-supporting-fact_test.txt lies.
        task: qa1 to qa5.

    Raises:
        UsageError: there is no such file, it is not UTF-8, or a line of it is malformed.
    """
    files = sorted(Path(folder).glob(f"{task}_*test.txt"))
    if not files:
        raise UsageError(
            f"'{folder}' holds no file {task}_*_test.txt: give the folder of bAbI's tasks, such"
            " as en."
        )
    facts = list[str]()
    for number, line in enumerate(read_text(files[0]).splitlines(), 1):
        count, _, text = line.partition(" ")
        question, *answer = text.split("\t")
        if (
            not count.isdecimal()
            or not question.strip()
            or len(answer) == 1
            or (answer and not answer[0].strip())
        ):
            raise UsageError(
                f"Line {number} of '{files[0]}' is not a line of bAbI: mend the file or give"
                " another."
            )
        if count == "1":
            facts = []
        if answer:
            yield Story(tuple(facts), question.strip(), answer[0].strip())
        else:
            facts.append(text.strip())


def tell_story(task: str, chance: random.Random) -> Story:
    """Makes up a story of the kind of a task, qa1 to qa5, with as many facts as bAbI's have."""
    return _TELLERS[task](chance)


class _World:
    """Who is where, who holds what, and what happened."""

    def __init__(self, persons: tuple[str, ...], chance: random.Random) -> None:
        self.persons, self._chance, self.facts = persons, chance, list[str]()
        self.place: dict[str, str] = {}  # of persons
        self.holder: dict[str, str] = {}  # of objects
        self.journey: dict[str, list[str]] = {}  # places of an object, one after the other
        self.gift: tuple[str, str, str] | None = None  # the last one: giver, object, receiver

    def happen(self, *, take: float = 0.0, give: float = 0.0) -> None:
        """One more fact: a person takes or leaves something, gives it away, or goes elsewhere."""
        person, draw = self._chance.choice(self.persons), self._chance.random()
        held = [thing for thing, holder in self.holder.items() if holder == person]
        near = [
            other
            for other in self.place
            if other != person and self.place[other] == self.place.get(person)
        ]
        if held and near and draw < give:
            self._pass_on(person, self._chance.choice(held), self._chance.choice(near))
        elif person in self.place and draw < take:
            self._take_or_leave(person, held)
        else:
            self._go(person, held)

    def _say(self, person: str, verbs: tuple[str, ...], rest: str) -> None:
        self.facts.append(f"{person} {self._chance.choice(verbs)} {rest}.")

    def _go(self, person: str, held: list[str]) -> None:
        place = self._chance.choice([place for place in PLACES if place != self.place.get(person)])
        self._say(person, _GO, f"the {place}")
        self.place[person] = place
        for thing in held:
            self.journey[thing].append(place)

    def _take_or_leave(self, person: str, held: list[str]) -> None:
        here = self.place[person]
        free = [
            thing
            for thing in OBJECTS
            if thing not in self.holder and self.journey.get(thing, [here])[-1] == here
        ]
        if free and (not held or self._chance.random() < 0.5):
            thing = self._chance.choice(free)
            self._say(person, _TAKE, f"the {thing} there")
            self.holder[thing] = person
            self.journey.setdefault(thing, [here])
        elif held:
            thing = self._chance.choice(held)
            self._say(person, _LEAVE, f"the {thing}")
            del self.holder[thing]
        else:
            self._go(person, held)

    def _pass_on(self, person: str, thing: str, other: str) -> None:
        self._say(person, _GIVE, f"the {thing} to {other}")
        self.holder[thing] = other
        self.gift = (person, thing, other)


def _where_is_person(chance: random.Random) -> Story:
    world = _World(_PERSONS, chance)
    for _ in range(chance.choice((2, 4, 6, 8, 10))):
        world.happen()
    person = chance.choice(sorted(world.place))
    return Story(tuple(world.facts), f"Where is {person}?", world.place[person])


def _where_is_object(chance: random.Random) -> Story:
    world, least = _World(_PERSONS, chance), chance.randint(4, 24)
    while len(world.facts) < least or not world.journey:
        world.happen(take=0.35)
    thing = chance.choice(sorted(world.journey))
    return Story(tuple(world.facts), f"Where is the {thing}?", world.journey[thing][-1])


def _where_was_object(chance: random.Random) -> Story:
    world, least = _World(_PERSONS, chance), chance.randint(10, 80)

    def moved() -> list[tuple[str, int]]:
        """Objects and steps to a place where they have been once only, so that one place comes
        before it."""
        return [
            (thing, step)
            for thing, places in sorted(world.journey.items())
            for step, place in enumerate(places)
            if step and places.count(place) == 1
        ]

    while len(world.facts) < least or not moved():
        world.happen(take=0.35)
    thing, step = chance.choice(moved())
    places = world.journey[thing]
    return Story(
        tuple(world.facts), f"Where was the {thing} before the {places[step]}?", places[step - 1]
    )


def _which_place(chance: random.Random) -> Story:
    """Three places in a row: two facts, each told from either side, and a question from either side
    of one of them."""
    row, side = chance.sample(PLACES, 3), chance.choice(sorted(_OPPOSITE))
    facts = []
    for near, far in chance.sample([(row[0], row[1]), (row[1], row[2])], 2):
        facts.append(
            chance.choice(
                [
                    f"The {near} is {side} of the {far}.",
                    f"The {far} is {_OPPOSITE[side]} of the {near}.",
                ]
            )
        )
    near, far = chance.choice([(row[0], row[1]), (row[1], row[2])])
    question, answer = chance.choice(
        [
            (f"What is {side} of the {far}?", near),
            (f"What is the {far} {_OPPOSITE[side]} of?", near),
            (f"What is {_OPPOSITE[side]} of the {near}?", far),
            (f"What is the {near} {side} of?", far),
        ]
    )
    return Story(tuple(facts), question, answer)


def _who_gave(chance: random.Random) -> Story:
    world, least = _World(GIVERS, chance), chance.randint(4, 36)
    while len(world.facts) < least or world.gift is None:
        world.happen(take=0.3, give=0.6)
    giver, thing, receiver = world.gift
    question, answer = chance.choice(
        [
            (f"What did {giver} give to {receiver}?", thing),
            (f"Who received the {thing}?", receiver),
            (f"Who gave the {thing}?", giver),
            (f"Who did {giver} give the {thing} to?", receiver),
            (f"Who gave the {thing} to {receiver}?", giver),
        ]
    )
    return Story(tuple(world.facts), question, answer)


_TELLERS: dict[str, Callable[[random.Random], Story]] = {
    "qa1": _where_is_person,
    "qa2": _where_is_object,
    "qa3": _where_was_object,
    "qa4": _which_place,
    "qa5": _who_gave,
}
