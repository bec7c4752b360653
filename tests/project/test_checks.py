"""Project rules that linters cannot express."""

from __future__ import annotations

import ast
import re

from places import ROOT


def test_only_one_function_deletes_folders() -> None:
    """`remove_tree` never follows a symbolic link; a second caller of `shutil.rmtree` might."""
    sources = [path for package in ("engine", "tui") for path in (ROOT / package).rglob("*.py")]
    callers = [path.relative_to(ROOT).as_posix() for path in sources if "shutil.rmtree(" in path.read_text("utf-8")]
    assert callers == ["engine/config/files.py"]


def test_every_user_error_has_a_stable_code() -> None:
    """`UserError(what, where, do, code)`: a dotted name in lower case, where it is a literal."""
    calls = 0
    for package in ("engine", "tui"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError":
                    calls += 1
                    code = [word.value for word in node.keywords if word.arg == "code"] or node.args[3:4]
                    assert code, f"{path} line {node.lineno}: UserError without a code"
                    if isinstance(code[0], ast.Constant):
                        assert re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", code[0].value), f"{path} line {node.lineno}"
    assert calls > 200
