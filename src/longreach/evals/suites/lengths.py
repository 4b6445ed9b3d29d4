"""What suites of texts of given lengths share: --lengths, and the prose to hide things in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from longreach.errors import ContextError
from longreach.evals.suites.base import Suite
from longreach.evals.suites.option import check_lengths, option, read_lengths

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LengthSuite(Suite):
    """A suite whose texts are as long as the user asks.

    Attributes:
        lengths: Tokens of a prompt and its answer together.
    """

    lengths: tuple[int, ...] = option(
        (4096,),
        "Tokens of prompt and answer, such as 2048,4096.",
        shown="4096",
        check=check_lengths,
        parse=read_lengths,
    )

    def check_window(self, model: PreTrainedModel, *, beyond: bool) -> None:
        """Raises ContextError where a length is beyond the model's window, unless it may be."""
        from longreach.models.decoder import window_of

        window = window_of(model)
        longest = max(self.lengths)
        if window is not None and longest > window and not beyond:
            raise ContextError(
                f"A length of {longest:,} is beyond the model's window of {window:,}: ask for"
                " smaller --lengths, or read on with --beyond-window."
            )


def file_name(path: str | None) -> str | None:
    """Returns the last part of a path: where it lies does not decide what is in it."""
    return Path(path).name if path else None


@dataclass(frozen=True)
class HaystackSuite(LengthSuite):
    """A suite that hides something in prose of given lengths.

    Attributes:
        haystack: The prose; None takes the book that comes with the package.
    """

    haystack: str | None = option(
        None,
        "Prose that everything is hidden in: a file, a folder or a data set.",
        shown="a novel that comes with longreach",
        # A run is the same wherever its prose lies, so its record names no folder.
        record=file_name,
    )
