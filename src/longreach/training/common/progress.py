"""How a training tells how far it is: the one display of all of them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from longreach.wording import format_clock, say_on_stderr


def say_nothing(text: str) -> None:
    """Says nothing: what processes other than the first do."""


class Progress(TrainerCallback):
    """Says after steps and tests how things stand: loss, tokens a second, time left.

    Args:
        say: Is told a line at a time; None for stderr, where a terminal gets a bar instead.
        tokens_of_step: Gives the tokens that a step learns, all processes together; steps count
            from 1.
        every_seconds: Not more often, except for the last step and tests.

    Attributes:
        tokens: What was learned since the run began or was resumed.
        tokens_per_second: As fast as that.
    """

    def __init__(
        self,
        say: Callable[[str], None] | None,
        tokens_of_step: Callable[[int], int],
        every_seconds: float = 2.0,
    ) -> None:
        self.tokens = 0
        self.tokens_per_second = 0.0
        self._say = say or say_on_stderr
        self._with_bar = say is None
        self._bar: tqdm | None = None
        self._tokens_of_step = tokens_of_step
        self._every_seconds = every_seconds
        self._began = 0.0
        # The first step is told at once.
        self._spoke = -math.inf
        self._first_step = 0

    def close(self) -> None:
        """Ends the line of the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Starts the clock."""
        self._began = time.perf_counter()
        self._first_step = state.global_step
        # A bar needs a terminal, and several processes would draw over each other.
        if self._with_bar and state.is_world_process_zero and sys.stderr.isatty():
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                unit="step",
                file=sys.stderr,
                dynamic_ncols=True,
            )

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Counts."""
        self.tokens += self._tokens_of_step(state.global_step)
        self.tokens_per_second = self.tokens / max(1e-9, time.perf_counter() - self._began)
        if self._bar is not None:
            self._bar.update()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Speaks, unless that was a moment ago."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        loss = f"loss {logs['loss']:.4f}"
        speed = f"{self.tokens_per_second:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.set_postfix_str(f"{loss}, {speed}")
            return
        now = time.perf_counter()
        done = state.global_step
        if now - self._spoke < self._every_seconds and done < state.max_steps:
            return
        self._spoke = now
        # Of this session: the steps before it may have been as fast as another machine.
        each = (now - self._began) / max(1, done - self._first_step)
        left = format_clock(each * (state.max_steps - done))
        rate = f"lr {logs.get('learning_rate', 0):.2e}"
        self._say(f"step {done}/{state.max_steps}  {loss}  {speed}  {rate}  {left} left")

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Speaks of a test, by position."""
        if not state.is_world_process_zero or not metrics:
            return
        line = f"step {state.global_step}"
        if "eval_perplexity" in metrics:
            parts = []
            for name, value in metrics.items():
                if "-" in name:
                    parts.append(f"{name.rsplit('_', 1)[1]}: {value:.2f}")
            line += f"  perplexity {metrics['eval_perplexity']:.2f}  ({', '.join(parts)})"
        if "eval_reply_loss" in metrics:
            right = f"{metrics['eval_replies_right']:.0%} right"
            line += f"  replies: loss {metrics['eval_reply_loss']:.3f}, {right}"
        # A line printed beside a bar would break it.
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            self._say(line)
