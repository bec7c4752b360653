"""Search everything a user or reader can read for words that the documentation of the field does not use.

    python tests/bench/words.py              # hits of the required list, and a table of counts per package
    python tests/bench/words.py --all        # the wider list as well
    python tests/bench/words.py docs tui/cli # only files below these paths

Python files are searched in strings, docstrings and comments, not in names; Markdown, TOML, CSS, templates and C in
full. Exit status 1 if the required list has a hit. `tests/project/test_words.py` asserts that it has none.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = ("engine", "tui", "docs", "presets", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "tests/bench")
"""Files and folders that are searched; of tests/bench only the pages."""
SUFFIXES = (".py", ".md", ".toml", ".css", ".tcss", ".jinja")
GENERATED_DATA = ("engine/assets/",)
"""Strings here are training text for the embedded model; only docstrings and comments are searched."""

REQUIRED = {
    "anew": r"anew",
    "beside": r"beside",
    "lies": r"lies?|lying",
    "mend": r"mend(?:s|ed|ing)?",
    "goes on": r"(?:go|goes|going|went) on",
    "told apart": r"(?:told|tells?|telling)(?: \w+){0,3} apart",
    "whatever": r"what(?:so)?ever",
    "a pass": r"a pass(?:es)?",
    "of its own": r"of (?:its|their|his|her) own",
    "no name for": r"no name for",
    "is none": r"(?:is|are) (?-i:none)",  # `is None` is Python
    "let go": r"lets? go|letting go",
    "begun": r"begun|began",
    "card": r"cards?",
}
"""Mark -> regular expression. No text may contain one of these."""
WIDER = {
    "archaic": r"hence|lest|thereby|wherein|whoever|nothing but|so many|so much as|at most so many|forgo",
    "bookish": r"is of another|as asked|takes? (?:it|them) up|set going|the look|alike|save for|by heart|the like",
    "newest": r"newest",
    "picture": r"pictures?",
    "wanted": r"wanted",
    "kept to": r"kept to",
    "there is none": r"there (?:is|are) none",
    "begin": r"begins?|beginning",
    "processor": r"processors?",
    "British": r"(?:dis)?colou?red?(?<=colour)|colours?|artefacts?|summaris\w+|initialis\w+|learnt|catalogues?|grey|"
    r"behaviours?|favou?r(?<=favour)|neighbours?|labelled|quantis\w+|organis\w+|optimis\w+|licence",
    "percent": r"\d %",
}
"""Words to look at: some uses are plain English."""

ALLOWED = {
    "card": (
        r"--card\b",  # option names and file names that users type
        r"\bcards\.toml",
        r"`[a-z_.]*card[a-z_.]*`",  # fields of JSON
        r"\bmodel cards?\b",  # the README of a model on the Hub
        r"\bmodel's card\b",
        r"\bgpu[_ ]card[_ ]names\b",
        r"\bcard payments?\b",  # data of the embedded dataset and of examples
        r"\bgraphics cards?\b",
        r"\b(?:bank|credit|debit) cards?\b",
        r"A card was ordered",
        r"\bcard24[-\w]*",
        r"\bCARD\.md",
    ),
    "is none": (r"\b(?:if|when|unless) there (?:is|are) none\b",),  # counted in the wider list
    "lies": (r"\blies? (?:within|between|below|above)\b",),  # a value in an interval
    "a pass": (r"\ba pass(?=[-_]?(?:word|phrase|through))",),
    "goes on": (r"\bgo(?:es)? on (?:the|a|one) (?:GPU|CPU|line|device)\b",),
}
"""Mark -> regular expressions of legitimate uses: a hit inside one does not count."""


@dataclass(frozen=True)
class Hit:
    """One mark in one text."""

    path: str
    line: int
    mark: str
    excerpt: str

    @property
    def package(self) -> str:
        """`engine/data`, `tui/cli`, `docs`, or the file at the root."""
        parts = self.path.split("/")
        return "/".join(parts[: min(2, len(parts) - 1)]) or parts[0]


def hits(marks: dict[str, str], places: tuple[str, ...] = PLACES) -> list[Hit]:
    """All hits in the files below `places`, in the order of the files."""
    patterns = {mark: re.compile(rf"(?<![\w-])(?:{text})(?![\w-])", re.IGNORECASE) for mark, text in marks.items()}
    return [hit for path in files(places) for hit in hits_in(path, patterns)]


def files(places: tuple[str, ...]) -> Iterator[Path]:
    """Files with text for readers."""
    for place in places:
        start = ROOT / place
        for path in sorted(start.rglob("*")) if start.is_dir() else [start]:
            tests = path.is_relative_to(ROOT / "tests")
            if path.suffix in SUFFIXES and "__pycache__" not in path.parts and (not tests or path.suffix == ".md"):
                yield path


def hits_in(path: Path, patterns: dict[str, re.Pattern[str]]) -> Iterator[Hit]:
    """Hits of one file."""
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    content = path.read_text("utf-8")
    for line, text in texts(name, content) if path.suffix == ".py" else [(1, content)]:
        for mark, pattern in patterns.items():
            for found in pattern.finditer(text):
                if not allowed(mark, text, found):
                    excerpt = " ".join(text[max(0, found.start() - 40) : found.end() + 40].split())
                    yield Hit(name, line + text[: found.start()].count("\n"), mark, excerpt)


def allowed(mark: str, text: str, found: re.Match[str]) -> bool:
    """Whether a hit is inside a legitimate use."""
    around = text[max(0, found.start() - 40) : found.end() + 40]
    start = min(40, found.start())
    return any(
        use.start() <= start < use.end()
        for pattern in ALLOWED.get(mark, ())
        for use in re.finditer(pattern, around, re.IGNORECASE)
    )


def texts(name: str, source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every string, docstring and comment of a Python file."""
    tree = ast.parse(source)
    only_docstrings = name.startswith(GENERATED_DATA)
    yield from Strings(only_docstrings).of(tree)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


class Strings(ast.NodeVisitor):
    """Collects string constants; the parts of an f-string are one text, with {} for its values."""

    def __init__(self, only_docstrings: bool) -> None:
        self.found: list[tuple[int, str]] = []
        self.only_docstrings = only_docstrings

    def of(self, tree: ast.AST) -> list[tuple[int, str]]:
        self.visit(tree)
        return [(line, text) for line, text in self.found if is_prose(text)]

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            self.found.append((node.lineno, node.value.value))
        else:
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and not self.only_docstrings:
            self.found.append((node.lineno, node.value))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
        if not self.only_docstrings:
            self.found.append((node.lineno, "".join(map(str, parts))))
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.visit(part.value)


def is_prose(text: str) -> bool:
    """Not a name in code: field names such as `card` and `memory.card` are no words of a sentence."""
    return re.fullmatch(r"[a-z_][a-z0-9_.]*", text) is None


def table(required: list[Hit], wider: list[Hit]) -> str:
    """Counts per package as Markdown."""
    counts, others = Counter(hit.package for hit in required), Counter(hit.package for hit in wider)
    lines = ["| package | required list | wider list |", "|---|---:|---:|"]
    lines += [f"| {name} | {counts[name]} | {others[name]} |" for name in sorted(counts | others)]
    return "\n".join([*lines, f"| all | {len(required)} | {len(wider)} |"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="*", default=PLACES, help="files and folders, relative to the repository")
    parser.add_argument("--all", action="store_true", help="print the hits of the wider list as well")
    options = parser.parse_args()
    places = tuple(options.places)
    required, wider = hits(REQUIRED, places), hits(WIDER, places)
    for hit in [*required, *(wider if options.all else [])]:
        print(f"{hit.path}:{hit.line}: {hit.mark}: {hit.excerpt}")
    print(f"\n{table(required, wider)}\n\n| mark | hits |\n|---|---:|")
    for mark, count in Counter(hit.mark for hit in [*required, *wider]).most_common():
        print(f"| {mark} | {count} |")
    return int(bool(required))


if __name__ == "__main__":
    sys.exit(main())
