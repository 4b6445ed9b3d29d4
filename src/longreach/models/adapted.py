"""A hybrid model kept as its `config.json` and the PEFT adapter that `longreach extend --lora` learned. Floor 3."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig

from longreach.errors import ModelError
from longreach.models import hybrid
from longreach.models.convert import convert
from longreach.models.sparse import pattern_of, plan_of


def adapt(base: Any, folder: Path, dtype: torch.dtype) -> Any:
    """The hybrid that `folder` describes, of the weights of `base` with the adapter merged into them in float32.

    Raises:
        ModelError: The folder's files do not fit each other or the base.
    """
    hybrid.register()
    try:
        config = AutoConfig.from_pretrained(folder)
        pattern, full, theta = pattern_of(config), plan_of(config).full, config.rope_parameters["rope_theta"]
        model = convert(base.float(), pattern, full, config.max_position_embeddings, rope=theta)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that is going
            return PeftModel.from_pretrained(model, str(folder)).merge_and_unload().to(dtype)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"The adapted model in '{folder}' cannot be put together: {reason}") from error
