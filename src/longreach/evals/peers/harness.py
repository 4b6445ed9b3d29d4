"""Our models in EleutherAI's lm-evaluation-harness, as `--model longreach`.

`python -m longreach.evals.peers.harness` is the harness's own command with that model added, for
instance

    python -m longreach.evals.peers.harness --model longreach --model_args pretrained=smollm2
    --tasks niah_single_1 --limit 10

`pretrained` is what `longreach.load` takes: a hybrid folder, "smollm2", a GGUF file, or any model
of transformers. The harness finds models in its registry only, and nothing there is read from
installed packages: hence this command.
"""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longreach.errors import LongreachError, MissingDependency
from longreach.models.device import default_device
from longreach.models.loading.places import DEFAULT_MODEL
from longreach.wording import printable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = "longreach"
HARNESS_INSTALL = "pip install 'longreach[harness]'"


def register() -> type:
    """Adds the model to the harness's registry and returns its class, a subclass of `HFLM`.

    The class takes `pretrained`, `device` and `dtype` as `longreach.load` does, `tokenizer` to
    count and read with another one, and all else as `HFLM` does. Prompts longer than the model's
    window are cut by the harness, which warns; give `max_length` to change the window.

    Raises:
        MissingDependency: The harness is not installed.
    """
    try:
        from lm_eval.api.registry import model_registry
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise MissingDependency(
            f"lm-evaluation-harness is not installed: {HARNESS_INSTALL}"
        ) from error
    # Registering twice is an error there.
    if NAME in model_registry:
        return model_registry.get(NAME)

    class LongreachLM(HFLM):  # type: ignore[misc, unused-ignore]
        """A model that longreach loads, asked by the harness."""

        def __init__(
            self,
            pretrained: str = DEFAULT_MODEL,
            *,
            tokenizer: "PreTrainedTokenizerBase | None" = None,
            device: str | None = None,
            dtype: str | None = None,
            **settings: Any,
        ) -> None:
            from longreach.models.loading.load import load

            # What the harness asks for by itself is a GPU, wherever it runs.
            if device is not None and device.startswith("cuda") and default_device() == "cpu":
                device = "cpu"
            model, own = load(pretrained, device=device, dtype=dtype if dtype != "auto" else None)
            super().__init__(
                pretrained=model, tokenizer=tokenizer or own, backend="causal", **settings
            )

    model_registry.register(NAME)(LongreachLM)
    return LongreachLM


def tokenizer_folder(pretrained: str, folder: Path) -> str:
    """Writes the tokenizer of `pretrained` for the harness's own tasks, and returns its folder.

    They read it apart from the model, and would run Python that lies beside it. The copy in
    `folder` has none, and does not ask for any.
    """
    from longreach.models.loading.load import load_tokenizer

    tokenizer = load_tokenizer(pretrained)
    tokenizer.init_kwargs.pop("auto_map", None)
    tokenizer.save_pretrained(folder)
    return str(folder)


def main() -> None:
    """Runs the harness's command line, with the model `longreach`."""
    try:
        register()
        from lm_eval._cli import HarnessCLI
        from lm_eval.utils import setup_logging

        setup_logging()
        command = HarnessCLI()
        arguments = command.parse_args()
        if getattr(arguments, "model", None) != NAME:
            command.execute(arguments)
            return
        given = dict(arguments.model_args or {})
        source = given.get("tokenizer") or given.get("pretrained", DEFAULT_MODEL)
        with tempfile.TemporaryDirectory() as folder:
            arguments.model_args = given | {"tokenizer": tokenizer_folder(source, Path(folder))}
            command.execute(arguments)
    except LongreachError as error:
        sys.stderr.write(f"longreach: {printable(str(error))}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
