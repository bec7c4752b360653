"""One file of rows, whatever its kind: JSON lines, a JSON array, CSV, TSV or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.data.opened import decoded, lines, whole
from engine.data.raw import DEPTH_LIMIT, ROWS_LIMIT, Raw, described, parsed, row
from engine.data.tables import read_csv, read_parquet

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_PACKED = (".zst", ".zip", ".bz2", ".xz", ".7z", ".tar", ".tgz", ".rar")


def kind(path: Path) -> str | None:
    """The suffix that says how to read a file (`.csv` for `a.CSV.gz`), or None when it is no file of rows."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
        return suffixes[-1] if suffixes and suffixes[-1] in KINDS and suffixes[-1] != ".parquet" else None
    return suffixes[-1] if suffixes and suffixes[-1] in KINDS else None


def read_file(path: Path, name: str, notes: list[str]) -> list[Raw]:
    """All rows of one file; `name` is what errors call it. Adds to `notes` what was taken otherwise than named.

    Raises UserError for anything that is not a file of rows, with the line, item or row at fault.
    """
    found = kind(path)
    if found is None:
        raise _unknown(path, name)
    if found == ".parquet":
        rows = read_parquet(path, name)
    elif found in (".csv", ".tsv"):
        rows = read_csv(path, name, "\t" if found == ".tsv" else None, notes)
    elif found == ".json":
        rows = _read_json(path, name, notes)
    else:
        rows = list(_read_lines(path, name))
    if not rows:
        raise UserError("no rows in the file", name, "give it at least one")
    return rows


def _read_lines(path: Path, name: str) -> Iterator[Raw]:
    count = 0
    for number, line in lines(path, name):
        text = decoded(line, name, number).strip()
        if not text:
            continue
        count += 1
        if count > ROWS_LIMIT:
            raise UserError(f"more than {ROWS_LIMIT:,} rows", name, "split the file or take a part of it")
        where = f"{name} line {number}"
        yield row(parsed(text, where), where)


def _read_json(path: Path, name: str, notes: list[str]) -> list[Raw]:
    text = decoded(whole(path, name), name)
    if not text.strip():
        raise UserError("no rows in the file", name, "give it at least one")
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise UserError(f"nested more than {DEPTH_LIMIT} deep", name, "flatten the rows") from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            notes.append(f"{name} holds JSON lines, not one JSON value: read as .jsonl")
            return list(_read_lines(path, name))
        place = f"{name} line {error.lineno} column {error.colno}"
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        do = "the file is cut off: write it again" if cut else "mend the file"
        raise UserError(f"not JSON ({error.msg})", place, do) from error
    except ValueError as error:
        raise UserError(f"not a usable JSON value ({error})", name, "mend the file") from error
    return [row(item, f"{name} item {number}") for number, item in enumerate(_items(value, name), 1)]


def _items(value: Any, name: str) -> list[Any]:
    """The rows in a JSON value: an array, an object of columns, or an object with one array of rows in it."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        raise UserError(f"{described(value)} where rows should be", name, "give it an array of objects")
    lists = {key: item for key, item in value.items() if isinstance(item, list)}
    rows = {key: items for key, items in lists.items() if items and all(isinstance(item, dict) for item in items)}
    if len(lists) == len(value) > 1 and not rows:
        if len({len(items) for items in lists.values()}) > 1:
            sizes = ", ".join(f"{key} {len(items)}" for key, items in list(lists.items())[:8])
            raise UserError(f"columns of different lengths ({sizes})", name, "make them equally long")
        return [dict(zip(lists, items, strict=True)) for items in zip(*lists.values(), strict=True)]
    if len(rows) == 1:
        (items,) = rows.values()
        is_turn = {"role", "from"} & set(items[0])
        return [value] if is_turn else items
    if rows:
        do = "put each in a file of its own: train.jsonl, test.jsonl"
        raise UserError(f"several arrays of rows ({', '.join(list(rows)[:8])})", name, do)
    raise UserError("an object without an array of rows", name, "give it an array of objects")


def _unknown(path: Path, name: str) -> UserError:
    suffix = path.suffix.lower()
    reads = ".jsonl .json .csv .tsv .parquet, the text ones also as .gz"
    if suffix in _PACKED or suffix == ".gz":
        return UserError(f"{suffix} is not read", name, f"unpack it first ({reads})")
    return UserError(f"no known kind of file ({suffix or 'no suffix'})", name, f"ftbench reads {reads}")
