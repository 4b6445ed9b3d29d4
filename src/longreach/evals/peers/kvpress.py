"""NVIDIA's kvpress as an outside peer: the KV cache of a stock model, compressed after the context.

kvpress needs an older transformers than longreach, so it lives in an environment of its own and
answers there. Its press sees the context and not the question, which is its authors' way to
measure.

Paper: Devoto et al. 2025, Expected Attention (arXiv 2510.00636).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longreach.errors import MissingDependency, ModelError, UsageError
from longreach.evals.run.sample import Prediction, Sample
from longreach.evals.systems.models import ModelSystem, TooLong
from longreach.evals.systems.names import KVPRESS
from longreach.jsontext import JsonObject, read_field

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PYTHON = "LONGREACH_KVPRESS"
_INSTALL = "python -m venv kvpress && kvpress/bin/pip install kvpress==0.5.4"
_WORKER = Path(__file__).with_name("kvpress_worker.py")
_PRESS = "SnapKVPress"
_RATIO = 0.65  # about what a hybrid model saves


class KvpressSystem(ModelSystem):
    """A press of kvpress around a stock model.

    Args:
        name: kvpress, kvpress:PRESS or kvpress:PRESS:RATIO: the press, and the share of keys and
            values that it drops.
        model: The model as longreach loaded it: prompts are made for it, and its folder is what
            kvpress loads.
        tokenizer: Its tokenizer.
        python: Of kvpress's environment; None for $LONGREACH_KVPRESS.
        too_long: As in `ModelSystem`.

    Raises:
        MissingDependency: There is no such environment.
        UsageError: The name is not understood, or the model is hybrid.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        python: str | None = None,
        too_long: TooLong = "refuse",
    ) -> None:
        super().__init__(name, model, tokenizer, too_long=too_long)
        self._press, self._ratio = parse_name(name)
        if getattr(model.config, "sparse_attention", None) is not None:
            raise UsageError("kvpress reads stock models and this one is hybrid: omit its system.")
        self._python = python or os.environ.get(PYTHON, "")
        if not Path(self._python).is_file():
            raise MissingDependency(
                f"kvpress is not installed: {_INSTALL}, and name kvpress/bin/python in ${PYTHON}."
            )
        self._process: subprocess.Popen[str] | None = None

    def identity(self) -> Mapping[str, object]:
        """See `System`."""
        return {**super().identity(), "kind": "kvpress", "press": self._press, "ratio": self._ratio}

    def answer(self, samples: Sequence[Sample]) -> Iterator[Prediction]:
        """See `System`; one sample after the other."""
        for sample in samples:
            # The press sees what comes before the question is known.
            before, after = self.halves(self.fitted(sample))
            asked = {"context": before, "question": after, "max_new_tokens": sample.max_new_tokens}
            # Only when it is asked: loading a model takes its time.
            if self._process is None:
                self._start()
            told: dict[str, Any] = self._ask(asked)
            yield Prediction(**told)

    def _start(self) -> None:
        """Starts the process, and waits until it has its model."""
        # -P: its own folder is not where to look for modules.
        self._process = subprocess.Popen(
            [self._python, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        setup = {
            "model": str(self.model.config.name_or_path),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
            "press": self._press,
            "ratio": self._ratio,
        }
        # The worker answers once its model is loaded.
        reply = self._ask(setup)
        if "missing" in reply:
            raise MissingDependency(
                f"'{self._python}' has no kvpress ({reply['missing']}): {_INSTALL}."
            )
        if "unknown" in reply:
            presses = read_field(reply, "unknown", list)
            raise UsageError(f"There is no press '{self._press}': use one of {', '.join(presses)}.")

    def _ask(self, value: Mapping[str, object]) -> JsonObject:
        """Sends one line of JSON and waits for one."""
        assert self._process and self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which the next line finds out
        line = self._process.stdout.readline()
        if not line:
            raise ModelError(
                f"kvpress ended with code {self._process.wait()}: what it said stands above."
            )
        return dict(json.loads(line))

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


def parse_name(name: str) -> tuple[str, float]:
    """Returns the press and the ratio in a name like "kvpress:SnapKVPress:0.65".

    Raises:
        UsageError: It has more parts, or the ratio is not a share.
    """
    press = _PRESS
    ratio = _RATIO
    parts = name.split(":")[1:]
    try:
        if len(parts) > 2:
            raise ValueError
        if parts:
            press = parts[0]
        if len(parts) == 2:
            ratio = float(parts[1])
    except ValueError as error:
        example = f"{KVPRESS}:{_PRESS}:{_RATIO}"
        raise UsageError(
            f"The system '{name}' does not exist: give kvpress:PRESS:RATIO, such as {example}."
        ) from error
    # To drop everything leaves nothing to read.
    if not 0 <= ratio < 1:
        raise UsageError(
            f"The ratio of '{name}' is {ratio}; give the share to drop, from 0 to below 1."
        )
    return press, ratio
