"""A small corpus to study, and a study of it as a process of its own: `python studied.py STORE EPOCHS`."""

import sys

import torch

from longreach import Corpus, Document, MeanPool
from longreach.datasets.questions import Question
from longreach.training.study.settings import StudySettings
from longreach.training.study.study import study
from tests.conftest import make_model, make_tokenizer

ANSWERS = {"tarts": "eaten", "whale": "white", "watch": "late", "queen": "red"}
QUESTIONS = [Question(name, "How is it?", (answer,)) for name, answer in ANSWERS.items()]
QUESTIONS += [Question("whale", "Tell me again, in your own words, how it is.", ("white",), passage=1)]


def make_corpus(store, name="c", model=None):
    """Documents of unequal lengths, so that batches are padded."""
    compressor = MeanPool(model or make_model(), make_tokenizer(), 10, segment_tokens=50)
    corpus = Corpus.create(store, name, compressor)
    corpus.add([Document(n, f"The {n} is {a}. " * (5 + 5 * i)) for i, (n, a) in enumerate(ANSWERS.items())])
    return corpus


def settings(epochs, **more):
    few = {"learning_rate": 1e-2, "batch_size": 2, "accumulate": 2, "save_every": 2}
    return StudySettings(epochs=epochs, **(few | more))


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(Corpus.open(sys.argv[1], "c"), make_model(), make_tokenizer(), QUESTIONS, settings(int(sys.argv[2])))
