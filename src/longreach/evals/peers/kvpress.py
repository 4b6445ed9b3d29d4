"""NVIDIA's kvpress as an outside peer: the KV cache of a stock model, compressed after the context
was read.

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
from typing import Any

from longreach.errors import MissingDependency, ModelError, UsageError
from longreach.evals.run.sample import Prediction, Sample
from longreach.evals.suites.choice import KVPRESS
from longreach.evals.systems.models import ModelReader

PYTHON = "LONGREACH_KVPRESS"
_INSTALL = "python -m venv kvpress && kvpress/bin/pip install kvpress==0.5.4"
_WORKER = Path(__file__).with_name("kvpress_worker.py")
_PRESS, _RATIO = "SnapKVPress", 0.65  # about what a hybrid model saves


class KvpressReader(ModelReader):
    """A press of kvpress around a stock model, by the name "kvpress", "kvpress:PRESS" or
    "kvpress:PRESS:RATIO".

    Args:
        name: Of the press, and the share of keys and values that it drops.
        model: The model as longreach loaded it: prompts are made for it, and its folder is what
            kvpress loads.
        tokenizer: Its tokenizer.
        python: Of kvpress' environment; None for $LONGREACH_KVPRESS.
        **more: As in `ModelReader`.

    Raises:
        MissingDependency: There is no such environment.
        UsageError: The name is none, or the model is hybrid.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: Any, *, python: str | None = None, **more: Any
    ) -> None:
        super().__init__(name, model, tokenizer, **more)
        parts = name.split(":")
        try:
            press, ratio = (*parts[1:], *(_PRESS, str(_RATIO))[len(parts) - 1 :])
            self._press, self._ratio = press, float(ratio)
        except ValueError as error:
            raise UsageError(
                f"The reader '{name}' is none: give kvpress:PRESS:RATIO, such as {_named()}."
            ) from error
        if not 0 <= self._ratio < 1:
            raise UsageError(
                f"The ratio of '{name}' is {ratio}; give the share to drop, from 0 to below 1."
            )
        if getattr(model.config, "sparse_attention", None) is not None:
            raise UsageError(
                "kvpress reads stock models and this one is hybrid: leave its reader out."
            )
        self._python = python or os.environ.get(PYTHON, "")
        if not Path(self._python).is_file():
            raise MissingDependency(
                f"kvpress is not installed: {_INSTALL}, and name kvpress/bin/python in ${PYTHON}."
            )
        self._process: subprocess.Popen[str] | None = None

    def identity(self) -> Mapping[str, object]:
        """See `Answering`."""
        return {**super().identity(), "kind": "kvpress", "press": self._press, "ratio": self._ratio}

    def answer(self, samples: Sequence[Sample]) -> Iterator[Prediction]:
        """See `Answering`; one sample after the other."""
        for sample in samples:
            before, after = self.halves(self.fitted(sample))
            asked = {"context": before, "question": after, "max_new_tokens": sample.max_new_tokens}
            yield Prediction(**self._reply(asked))

    def _reply(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Sends one line and waits for one; the first call starts the process."""
        if self._process is None:
            # Its folder is not where to look for modules.
            command = [self._python, "-P", str(_WORKER)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            model = {
                "model": str(self.model.config.name_or_path),
                "dtype": str(self.model.dtype).split(".")[-1],
            }
            self._checked(
                self._ask(
                    {
                        **model,
                        "device": str(self.model.device),
                        "press": self._press,
                        "ratio": self._ratio,
                    }
                )
            )
        return self._ask(asked)

    def _ask(self, value: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process and self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; it is said below
        line = self._process.stdout.readline()
        if not line:
            raise ModelError(
                f"kvpress ended with code {self._process.wait()}: what it said stands above."
            )
        return dict(json.loads(line))

    def _checked(self, reply: Mapping[str, Any]) -> None:
        if "missing" in reply:
            raise MissingDependency(
                f"'{self._python}' has no kvpress ({reply['missing']}): {_INSTALL}."
            )
        if "unknown" in reply:
            raise UsageError(
                f"There is no press '{self._press}': use one of {', '.join(reply['unknown'])}."
            )

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


def _named() -> str:
    return f"{KVPRESS}:{_PRESS}:{_RATIO}"
