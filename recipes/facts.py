"""What both miniatures share: facts in filler, a small Llama, its training, scores and the report.

A text is random filler with facts in it; a fact is a key and its value. After the text every key is
asked, in another order: [text ; key value key value ...]. Only answers count, in training and in
scores; chance is one in VALUES.

Shapes: R rows, T tokens of a text, F facts of each, V vocabulary.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from longreach.models.machine import record

KEYS = VALUES = 64
FILLERS = 127
VOCABULARY = ["<|end|>", *(f"key{i}" for i in range(KEYS)), *(f"value{i}" for i in range(VALUES))]
VOCABULARY += [f"word{i}" for i in range(FILLERS)]


class Facts(NamedTuple):
    """Texts [R, T], questions with their answers [R, 2F], and where in the text each asked fact
    begins [R, F]."""

    text: Tensor
    questions: Tensor
    places: Tensor

    @property
    def ids(self) -> Tensor:
        """Texts and questions, [R, T + 2F]."""
        return torch.cat([self.text, self.questions], dim=1)

    @property
    def labels(self) -> Tensor:
        """What each position of the questions predicts: the value after a key, -100 after a value,
        [R, 2F]."""
        return torch.where(
            torch.arange(self.questions.shape[1]) % 2 == 0, self.questions.roll(-1, 1), -100
        )

    def loss(self, logits: Tensor) -> Tensor:
        """Mean cross entropy of the answers, of logits [R, >= 2F, V] whose last positions are the
        questions."""
        return cross_entropy(
            logits[:, -self.questions.shape[1] :].flatten(0, 1), self.labels.flatten()
        )

    def right(self, logits: Tensor) -> Tensor:
        """Which answers are right, [R, F]."""
        return logits[:, -self.questions.shape[1] :][:, ::2].argmax(-1) == self.questions[:, 1::2]


def draw(rows: int, tokens: int, facts: int, generator: torch.Generator) -> Facts:
    """Texts with facts at random places; no key comes twice in a text, no two facts overlap."""

    def some_of(size: int) -> Tensor:
        return torch.rand(rows, size, generator=generator).argsort(1)[:, :facts]

    keys = 1 + some_of(KEYS)
    values = 1 + KEYS + torch.randint(VALUES, (rows, facts), generator=generator)
    text = 1 + KEYS + VALUES + torch.randint(FILLERS, (rows, tokens), generator=generator)
    places = some_of(tokens - facts).sort(1).values + torch.arange(facts)
    text.scatter_(1, places, keys).scatter_(1, places + 1, values)
    order = some_of(facts)
    asked = torch.stack([keys.gather(1, order), values.gather(1, order)], dim=2).flatten(1)
    return Facts(text, asked, places.gather(1, order))


def make_model(layers: int, window: int, seed: int) -> Any:
    """An untrained Llama of hidden size 64: four heads over two KV heads."""
    torch.manual_seed(seed)
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=window,
            initializer_range=0.05,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    # As large as what the final norm gives: with smaller ones recall takes many times the steps to
    # appear.
    torch.nn.init.normal_(model.get_input_embeddings().weight)
    return model


def make_tokenizer() -> Any:
    """A word, a token."""
    words = Tokenizer(
        WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<|end|>")
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|end|>", pad_token="<|end|>")


def train(
    module: torch.nn.Module,
    loss: Callable[[Facts], Tensor],
    stages: Sequence[tuple[int, int]],
    seed: int,
    *,
    steps: int,
    mixed: bool = False,
    batch_tokens: int = 768,
    lr: float = 5e-3,
) -> int:
    """Trains with Muon on matrices and AdamW on all else, on longer texts as soon as shorter ones
    are recalled.

    Args:
        module: What is trained.
        loss: Of a batch.
        stages: Tokens and facts of a text, from short to long; the next begins when the loss is
            below 0.35 nats.
        seed: Of the texts.
        steps: In all stages together.
        mixed: Draw a stage for every step instead, so that every model that is trained so sees the
            same texts.
        batch_tokens: Texts and questions of a step.
        lr: The highest learning rate, after 50 steps of warm-up; it falls to 0 over the last third.

    Returns:
        The step at which the last stage began, `steps` if it never did.
    """
    generator = torch.Generator().manual_seed(seed)
    named = [
        (name, parameter)
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    ]
    matrices = [
        parameter for name, parameter in named if parameter.dim() == 2 and "embed" not in name
    ]
    others = [parameter for name, parameter in named if parameter.dim() != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    ]
    if others:
        optimizers.append(torch.optim.AdamW(others, lr=lr, weight_decay=0.0, betas=(0.9, 0.98)))
    stage, mean, begun = 0, 1.0, steps
    for step in range(steps):
        if mixed:
            stage = int(torch.randint(len(stages), (), generator=generator))
        tokens, facts = stages[stage]
        value = loss(draw(max(1, batch_tokens // (tokens + 2 * facts)), tokens, facts, generator))
        value.backward()
        torch.nn.utils.clip_grad_norm_([parameter for _, parameter in named], 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1, (step + 1) / 50, 3 * (steps - step) / steps)
            optimizer.step()
            optimizer.zero_grad()
        mean = 0.9 * mean + 0.1 * value.item()
        if mean < 0.35 and stage + 1 < len(stages) and not mixed:
            stage, mean = stage + 1, 1.0
            begun = step + 1 if stage + 1 == len(stages) else begun
    return begun


def options(description: str) -> argparse.Namespace:
    """The command line of a miniature."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="fewer steps and smaller sizes, for the tests"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of weights and texts; settings were chosen with others"
    )
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    torch.set_num_threads(1)
    return parser.parse_args()


def report(name: str, args: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Prints the figures with command, machine and versions as JSON, and writes them where
    asked."""
    command = (
        f"python recipes/{name}.py"
        + " --quick" * args.quick
        + f" --seed {args.seed}" * (args.seed != 0)
    )
    found = (
        record([], torch.device("cpu"), ["peft"])
        | {"command": command, "seed": args.seed}
        | figures
    )
    text = json.dumps(found | {"processor_seconds": round(time.process_time())}, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
