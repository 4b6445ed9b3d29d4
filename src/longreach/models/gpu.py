"""Which GPUs this machine has that torch can use; found without importing torch."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from longreach.errors import UsageError

# A driver that hangs must not keep a command waiting.
_SECONDS = 10


def gpu_names() -> list[str]:
    """Returns the names of the NVIDIA GPUs that torch can use here, in the driver's order."""
    # A torch built for CPUs uses no GPU, whatever the driver lists.
    if not _torch_is_built_for_gpus() or shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        listed = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=True
        ).stdout
    # A driver that does not answer has no GPU that torch could use.
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listed.splitlines() if line.strip()]


def check_gpu(device: str, names: list[str]) -> None:
    """Raises UsageError where `device` is a GPU that is not among `names`."""
    kind, _, index = device.partition(":")
    if kind == "cpu" or (kind == "cuda" and int(index or 0) < len(names)):
        return
    there = "cpu or cuda" if names else "cpu"
    raise UsageError(f"There is no device '{device}' on this machine: use {there}.")


def _torch_is_built_for_gpus() -> bool:
    """Returns whether the installed torch was built for NVIDIA GPUs, as its version file says."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        # The file is read and not imported, because importing it would load torch.
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r"^cuda\b[^=\n]*=\s*['\"]", text, re.MULTILINE) is not None
