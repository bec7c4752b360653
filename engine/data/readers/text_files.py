"""Read .txt files: one document per file, paragraph or line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.data.readers.safe_open import decoded, lines, no_rows, whole
from engine.data.rows import MAX_ROWS, RawRow, ReadingNotes, raw_row, too_many_rows


def read_text(path: Path, name: str, notes: ReadingNotes, whole_file: bool) -> Iterator[RawRow]:
    """Documents as rows with a single column `text`.

    `whole_file`: the file is one document, for folders of many files. Otherwise documents are separated by blank lines;
    in a file without blank lines each line is a document.
    """
    if whole_file:
        text = decoded(whole(path, name), name)
        if not text.strip():
            raise no_rows(name)
        yield raw_row({"text": text}, name)
        return
    by_paragraph = _has_blank_line(path, name)
    notes.add(
        f"{name}: one document per {'paragraph (blank lines separate them)' if by_paragraph else 'line'}", decision=True
    )
    documents = _paragraphs(path, name) if by_paragraph else _lines(path, name)
    for count, (number, text) in enumerate(documents, 1):
        if count > MAX_ROWS:
            raise too_many_rows(name)
        yield raw_row({"text": text}, f"{name} line {number}")


def _has_blank_line(path: Path, name: str) -> bool:
    """Whether there is a blank line between two lines with text."""
    started = blank = False
    for _, line in lines(path, name):
        if not line.strip():
            blank = started
        elif blank:
            return True
        else:
            started = True
    return False


def _lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    for number, line in lines(path, name):
        text = decoded(line, name, number).strip("\r\n")
        if text.strip():
            yield number, text


def _paragraphs(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """(first line, text) of each block between blank lines."""
    block: list[str] = []
    start = 0
    for number, line in lines(path, name):
        text = decoded(line, name, number).rstrip("\r\n")
        if text.strip():
            start = start if block else number
            block.append(text)
        elif block:
            yield start, "\n".join(block)
            block = []
    if block:
        yield start, "\n".join(block)
