"""What the tests of all suites ask of samples."""

import random

from longreach.evals.suites.draw import count_tokens

_SYLLABLES = ["ba", "de", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu", "va", "ze"]


def prose(words, seed=0):
    """Sentences of words that mean nothing."""
    chance, text = random.Random(seed), []
    while len(text) < words:
        sentence = ["".join(chance.choices(_SYLLABLES, k=chance.randint(1, 3))) for _ in range(chance.randint(5, 14))]
        text += [sentence[0].capitalize(), *sentence[1:-1], f"{sentence[-1]}."]
    return " ".join(text)


def left(sample, tokenizer):
    """Tokens that a prompt and its answer leave of the length."""
    prompt = count_tokens(tokenizer, sample.before + sample.context + sample.after)
    return sample.length - sample.max_new_tokens - prompt


def oracle(sample):
    """An answer that says everything that is right."""
    return " ".join(sample.answers)


def guess(sample):
    """An answer of words that stand in the context, as many as a right one has."""
    chance = random.Random(sample.id)
    return " ".join(chance.choices(sample.context.split(), k=len(oracle(sample).split())))
