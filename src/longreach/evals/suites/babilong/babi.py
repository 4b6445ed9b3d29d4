"""Stories of bAbI's tasks one to five: read from its files, or told by a small world.

Paper: Weston et al. 2015, Towards AI-Complete Question System (arXiv 1502.05698). The world here
is of persons, places and objects, and tells stories of the same kinds, words and labels; they are
not bAbI's own, and figures of the two are not to be mixed.
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
    """Yields the stories of a task in bAbI's files, one for each question, with all facts before.

    Args:
        folder: Where a file such as qa1_single-supporting-fact_test.txt lies.
        task: qa1 to qa5.

    Raises:
        UsageError: There is no such file, it is not UTF-8, or a line of it is malformed.
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
        # A question has an answer and the numbers of its facts behind it; a fact has nothing.
        answered = not answer or (len(answer) > 1 and answer[0].strip())
        if not count.isdecimal() or not question.strip() or not answered:
            raise UsageError(
                f"Line {number} of '{files[0]}' is not a line of bAbI: fix the file or give"
                " another."
            )
        # Another story begins.
        if count == "1":
            facts = []
        if answer:
            yield Story(tuple(facts), question.strip(), answer[0].strip())
        else:
            facts.append(text.strip())


def tell_story(task: str, chance: random.Random) -> Story:
    """Makes up a story of the kind of a task, qa1 to qa5, with as many facts as bAbI's have."""
    return _TELLERS[task](chance)


class Gift(NamedTuple):
    """Something that was given away."""

    giver: str
    thing: str
    receiver: str


class Step(NamedTuple):
    """The move of an object to a place: the n-th of its journey."""

    thing: str
    number: int


class _World:
    """Who is where, who holds what, and what happened."""

    def __init__(self, persons: tuple[str, ...], chance: random.Random) -> None:
        self.persons = persons
        self.facts = list[str]()
        self.place: dict[str, str] = {}  # of persons
        self.holder: dict[str, str] = {}  # of objects
        self.journey: dict[str, list[str]] = {}  # places of an object, one after the other
        self.gift: Gift | None = None  # the last one
        self._chance = chance

    def happen(self, *, take: float = 0.0, give: float = 0.0) -> None:
        """Adds a fact: a person takes or leaves something, gives it away, or goes elsewhere.

        Args:
            take: How likely something is taken or left, where that can be.
            give: How likely something is given away, where that can be.
        """
        person = self._chance.choice(self.persons)
        draw = self._chance.random()
        held = [thing for thing, holder in self.holder.items() if holder == person]
        near = self._find_near(person)
        # One draw decides between all that can happen, so that shares stay what they are.
        if held and near and draw < give:
            self._pass_on(person, self._chance.choice(held), self._chance.choice(near))
        elif person in self.place and draw < take:
            self._take_or_leave(person, held)
        else:
            self._go(person, held)

    def _find_near(self, person: str) -> list[str]:
        """Returns who else is where a person is."""
        here = self.place.get(person)
        return [name for name, place in self.place.items() if name != person and place == here]

    def _say(self, person: str, verbs: tuple[str, ...], rest: str) -> None:
        self.facts.append(f"{person} {self._chance.choice(verbs)} {rest}.")

    def _go(self, person: str, held: list[str]) -> None:
        place = self._chance.choice([place for place in PLACES if place != self.place.get(person)])
        self._say(person, _GO, f"the {place}")
        self.place[person] = place
        # What somebody holds comes along.
        for thing in held:
            self.journey[thing].append(place)

    def _take_or_leave(self, person: str, held: list[str]) -> None:
        here = self.place[person]
        free = []
        for thing in OBJECTS:
            # Nobody knows where an object is that was never seen: it may be here.
            at = self.journey.get(thing, [here])[-1]
            if thing not in self.holder and at == here:
                free.append(thing)
        if free and (not held or self._chance.random() < 0.5):
            thing = self._chance.choice(free)
            self._say(person, _TAKE, f"the {thing} there")
            self.holder[thing] = person
            # Its journey begins where it was first seen.
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
        self.gift = Gift(person, thing, other)

    def find_moves(self) -> list[Step]:
        """Returns the moves of objects to places where each has been only once.

        Only of these it is clear which place came before.
        """
        found = []
        for thing, places in sorted(self.journey.items()):
            for number, place in enumerate(places):
                if number and places.count(place) == 1:
                    found.append(Step(thing, number))
        return found


def _where_is_person(chance: random.Random) -> Story:
    world = _World(_PERSONS, chance)
    for _ in range(chance.choice((2, 4, 6, 8, 10))):
        world.happen()
    # Sorted: what is drawn may not depend on what happened first.
    person = chance.choice(sorted(world.place))
    return Story(tuple(world.facts), f"Where is {person}?", world.place[person])


def _where_is_object(chance: random.Random) -> Story:
    world = _World(_PERSONS, chance)
    least = chance.randint(4, 24)
    # Until there is something to ask about.
    while len(world.facts) < least or not world.journey:
        world.happen(take=0.35)
    thing = chance.choice(sorted(world.journey))
    return Story(tuple(world.facts), f"Where is the {thing}?", world.journey[thing][-1])


def _where_was_object(chance: random.Random) -> Story:
    world = _World(_PERSONS, chance)
    least = chance.randint(10, 80)
    while len(world.facts) < least or not world.find_moves():
        world.happen(take=0.35)
    thing, number = chance.choice(world.find_moves())
    places = world.journey[thing]
    question = f"Where was the {thing} before the {places[number]}?"
    return Story(tuple(world.facts), question, places[number - 1])


def _which_place(chance: random.Random) -> Story:
    """Tells of three places in a row: two facts and a question, each from either side."""
    row = chance.sample(PLACES, 3)
    side = chance.choice(sorted(_OPPOSITE))
    other_side = _OPPOSITE[side]
    neighbors = [(row[0], row[1]), (row[1], row[2])]
    facts = []
    for near, far in chance.sample(neighbors, 2):
        told = [f"The {near} is {side} of the {far}.", f"The {far} is {other_side} of the {near}."]
        facts.append(chance.choice(told))
    near, far = chance.choice(neighbors)
    questions = [
        (f"What is {side} of the {far}?", near),
        (f"What is the {far} {other_side} of?", near),
        (f"What is {other_side} of the {near}?", far),
        (f"What is the {near} {side} of?", far),
    ]
    question, answer = chance.choice(questions)
    return Story(tuple(facts), question, answer)


def _who_gave(chance: random.Random) -> Story:
    world = _World(GIVERS, chance)
    least = chance.randint(4, 36)
    while len(world.facts) < least or world.gift is None:
        world.happen(take=0.3, give=0.6)
    giver, thing, receiver = world.gift
    questions = [
        (f"What did {giver} give to {receiver}?", thing),
        (f"Who received the {thing}?", receiver),
        (f"Who gave the {thing}?", giver),
        (f"Who did {giver} give the {thing} to?", receiver),
        (f"Who gave the {thing} to {receiver}?", giver),
    ]
    question, answer = chance.choice(questions)
    return Story(tuple(world.facts), question, answer)


_TELLERS: dict[str, Callable[[random.Random], Story]] = {
    "qa1": _where_is_person,
    "qa2": _where_is_object,
    "qa3": _where_was_object,
    "qa4": _which_place,
    "qa5": _who_gave,
}
