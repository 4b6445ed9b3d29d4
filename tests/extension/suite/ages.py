"""A suite from outside: how old somebody is, among the ages of others. One file, by public names only."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from longreach.evals.report.answers import AnswerReport
from longreach.evals.run.sample import Sample
from longreach.evals.scores.metrics import METRICS
from longreach.evals.suites.base import Suite
from longreach.evals.suites.option import at_least, option
from longreach.evals.systems.names import FULL, HYBRID


def score_nearness(text: str, sample: Sample) -> float:
    """1 for the right age, less for every year beside it."""
    said = [int(word) for word in text.split() if word.isdigit()]
    return max((1 / (1 + abs(age - int(sample.answers[0]))) for age in said), default=0.0)


class AgeReport(AnswerReport):
    """The usual tables, and the scores of the young and the old."""

    def own_figures(self, run, label):
        groups = {}
        for line in run.predictions:
            groups.setdefault((line["reader"], line["tags"]["old"]), []).append(line["score"])
        return {
            "by_age": [
                {"reader": system, "old": bool(old), "score": 100 * sum(scores) / len(scores)}
                for (system, old), scores in groups.items()
            ]
        }

    def show_own_tables(self, found, styles) -> Iterator[str]:
        for row in found["by_age"]:
            yield f"<p>{row['reader']}, {'old' if row['old'] else 'young'}: {row['score']:.1f}</p>"


@dataclass(frozen=True)
class AgeSuite(Suite):
    """How old somebody is.

    Attributes:
        people: Whose ages are told.
        greeting: What is said first.
        polite: Whether the question says please.
    """

    name: ClassVar[str] = "ages"
    title: ClassVar[str] = "Ages of people"
    summary: ClassVar[str] = "Ask how old somebody is, among many others."
    example: ClassVar[str] = "ages smollm2 --people 30 --out runs/ages"
    known_tasks: ClassVar[tuple[str, ...]] = ("age", "name")
    takes_peers: ClassVar[bool] = False

    people: int = option(20, "People whose ages are told.", value_type=int, check=at_least(2))
    greeting: str = option("Hello.", "What is said first.")
    polite: bool = option(False, "Say please.", value_type=bool)

    def make_samples(self, tokenizer, say):
        found = []
        for task in self.tasks or self.known_tasks:
            for index in range(self.samples or 2):
                found.append(self._make_sample(task, index))
        say(f"{len(found)} people are asked about")
        return found

    def _make_sample(self, task, index):
        chance = random.Random(f"{self.seed} {task} {index}")
        ages = {f"Person{number}": chance.randint(1, 99) for number in range(self.people)}
        name, age = chance.choice(sorted(ages.items()))
        asked = f"How old is {name}?" if task == "age" else f"Who is {age}?"
        return Sample(
            id=f"{task}-{index}",
            suite=self.name,
            task=task,
            before=self.greeting + " ",
            context=" ".join(f"{name} is {age}." for name, age in ages.items()),
            after=" Please. " * self.polite + asked,
            question=asked,
            answers=(str(age) if task == "age" else name,),
            metric="nearness" if task == "age" else "part",
            max_new_tokens=4,
            tags={"old": int(age > 50)},
        )

    @classmethod
    def metrics(cls):
        return {**METRICS, "nearness": score_nearness}

    @classmethod
    def report(cls):
        return AgeReport(cls.title, cls.metrics())

    def default_systems(self, subject):
        return FULL, HYBRID
