"""Project rules that linters cannot express."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from gpu.separate_process import in_own_process
from places import ROOT


def sources() -> Iterator[Path]:
    for package in ("engine", "tui"):
        yield from (ROOT / package).rglob("*.py")


def test_only_one_function_deletes_folders() -> None:
    """`remove_tree` never follows a symbolic link; a second caller of `shutil.rmtree` might."""
    callers = [path.relative_to(ROOT).as_posix() for path in sources() if "shutil.rmtree(" in path.read_text("utf-8")]
    assert callers == ["engine/config/files.py"]


def test_every_user_error_has_a_stable_code() -> None:
    """`UserError(problem, location, hint, code)`: a dotted name in lower case, where it is a literal."""
    calls = 0
    for path in sources():
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)) if "UserError(" in text else ():
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError":
                calls += 1
                code = [word.value for word in node.keywords if word.arg == "code"] or node.args[3:4]
                assert code, f"{path} line {node.lineno}: UserError without a code"
                if isinstance(code[0], ast.Constant):
                    assert re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", code[0].value), f"{path} line {node.lineno}"
    assert calls > 200


def test_no_two_public_classes_share_a_name() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in sources():
        for name in re.findall(r"^class ([A-Za-z]\w*)", path.read_text("utf-8"), re.MULTILINE):
            places[name].append(path.relative_to(ROOT).as_posix())
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}
    assert len(places) > 300


def test_gpus_are_hidden_unless_only_their_tests_run_which_then_run_one_at_a_time(
    request: pytest.FixtureRequest,
) -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    processes = request.config.hook.pytest_xdist_auto_num_workers
    cpus = os.cpu_count() or 1
    for marks, count in (("gpu", 0), ("not slow", cpus + 2), ("", cpus + 2)):
        assert processes(config=SimpleNamespace(option=SimpleNamespace(markexpr=marks))) == count
    assert in_own_process(os.getpid) != os.getpid()


@pytest.mark.parametrize("interpreter", ["/bin/false", "/nonexistent"])
def test_a_peer_that_fails_is_a_line_of_the_table(interpreter: str, tmp_path: Path) -> None:
    rows = "text,category\n" + "".join(f"message {number},label\n" for number in range(40))
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(rows)
    command = [sys.executable, str(ROOT / "tools" / "peers.py"), "--workload", "banking77-labels"]
    command += ["--model", str(tmp_path), "--data", str(tmp_path), "--tools", "transformers Trainer", "--rounds", "1"]
    command += ["--trainer", interpreter, "--steps", "3", "--methods", "lora"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("| lora | transformers Trainer |")]
    assert line.split("|")[3].startswith(" failed 1 ")
    assert " 1024 tokens " in done.stdout  # prompts have 574 of SmolLM2's
