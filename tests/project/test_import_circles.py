"""No import circles: every import counts, those under `TYPE_CHECKING` and inside functions included."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from places import ROOT

PACKAGES = ("engine", "tui")


def modules() -> dict[str, Path]:
    """Dotted name -> file."""
    files = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    return {_dotted(file): file for file in files}


def _dotted(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(file: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """Our modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports are not used here"
            names = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
            yield from names
            if node.module in known and len(names) < len(node.names):
                yield str(node.module)


def circles(graph: Mapping[str, set[str]]) -> list[frozenset[str]]:
    """Strongly connected components of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[frozenset[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in graph[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            component = frozenset(stack[stack.index(name) :])
            del stack[stack.index(name) :]
            if len(component) > 1:
                components.append(component)

    for name in graph:
        if name not in index:
            visit(name)
    return components


def test_no_modules_import_each_other_in_a_circle() -> None:
    known = modules()
    components = circles({name: set(imported(file, known)) - {name} for name, file in known.items()})
    assert [sorted(circle) for circle in components] == []


def test_hidden_imports_count(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import b\n\ndef f():\n    from c import d\n"
    )
    assert set(imported(file, {"b": file, "c": file, "c.d": file})) == {"b", "c.d"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [frozenset("abc")]
