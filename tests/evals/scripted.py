"""Samples and readers whose answers are known, and a run of them as a process: `python -m tests.evals.scripted OUT`."""

import random
import sys
import time

from longreach.evals.run.runner import evaluate
from longreach.evals.run.sample import Prediction, Sample


def samples(tasks=("one", "two"), lengths=(64, 128), count=5):
    """Questions about numbers, a different one each."""
    return [
        Sample(
            id=f"{task}-{length}-{index}",
            suite="scripted",
            task=task,
            before="",
            context=f"The number of {task} {index} is {7 * index + length}. " * (length // 32),
            after="The number is",
            question=f"What is the number of {task} {index}?",
            answers=(str(7 * index + length),),
            metric="all",
            max_new_tokens=8,
            length=length,
            tags={"index": index},
        )
        for task in tasks
        for length in lengths
        for index in range(count)
    ]


class Scripted:
    """A reader whose text a function makes of a sample and of the batch it comes in; it counts what it is asked."""

    def __init__(self, name, say, seconds=0.0, **identity):
        self.name, self._say, self._seconds, self._identity = name, say, seconds, identity
        self.asked = []

    def answer(self, asked):
        for sample in asked:
            time.sleep(self._seconds)
            self.asked.append(sample.id)
            text = self._say(sample, asked)
            yield Prediction(text, len(sample.context), len(sample.context), 5, 0.5, 2.5, 1000, 2000)

    def identity(self):
        return {"kind": "scripted"} | self._identity


def oracle(seconds=0.0):
    """Right, and says in what company it was asked."""
    return Scripted("oracle", lambda sample, asked: f"{sample.answers[0]}, of {len(asked)}", seconds)


def guessing():
    """Says any number of two digits."""
    return Scripted("random", lambda sample, asked: str(random.Random(sample.id).randrange(10, 60)))


def run(out, seconds=0.0, say=lambda text: None, **more):
    readers = more.pop("readers", None) or [oracle(seconds), guessing()]
    options = {"suite": "scripted", "settings": {"lengths": [64, 128]}, "seed": 3, "batch_size": 3} | more
    return evaluate(options.pop("samples", None) or samples(), readers, out, say=say, **options)


if __name__ == "__main__":
    run(sys.argv[1], 0.02)
