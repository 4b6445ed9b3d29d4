"""Prints how the package's code measures against the goals of its style, as a table.

Usage: python scripts/measure.py [--json] [--check] [FOLDER ...]

Without folders the whole package is measured. `--check` is what `make check` runs: it fails on
import circles, on imports from a higher layer, on files that are too long, and on merge markers.
Everything else is a report.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "longreach"
LARGEST_FILE = 375
# Files that may be larger, and up to what. A Triton kernel is not divided, so that it reads as one.
EXCEPTIONS = {"src/longreach/kernels/triton/backward.py": 440}
MERGE_MARKER = re.compile(r"^(?:<{7}|>{7}|\|{7}) ", re.MULTILINE)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Row(NamedTuple):
    """A line of the table: what is measured, its value, the goal, and whether that is reached."""

    measure: str
    value: float
    goal: str
    reached: bool


class Source(NamedTuple):
    """A module: its path, its text, and its syntax tree."""

    path: Path
    text: str
    tree: ast.Module


def read_sources(folders: list[Path]) -> list[Source]:
    """Returns the modules below the folders, or the files themselves."""
    sources = []
    for folder in folders:
        files = [folder] if folder.is_file() else sorted(folder.rglob("*.py"))
        for path in files:
            text = path.read_text(encoding="utf-8")
            sources.append(Source(path, text, ast.parse(text)))
    return sources


def count_code_lines(source: Source) -> int:
    """Returns the number of lines with code: neither blank, nor comment, nor docstring."""
    lines: set[int] = set()
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    docstrings = {node.value.lineno for node in walk_docstrings(source.tree)}
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type in skipped or token.type == tokenize.ENDMARKER:
            continue
        if token.type == tokenize.STRING and token.start[0] in docstrings:
            continue
        lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def walk_docstrings(tree: ast.Module) -> Iterator[ast.Expr]:
    """Yields the docstrings of a module as statements."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for statement in body:
            is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if is_text and isinstance(statement.value.value, str):
                yield statement


def count_comment_lines(source: Source) -> int:
    """Returns the number of lines that hold a comment other than an instruction to a tool."""
    count = 0
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type != tokenize.COMMENT:
            continue
        if not re.match(r"#\s*(noqa|type:|pragma|fmt:|!)", token.string):
            count += 1
    return count


def count_tuple_assignments(source: Source) -> int:
    """Returns how often unlike things are assigned at once: `a, b = x, y`."""
    count = 0
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
            continue
        if any(isinstance(target, ast.Tuple) for target in node.targets):
            count += 1
    return count


def find_any_aliases(sources: list[Source]) -> set[tuple[str, str]]:
    """Returns the module and the name of each alias whose type holds `Any`."""
    found = set()
    for source in sources:
        for node in source.tree.body:
            if isinstance(node, ast.Assign) and re.search(r"\bAny\b", ast.unparse(node.value)):
                for target in node.targets:
                    found.add((name_module(source.path), ast.unparse(target)))
    return found


def count_any(source: Source, aliases: set[tuple[str, str]]) -> int:
    """Returns how often `Any`, by itself or by an alias, stands in the signatures of functions."""
    names = {"Any"} | {name for module, name in aliases if module == name_module(source.path)}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom):
            for imported in node.names:
                if (str(node.module), imported.name) in aliases:
                    names.add(imported.asname or imported.name)
    pattern = re.compile(rf"\b({'|'.join(sorted(names))})\b")
    count = 0
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        arguments += [arg for arg in (node.args.vararg, node.args.kwarg) if arg is not None]
        hints = [argument.annotation for argument in arguments] + [node.returns]
        for hint in hints:
            if hint is not None:
                count += len(pattern.findall(ast.unparse(hint)))
    return count


def name_module(path: Path) -> str:
    """Returns the dotted name of a module of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def find_imports(source: Source, modules: set[str]) -> set[str]:
    """Returns the modules of the package that one imports, at the top or inside a function.

    Imports for type checkers carry no code and are not counted.
    """
    found = set()
    for node in walk_code(source.tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else str(node.module))
    return found - {name_module(source.path)}


def walk_code(tree: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes below one, but for what is only there for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from walk_code(node)


def find_circles(sources: list[Source]) -> list[str]:
    """Returns the groups of modules that import each other, by Tarjan's algorithm."""
    modules = {name_module(source.path) for source in sources}
    graph = {name_module(source.path): find_imports(source, modules) for source in sources}
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    circles = []

    def visit(module: str) -> None:
        numbers[module] = lowest[module] = len(numbers)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in numbers:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], numbers[other])
        if lowest[module] == numbers[module]:
            start = stack.index(module)
            group = stack[start:]
            del stack[start:]
            if len(group) > 1:
                circles.append(" <-> ".join(sorted(group)))

    for module in sorted(graph):
        if module not in numbers:
            visit(module)
    return circles


def find_upward_imports(sources: list[Source]) -> list[str]:
    """Returns the imports, at the top or inside a function, that point to a higher layer.

    Imports for type checkers carry no code and are not counted.
    """
    text = (ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8")
    table = re.search(r"^LAYERS = (\{.*?^\})", text, re.MULTILINE | re.DOTALL)
    assert table is not None, "tests/test_architecture.py has lost its table of layers"
    layers = ast.literal_eval(table.group(1))
    found = []
    for source in sources:
        own = source.path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in walk_code(source.tree):
            if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith(
                "longreach."
            ):
                continue
            other = str(node.module).split(".")[1]
            if other != own and layers.get(other, 0) > layers.get(own, 99):
                found.append(f"{source.path.relative_to(ROOT)} imports {node.module}")
    return found


def find_merge_markers() -> list[str]:
    """Returns the tracked files that hold the markers of an unfinished merge."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    found = []
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if not name or not path.is_file():
            continue
        if MERGE_MARKER.search(path.read_bytes().decode("utf-8", "replace")):
            found.append(name)
    return found


def measure(sources: list[Source], *, whole: bool) -> list[Row]:
    """Returns the table for some modules; `whole` adds what only the whole package has."""
    code = sum(count_code_lines(source) for source in sources)
    filled = 0
    wide = 0
    comprehensions = 0
    conditionals = 0
    lengths = []
    for source in sources:
        lines = source.text.splitlines()
        lengths.append(len(lines))
        filled += sum(1 for line in lines if line.strip())
        wide += sum(1 for line in lines if len(line) > 100)
        for node in ast.walk(source.tree):
            comprehensions += isinstance(node, COMPREHENSIONS)
            conditionals += isinstance(node, ast.IfExp)
    comments = 100 * sum(count_comment_lines(source) for source in sources) / filled
    tuples = 1000 * sum(count_tuple_assignments(source) for source in sources) / code
    comprehensions_rate = 1000 * comprehensions / code
    conditionals_rate = 1000 * conditionals / code
    wide_share = 100 * wide / filled
    aliases = find_any_aliases(sources)
    any_count = sum(count_any(source, aliases) for source in sources)
    # Packages without code of their own would pull the median down.
    ordinary = [source for source in sources if find_limit(source) == LARGEST_FILE]
    largest = max([0, *(len(source.text.splitlines()) for source in ordinary)])
    median = statistics.median([length for length in lengths if length > 3] or [0])
    rows = [
        Row("code lines", code, "", True),
        Row(
            "comprehensions per 1,000 code lines",
            comprehensions_rate,
            "<= 20",
            comprehensions_rate <= 20,
        ),
        Row(
            "conditional expressions per 1,000", conditionals_rate, "<= 14", conditionals_rate <= 14
        ),
        Row("tuple assignments per 1,000", tuples, "<= 5", tuples <= 5),
        Row("comments, % of non-blank lines", comments, "4-8", 4 <= comments <= 8),
        Row("lines over 100 columns, %", wide_share, "<= 3", wide_share <= 3),
        Row("median file, lines", median, "<= 140", median <= 140),
        Row("largest file, lines", largest, f"<= {LARGEST_FILE}", largest <= LARGEST_FILE),
        Row("`Any` in signatures", any_count, "<= 150", any_count <= 150),
    ]
    if whole:
        circles = len(find_circles(sources))
        upwards = len(find_upward_imports(sources))
        words = len((ROOT / "README.md").read_text(encoding="utf-8").split())
        rows.append(Row("circles between modules", circles, "0", circles == 0))
        rows.append(Row("imports upwards", upwards, "0", upwards == 0))
        rows.append(Row("README, words", words, "<= 900", words <= 900))
    return rows


def check(sources: list[Source]) -> list[str]:
    """Returns one sentence for each thing that `make check` does not let through."""
    faults = [f"These modules import each other: {circle}." for circle in find_circles(sources)]
    faults += [f"An import points upwards: {line}." for line in find_upward_imports(sources)]
    faults += [f"{name} holds the markers of an unfinished merge." for name in find_merge_markers()]
    return faults + find_large_files(sources)


def find_limit(source: Source) -> int:
    """Returns how many lines a module may have."""
    for name, limit in EXCEPTIONS.items():
        if source.path == ROOT / name:
            return limit
    return LARGEST_FILE


def find_large_files(sources: list[Source]) -> list[str]:
    """Returns one sentence for each file that is larger than it may be."""
    found = []
    for source in sources:
        length = len(source.text.splitlines())
        limit = find_limit(source)
        if length > limit:
            name = os.path.relpath(source.path, ROOT)
            found.append(f"{name} has {length} lines, more than {limit}: split it.")
    return found


def main() -> int:
    """Prints the table, or what fails the check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--json", action="store_true", help="Print the table as JSON.")
    parser.add_argument("--check", action="store_true", help="Fail on what must not be.")
    arguments = parser.parse_args()
    if arguments.check:
        faults = check(read_sources([PACKAGE]))
        print("\n".join(faults) or "The structure is as it should be.")
        return 1 if faults else 0
    folders = [folder.resolve() for folder in arguments.folders]
    sources = read_sources(folders or [PACKAGE])
    rows = measure(sources, whole=not folders)
    if arguments.json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
        return 0
    for row in rows:
        mark = " " if row.reached else "*"
        print(f"{mark} {row.measure:38} {row.value:10,.1f}   {row.goal}")
    for line in find_large_files(sources):
        print(f"* {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
