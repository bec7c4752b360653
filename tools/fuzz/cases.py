"""Generate cases: rows of a format in a file format, valid or damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from fuzz import damage
from fuzz.columns import plain
from fuzz.containers import COLUMNS, FAITHFUL, FILES, HEADERLESS, LINES, TEXT_TABLE, Container, saved
from fuzz.expected import Case, ExpectedRow, Json, Rows
from fuzz.formats import ARRAYS, AS_TEXT, FLAT, NESTED, REFUSED
from fuzz.texts import Limits, said

Draw = Callable[..., Any]
LENGTHS = (4096, 4096, 4096, 64)
SHARES = {"file": 10, "splits": 3, "special": 3, "refused": 1, "odd": 4, "broken": 5}
WRONG_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz", ".txt", ".zip", "")


@st.composite
def cases(draw: Draw) -> Case:
    """About six of ten are valid."""
    kind = draw(st.sampled_from([name for name, share in SHARES.items() for _ in range(share)]))
    made = _MAKERS[kind](draw)
    return replace(made, options={**_settings(draw), **made.options}, max_length=draw(st.sampled_from(LENGTHS)))


def _settings(draw: Draw) -> Json:
    """Settings of the held-out splits."""
    chosen: Json = {}
    if draw(st.integers(0, 3)) == 0:
        chosen["test"] = draw(st.sampled_from([0.0, 0.2]))
    if draw(st.integers(0, 3)) == 0:
        chosen["validation"] = draw(st.sampled_from([0.0, 0.3]))
    if draw(st.integers(0, 9)) == 0:
        chosen["max_rows"] = draw(st.integers(1, 5))
    return {**chosen, "seed": draw(st.integers(0, 3))}


def _formats(container: Container) -> dict[str, Any]:
    """The formats whose rows a container can represent."""
    formats = {**FLAT, **AS_TEXT}
    if container.limits.nested:
        formats |= NESTED
    if container.name in FAITHFUL:
        formats |= ARRAYS
    return formats


def _rows(draw: Draw, container: Container, formats: dict[str, Any]) -> Rows:
    rows: Rows = draw(formats[draw(st.sampled_from(sorted(formats)))](container.limits))
    if container.name == "JSONL named .json" and len(rows.rows) == 1:  # one object in a .json file may be anything
        return replace(rows, rows=rows.rows * 2)
    return rows


def _one_file(draw: Draw, rows: Rows, container: Container) -> Case:
    name = draw(st.sampled_from(["rows", "my data", "täglich", "x.y"])) + container.suffix
    content = container.write(draw, [row.values for row in rows.rows])
    expect = "refused" if rows.refused else "valid"
    return Case(rows.format, container.name, expect, {name: content}, name, rows.options, {"train": rows.rows})


def _file(draw: Draw) -> Case:
    container = draw(st.sampled_from(FILES))
    return _one_file(draw, _rows(draw, container, _formats(container)), container)


def _splits(draw: Draw) -> Case:
    """Training rows with separate test or validation splits."""
    container = draw(st.sampled_from(FILES))
    how = draw(st.sampled_from(["folder", "saved", "object"])) if container.limits.nested else "folder"
    container = replace(container, limits=replace(container.limits, uniform=container.limits.uniform or how == "saved"))
    formats = _formats(container) if how == "folder" else {**FLAT, **AS_TEXT, **NESTED}
    rows = _rows(draw, container, formats)
    parts = _parted(draw, rows.rows)
    if how == "object":
        files = {"sets.json": json.dumps({name: [row.values for row in part] for name, part in parts.items()}).encode()}
        return _split_case(rows, "JSON object of splits", files, "sets.json", parts)
    if how == "saved":
        files = saved({name: [row.values for row in part] for name, part in parts.items()})
        return _split_case(rows, "save_to_disk", files, "set", parts)
    files = {
        f"set/{name}{container.suffix}": container.write(draw, [row.values for row in part])
        for name, part in parts.items()
    }
    return _split_case(rows, f"folder of {container.name}", files, "set", parts)


def _split_case(rows: Rows, name: str, files: dict[str, bytes], path: str, parts: dict[str, list[ExpectedRow]]) -> Case:
    return Case(rows.format, name, "valid", files, path, rows.options, parts)


def _parted(draw: Draw, rows: list[ExpectedRow]) -> dict[str, list[ExpectedRow]]:
    names = draw(st.sampled_from([("train",), ("train", "test"), ("train", "validation", "test")]))
    if len(rows) < 4 * len(names):
        rows = rows * (4 * len(names))
    shares = {name: rows[number :: len(names)] for number, name in enumerate(names)}
    return {name: part for name, part in shares.items() if part}


def _special(draw: Draw) -> Case:
    """File formats with special rules."""
    kind = draw(st.sampled_from(["columns", "headerless", "lines", "paragraphs", "documents", "files", "saved"]))
    return _SPECIAL[kind](draw)


def _columns(draw: Draw) -> Case:
    names = ("alpaca", "labels", "mapped")
    return _one_file(draw, _rows(draw, COLUMNS, {name: FLAT[name] for name in names}), COLUMNS)


def _headerless(draw: Draw) -> Case:
    """The first field is too long for a column name, so the first line must be a row."""
    container = draw(st.sampled_from(HEADERLESS))
    rows = draw(FLAT["labels"](container.limits))
    long = [_with_long_prompt(row) for row in rows.rows]
    options = {"map": {"prompt": "column 1", "completion": "column 2"}}
    made = Rows("prompt-completion", long, options)
    case = _one_file(draw, made, container)
    return replace(case, has_names=False)


def _with_long_prompt(row: ExpectedRow) -> ExpectedRow:
    name = next(iter(row.values))
    text = f"Where is the card that I ordered for my mother last Monday morning? {row.values[name]}"
    return ExpectedRow({**row.values, name: text}, row.answers)


def _lines(draw: Draw) -> Case:
    return _one_file(draw, draw(plain(LINES.limits)), LINES)


def _paragraphs(draw: Draw) -> Case:
    limits = Limits(nul=False, lines=False, whitespace_at_ends=False)
    texts = draw(st.lists(st.lists(said(limits).filter(_plain_line), min_size=1, max_size=3), min_size=2, max_size=6))
    rows = [ExpectedRow({"text": "\n".join(block)}, ("\n".join(block),)) for block in texts]
    content = "\n\n".join(row.values["text"] for row in rows).encode()
    files = {"book.txt": content}
    return Case("text", "TXT of paragraphs", "valid", files, "book.txt", {}, {"train": rows})


def _plain_line(text: str) -> bool:
    return bool(text.encode().strip()) and not text.startswith("\ufeff")


def _documents(draw: Draw) -> Case:
    """A folder of text files, one document each."""
    rows = draw(plain(Limits(nul=False, whitespace_at_ends=False))).rows
    rows = [row for row in rows if _plain_line(row.values["text"])] or [ExpectedRow({"text": "a"}, ("a",))] * 2
    rows = rows if len(rows) > 1 else rows * 2
    files = {f"books/{number:02}.txt": row.values["text"].encode() for number, row in enumerate(rows)}
    return Case("text", "folder of TXT", "valid", files, "books", {}, {"train": rows})


def _files(draw: Draw) -> Case:
    """A folder of training files in several formats."""
    rows = draw(FLAT["labels"](TEXT_TABLE))
    half = max(1, len(rows.rows) // 2)
    parts = [part for part in (rows.rows[:half], rows.rows[half:]) if part]
    clear = [file for file in FILES if file.name != "JSONL named .json"]
    kinds = [draw(st.sampled_from(clear)) for _ in parts]
    files = {
        f"set/part-{n}{kind.suffix}": kind.write(draw, [row.values for row in part])
        for n, (kind, part) in enumerate(zip(kinds, parts, strict=True))
    }
    return _split_case(rows, "folder of several kinds", files, "set", {"train": rows.rows})


def _saved(draw: Draw) -> Case:
    rows = _rows(draw, replace(COLUMNS, limits=Limits(uniform=True)), {**FLAT, **AS_TEXT, **NESTED})
    files = saved({"train": [row.values for row in rows.rows]})
    return _split_case(rows, "save_to_disk", files, "set", {"train": rows.rows})


def _refused(draw: Draw) -> Case:
    container = draw(st.sampled_from([file for file in FILES if file.limits.nested]))
    return _one_file(draw, _rows(draw, container, REFUSED), container)


def _odd(draw: Draw) -> Case:
    """Readable rows with invalid values, keys or settings."""
    rows = _rows(draw, FILES[0], {**FLAT, **AS_TEXT, **NESTED, **ARRAYS, **REFUSED})
    values, note = damage.change_rows(draw, [row.values for row in rows.rows])
    options = rows.options if draw(st.booleans()) else _odd_options(draw)
    as_array = draw(st.booleans())
    text = f"[{', '.join(map(damage.dumped, values))}]" if as_array else "\n".join(map(damage.dumped, values)) + "\n"
    name = "odd.json" if as_array else "odd.jsonl"
    container = "JSON array" if as_array else "JSONL"
    return Case(rows.format, container, "odd", {name: text.encode()}, name, options, {}, note=note)


def _odd_options(draw: Draw) -> Json:
    names = st.sampled_from(["prompt", "completion", "text", "messages", "{prompt} {x}", "{", "instruction", "label"])
    chosen: Json = {}
    if draw(st.booleans()):
        chosen["format"] = draw(st.sampled_from(["messages", "sharegpt", "alpaca", "prompt-completion", "text"]))
    if draw(st.booleans()):
        roles = st.sampled_from(["prompt", "completion", "system", "text", "messages"])
        chosen["map"] = draw(st.dictionaries(roles, names, max_size=3))
    if draw(st.integers(0, 3)) == 0:
        chosen["separator"] = draw(st.sampled_from(["x", "\n", "A:", " "]))
    return chosen


def _broken(draw: Draw) -> Case:
    """A valid case with one file damaged, or renamed to the suffix of another format."""
    case = draw(st.sampled_from([_file, _file, _splits, _special]))(draw)
    name = draw(st.sampled_from(sorted(case.files)))
    if draw(st.integers(0, 5)) == 0 and case.path == name:
        new = name.rsplit(".", 1)[0] + draw(st.sampled_from(WRONG_SUFFIXES))
        return replace(case, expect="broken", files={new: case.files[name]}, path=new, splits={}, note="renamed")
    content, note = damage.change_bytes(draw, case.files[name])
    return replace(case, expect="broken", files={**case.files, name: content}, splits={}, note=note)


_MAKERS = {"file": _file, "splits": _splits, "special": _special, "refused": _refused, "odd": _odd, "broken": _broken}
_SPECIAL = {"columns": _columns, "headerless": _headerless, "lines": _lines, "paragraphs": _paragraphs,
            "documents": _documents, "files": _files, "saved": _saved}  # fmt: skip
