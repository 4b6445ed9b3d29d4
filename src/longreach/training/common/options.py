"""The options that all trainings share: one name, one meaning and one help text each.

`extend`, `pretrain` and `study` declare their parameters with these, as in
`seed: Annotated[int, SEED] = 0`. Names of earlier releases are still taken, and shown nowhere.
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

from longreach.errors import UsageError

# Names of earlier releases, and what they are called now.
_NEW_NAMES = {
    "--lr": "--learning-rate",
    "--summary-lr": "--summary-learning-rate",
    "--lora": "--lora-rank",
    "--lora-r": "--lora-rank",
    "--max-steps": "--steps",
    "--rows": "--batch-size",
    "--eval-data": "--evaluation",
}


class TrainingCommand(TyperCommand):
    """A command that also takes the names that its options had in earlier releases."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments of the command, with today's names of its options."""
        known = set[str]()
        for parameter in self.get_params(ctx):
            known.update(parameter.opts)
        return super().parse_args(ctx, translate(args, known))


def translate(args: Sequence[str], known: set[str]) -> list[str]:
    """Returns arguments in which earlier names of options are replaced by today's.

    Args:
        args: What was typed after the command.
        known: The options that the command has.
    """
    translated = []
    options = True  # until "--", after which all words are arguments
    for word in args:
        options = options and word != "--"
        name, equals, value = word.partition("=")
        new_name = _NEW_NAMES.get(name)
        # A command of its own may mean something else by such a name.
        if options and name not in known and new_name in known:
            word = f"{new_name}{equals}{value}"
        translated.append(word)
    return translated


def _parse_number(value: str | float) -> int | float:
    """Returns a number; whole ones stay whole, so that a run is known again by what it was told."""
    try:
        number = float(value)
    except ValueError as error:
        raise typer.BadParameter(f"'{value}' is not a number.") from error
    return int(number) if number.is_integer() else number


def check_batch(batch: int | None, accumulate: int, batch_size: int) -> int:
    """Returns the batch size, also where `--batch`, the questions of a whole step, is given.

    Raises:
        UsageError: That many questions cannot be learned in equal parts.
    """
    if batch is None:
        return batch_size
    if accumulate < 1 or batch % accumulate:
        raise UsageError(
            f"--batch is {batch} and --accumulate {accumulate}: give --batch-size, the questions in"
            " one forward pass, instead of --batch."
        )
    return batch // accumulate


def _option(name: str, help: str, default: str = "") -> OptionInfo:
    """Returns an option whose default is told in words where no value stands for it."""
    return typer.Option(name, help=f"{help} [default: {default}]" if default else help)


def steps(also: str = "", default: str = "") -> OptionInfo:
    """Returns the option of how long a run is, and what is special about it in a command."""
    return _option("--steps", f"Steps of the optimizer{also}.", default)


def batch_size(samples: str) -> OptionInfo:
    """Returns the option of how many samples are learned at a time."""
    return _option("--batch-size", f"{samples} in one forward pass.")


def learning_rate(default: str = "") -> OptionInfo:
    """Returns the option of the learning rate."""
    return _option("--learning-rate", "The highest learning rate.", default)


def lora_rank(also: str = "") -> OptionInfo:
    """Returns the option of a LoRA's rank, and what is special about it in a command."""
    return _option("--lora-rank", f"Rank of a new LoRA{also}.")


def lora_alpha(default: str) -> OptionInfo:
    """Returns the option of a LoRA's scale."""
    return _option("--lora-alpha", "Scale of a new LoRA, times its rank.", default)


def held_out(what: str, also: str = "") -> OptionInfo:
    """Returns the option of how much is kept for testing.

    Args:
        what: What is counted: "documents" or "questions".
        also: What is special about it in a command.
    """
    help = f"How many {what} are kept for testing{also}; below 1, which share of them."
    return typer.Option("--held-out", parser=_parse_number, metavar="<number>", help=help)


def save_every(default: str = "") -> OptionInfo:
    """Returns the option of how often checkpoints are written."""
    return _option("--save-every", "Steps between checkpoints; the last two are kept.", default)


ACCUMULATE = typer.Option("--accumulate", help="Forward passes of one step.")
CHECKPOINTING = typer.Option(
    "--checkpointing/--no-checkpointing",
    help="Compute layers again on the way back: slower, in much less memory.",
)
EVALUATION = typer.Option(
    "--evaluation", help="Test on these instead of holding some of the others out."
)
LORA_DROPOUT = typer.Option("--lora-dropout", help="Dropout before the LoRA; 0 is faster.")
REPORT_TO = typer.Option("--report-to", help="tensorboard, wandb, trackio; may be repeated.")
SEED = typer.Option("--seed", help="Seed of all that is drawn: order, split, new weights.")
WARMUP = typer.Option("--warmup", help="Share of the steps until that rate is reached.")
