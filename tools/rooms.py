"""Counts the lines of core, extensions and tests, and the lines of the core that name an optional room.

    python tools/rooms.py [COMMIT]      # of a commit; by default the checkout

A line names a room if it has one of its words, in code, docstring or comment; words of the core are left out where one
has both meanings, as `rank` of an adapter. The lists of what extensions add (`engine/extensions/__init__.py` and
`engine/config/hooks.py`) do not count. Rooms without a folder of their own are still in the core: their own files are
named here.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
CORE, EXTENSIONS, TESTS = ("engine/", "tui/"), ("engine/extensions/", "tui/extensions/"), "tests/"
LISTS = ("engine/extensions/__init__.py", "engine/config/hooks.py")


@dataclass(frozen=True)
class Room:
    """An optional part: what names it, and its files where they are not in a folder of extensions."""

    words: str
    own: str = r"$^"

    def has(self, name: str, path: str) -> bool:
        """Whether a file is its own."""
        return any(path.startswith(f"{place}{name}/") for place in EXTENSIONS) or bool(re.search(self.own, path))


ROOMS = {
    "judge": Room(
        r"\b(judg(e|es|ed|ing|ments?)|rat(ers?|ings?))\b|ftbench rate|win.rate",
        r"engine/(judge|runs/preference)/|runs/ladder/preferences|cli/judge|screens/rating",
    ),
    "served": Room(r"\bserved\b|Served[A-Z]", r"engine/ladder/served"),
    "chat": Room(r"chat.sessions?|\bTRY\b|['\"`]try['\"`]|ftbench try"),
    "gguf": Room(r"llama[._]cpp|q4_k_m|q8_0|to gguf|GGUF (tools|exports?)|GGUF_TOOLS", r"llama_cpp|gguf_tools"),
    "slurm": Room(r"[Ss]lurm|SLURM"),
    "trackers": Room(r"[Tt]rackio|[Tt]ensor[Bb]oard|[Ww]andb|track\.to|to trackers|experiment trackers"),
    "preset_import": Room(r"[Aa]xolotl|LLaMA-Factory|`(ftbench )?presets import|preset_import|torchtune"),
    "doctor": Room(r"\bdoctor\b"),
    "sweeps": Room(r"[Ss]weep"),
    "benchmarks": Room(r"(?<!cudnn\.)[Bb]enchmark"),
    "ranks": Room(
        r"\branks\b|\brank_|rank 0|FSDP|\bDDP\b|torch\.distributed|train\.devices|parallelism",
        r"training/ranks|worker/rank",
    ),
    "compare": Room(r"ftbench compare\b|extensions.compare"),
    "server_check": Room(r"server_check|ftbench check\b"),
    "push": Room(r"(?<!\.)\bpush(ed|es|ing)?\b"),
}


def sources(commit: str | None) -> dict[str, list[str]]:
    """Path -> lines of every Python file of engine, tui and tests."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    listed = git("ls-tree", "-r", "--name-only", commit) if commit else git("ls-files", "--cached", "--others")
    paths = [path for path in listed.splitlines() if path.endswith(".py") and path.startswith((*CORE, TESTS))]
    if commit:
        return {path: git("show", f"{commit}:{path}").splitlines() for path in paths}
    return {path: (ROOT / path).read_text("utf-8").splitlines() for path in paths if (ROOT / path).exists()}


def main() -> None:
    files = sources(sys.argv[1] if len(sys.argv) > 1 else None)

    def lines(*paths: str) -> int:
        return sum(map(len, (files[path] for path in paths)))

    extensions = [path for path in files if path.startswith(EXTENSIONS)]
    core = [path for path in files if path.startswith(CORE) and path not in extensions]
    tests = [path for path in files if path.startswith(TESTS)]
    print("| | files | lines |\n|---|--:|--:|")
    for title, paths in (("core", core), ("extensions", extensions), ("tests", tests)):
        print(f"| {title} | {len(paths)} | {lines(*paths):,} |")
    print("\n| room | own lines | lines of the core that name it | in files |\n|---|--:|--:|--:|")
    every = set[tuple[str, int]]()
    for name, room in ROOMS.items():
        named = {
            (path, number)
            for path in core
            if path not in LISTS and not room.has(name, path)
            for number, line in enumerate(files[path])
            if re.search(room.words, line)
        }
        every |= named
        own = lines(*(path for path in files if path.startswith(CORE) and room.has(name, path)))
        where = "" if any(path.startswith(f"{EXTENSIONS[0]}{name}/") for path in files) else " (in the core)"
        print(f"| {name}{where} | {own:,} | {len(named)} | {len({path for path, _ in named})} |")
    print(f"| together | | {len(every)} | {len({path for path, _ in every})} |")


if __name__ == "__main__":
    main()
