"""The layers of the package: a module imports from lower layers or its own package, never sideways or upwards."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import longreach

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "longreach"
LAYERS = {
    "errors": 0,
    "wording": 0,
    "jsontext": 1,
    "installed": 1,
    "plain": 1,
    "tested": 1,
    "pattern": 1,
    "kernels": 2,
    "planning": 2,
    "caches": 3,
    "models": 4,
    "engine": 5,
    "layers": 5,
    "compressors": 6,
    "corpus": 7,
    "datasets": 8,
    "reading": 9,
    "training": 10,
    "evals": 11,
    "session": 12,
    "bench": 12,
    "serving": 13,
    "scale": 13,
    "vllm": 13,
    "cli": 14,
}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def package_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree):
    """Absolute names of longreach modules imported at run time; imports for type checkers carry no code."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module != "longreach":
                yield node.module
            else:
                homes = (longreach._HOMES.get(alias.name) or alias.name for alias in node.names)
                yield from (f"longreach.{home}" for home in homes if home != "__version__")
        else:
            yield from imports(node)


def sideways(path, text):
    package, found = package_of(path), []
    for name in imports(ast.parse(text)):
        parts = name.split(".")
        if name == "longreach":
            found.append(f"{path.relative_to(PACKAGE)} imports the whole package")
        elif parts[0] == "longreach" and parts[1] != package:
            other = parts[1]
            if other in LAYERS and LAYERS[other] >= LAYERS[package]:
                found.append(
                    f"{path.relative_to(PACKAGE)} (layer {LAYERS[package]}) imports {name} (layer {LAYERS[other]})"
                )
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards_only(path):
    assert package_of(path) in LAYERS, f"give '{package_of(path)}' a layer here and in docs/structure.md"
    assert sideways(path, path.read_text(encoding="utf-8")) == []


def test_the_check_above_can_fail():
    path = PACKAGE / "corpus" / "store.py"
    assert sideways(path, "from longreach.reading import Reader")
    assert sideways(path, "def f():\n    import longreach.reading.reader")
    assert sideways(path, "from longreach import cli")
    assert sideways(path, "from longreach import Reader")
    assert sideways(path, "import longreach as lr")
    assert not sideways(path, "if TYPE_CHECKING:\n    from longreach.reading import Reader")
    assert not sideways(path, "from longreach.corpus.schema import Settings\nfrom longreach.errors import UsageError")


def test_only_models_touch_transformers_internals():
    allowed = {"models", "caches", "engine", "training", "serving", "evals"}
    for path in modules():
        names = set(imports(ast.parse(path.read_text(encoding="utf-8"))))
        if package_of(path) not in allowed:
            assert not any(name.startswith("transformers") for name in names), path


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_small(path):
    # A Triton kernel is not divided, so that it reads as one: see scripts/measure.py.
    limit = 440 if path.parts[-2:] == ("triton", "backward.py") else 375
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


def test_structure_md_lists_every_module():
    listed = (PACKAGE.parents[1] / "docs" / "structure.md").read_text(encoding="utf-8")
    for path in modules():
        if path.name != "__init__.py":
            assert f"`{path.relative_to(PACKAGE)}`" in listed, f"docs/structure.md says nothing about {path}"


def test_importing_longreach_has_no_side_effects():
    code = (
        "import sys, longreach; "
        "heavy = {'torch', 'transformers', 'lancedb', 'numpy', 'typer'} & set(sys.modules); "
        "assert not heavy, heavy; assert set(longreach.__all__) <= set(dir(longreach))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_exists():
    for name in longreach.__all__:
        assert getattr(longreach, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = longreach.nonsense


def test_every_error_is_in_the_tree_and_has_an_exit_code():
    from longreach import errors

    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(classes) > 10
    for cls in classes:
        assert issubclass(cls, errors.LongreachError) and cls.exit_code in (1, 2)
        assert cls.__name__ in errors.__doc__


def test_no_merge_conflict_markers_anywhere():
    root = PACKAGE.parents[1]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=False).stdout
    names = [name for name in listed.decode().split("\0") if name]
    if not names:
        pytest.skip("this copy is no checkout")
    marker = re.compile(rb"^(?:<{7}|>{7}|\|{7}) ", re.MULTILINE)
    files = [root / name for name in names]
    assert [file for file in files if file.is_file() and marker.search(file.read_bytes())] == []
    assert marker.search(b"a\n<<<<<<" + b"< HEAD\n")
