"""Compare ftbench's loss masks with those of trl, LLaMA-Factory and axolotl, token by token; prints a table.

    python tools/masks.py --tokenizer DIR --trl PYTHON --factory PYTHON --axolotl PYTHON

Every peer runs in a separate environment (see README.md in this folder) and writes ids and labels of the rows in
`masks/shapes.py`. The exit status is 1 if a difference is not explained in `masks/explained.py`. With `--store` the
peers' output and the differences are written to a JSON file for the tests (`masks/stored.json`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "masks"
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from compare import LINE_FEED, differences, ours, sha256, template_text  # noqa: E402 - the path above makes it importable
from explained import EXPLAINED  # noqa: E402
from shapes import SHAPES, Json, Shape  # noqa: E402

PROGRAMS = {"trl": "with_trl.py", "LLaMA-Factory": "with_factory.py", "axolotl": "with_axolotl.py"}
SYSTEM, END = "<|im_start|>system\n", "<|im_end|>"


def main() -> int:
    """Compare and print; 1 if a peer failed or a difference has no explanation."""
    options = parse()
    tokenizer = load(options.tokenizer)
    tools = {tool: run(tool, python, options) for tool, python in interpreters(options).items()}
    mine = {shape.name: ours(shape, load(options.tokenizer)) for shape in SHAPES}
    by_tool = {tool: compared(answer, mine, tokenizer) for tool, answer in tools.items()}
    print("\n".join(report(tools, by_tool)))
    if options.store:
        store(options.store, options.tokenizer, tools, by_tool)
    return int(any(not explained(tool, name, rows) for tool in by_tool for name, rows in by_tool[tool].items()))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tokenizer", type=Path, required=True, help="folder with a tokenizer and a ChatML chat template")
    add("--trl", metavar="PYTHON", help="interpreter with trl")
    add("--factory", metavar="PYTHON", help="interpreter with LLaMA-Factory")
    add("--axolotl", metavar="PYTHON", help="interpreter with axolotl")
    add("--timeout", type=float, default=1800, help="seconds for one peer")
    add("--store", type=Path, help="write the peers' ids and masks to this JSON file")
    return parser.parse_args()


def interpreters(options: argparse.Namespace) -> dict[str, str]:
    """Tool -> interpreter, for tools with an interpreter."""
    given = {"trl": options.trl, "LLaMA-Factory": options.factory, "axolotl": options.axolotl}
    return {tool: python for tool, python in given.items() if python}


def load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def run(tool: str, python: str, options: argparse.Namespace) -> Json:
    """The peer's version, and its rows for every shape."""
    with tempfile.TemporaryDirectory() as folder:
        job, answer = Path(folder, "job.json"), Path(folder, "answer.json")
        shapes = [job_entry(shape, load(options.tokenizer)) for shape in SHAPES]
        job.write_text(json.dumps({"tokenizer": str(options.tokenizer.resolve()), "shapes": shapes}), "utf-8")
        command = [python, str(HERE / PROGRAMS[tool]), str(job), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.timeout, check=False)
        if not answer.exists():
            raise SystemExit(f"{tool} failed: {done.stderr.strip()[-2000:]}")
        made: Json = json.loads(answer.read_text("utf-8"))
        return made


def job_entry(shape: Shape, tokenizer: Any) -> Json:
    """A shape as a peer's program reads it: with the template's text and its default system prompt."""
    text = template_text(shape, tokenizer)
    empty = tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=False)
    default = str(empty).removeprefix(SYSTEM).split(END)[0] if str(empty).startswith(SYSTEM) else ""
    return {**shape.as_json(), "template_text": text, "default_system": default if shape.template == "own" else ""}


def compared(answer: Json, mine: dict[str, list[Json | None]], tokenizer: Any) -> dict[str, Any]:
    """Shape -> the differences of each row, or the peer's error."""
    by_shape: dict[str, Any] = {}
    for name, made in answer["shapes"].items():
        if "rows" in made:
            pairs = zip(mine[name], made["rows"], strict=True)
            by_shape[name] = [differences(our, their, tokenizer) for our, their in pairs]
        else:
            by_shape[name] = made
    return by_shape


def explained(tool: str, name: str, rows: Any) -> bool:
    """Whether nothing differs, or only as explained in `masks/explained.py`."""
    return verdict(rows) in ("same", "line feed") or (tool, name) in EXPLAINED


def verdict(rows: Any) -> str:
    """Entry of the table."""
    if not isinstance(rows, list):
        return "error" if "error" in rows else "not supported"
    kinds = {"same" if not row else "line feed" if set(row) == set(LINE_FEED) else "differs" for row in rows}
    return "differs" if "differs" in kinds else "line feed" if "line feed" in kinds else "same"


def report(tools: dict[str, Json], by_tool: dict[str, dict[str, Any]]) -> list[str]:
    """The table, followed by every difference with its explanation."""
    lines = ["| shape | " + " | ".join(f"{tool} {tools[tool]['version']}" for tool in tools) + " |"]
    lines.append("|---|" + "---|" * len(tools))
    for shape in SHAPES:
        cells = [verdict(by_tool[tool][shape.name]) for tool in tools]
        lines.append(f"| {shape.name} | " + " | ".join(cells) + " |")
    for tool in tools:
        for shape in SHAPES:
            lines += detail(tool, shape.name, by_tool[tool][shape.name])
    return lines


def detail(tool: str, name: str, rows: Any) -> list[str]:
    """The differences of one shape beyond the line feed."""
    if verdict(rows) in ("same", "line feed"):
        return []
    lines = ["", f"**{tool}, {name}.** " + EXPLAINED.get((tool, name), "NOT EXPLAINED")]
    if not isinstance(rows, list):
        return [*lines, "", f"- {next(iter(rows.values()))}"]
    return [*lines, "", *(f"- row {n}: {line}" for n, row in enumerate(rows, 1) for line in row)]


def store(path: Path, folder: Path, tools: dict[str, Json], by_tool: dict[str, dict[str, Any]]) -> None:
    """Write the file for the tests, one line per tool and shape."""
    templates = {shape.template: sha256(template_text(shape, load(folder))) for shape in SHAPES}
    lines = [
        f"  {json.dumps(f'{tool}/{name}')}: "
        + json.dumps({**made, "differences": by_tool[tool][name] if "rows" in made else None}, ensure_ascii=False)
        for tool in tools
        for name, made in tools[tool]["shapes"].items()
    ]
    head = {"versions": {tool: tools[tool]["version"] for tool in tools}, "templates": templates}
    path.write_text(json.dumps(head)[:-1] + ', "made": {\n' + ",\n".join(lines) + "\n}}\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
