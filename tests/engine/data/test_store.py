"""Rows stored as columns equal the tokenized rows, on disk and in memory."""

from __future__ import annotations

import hashlib
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.prepared import TokenizedRows, answer_tokens_of, fingerprint, lengths_of
from engine.data.rows import IGNORE_INDEX, SPLITS, Problem, Row
from engine.data.store import ColumnStore, ColumnWriter, columns_of

TEXTS = st.text(max_size=20)
PLACES = st.one_of(st.builds("file {} line {}".format, st.integers(0, 3), st.integers(0, 10**10)), TEXTS)


@st.composite
def rows(draw: Any) -> Row:
    ids = draw(st.lists(st.integers(0, 65_535), min_size=1, max_size=12))
    trained = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    labels = [id_ if learned else IGNORE_INDEX for id_, learned in zip(ids, trained, strict=True)]
    prefix = ids[: draw(st.integers(0, len(ids)))]
    prompt = draw(st.one_of(st.just(prefix), st.lists(st.integers(0, 70_000), max_size=5)))
    weights = draw(st.none() | st.lists(st.floats(0, 4), min_size=len(ids), max_size=len(ids)))
    return Row(
        ids,
        labels,
        prompt,
        draw(TEXTS),
        draw(PLACES),
        draw(st.booleans()),
        tuple(draw(st.lists(st.sampled_from(["one", "two", "three"]), max_size=2))),
        draw(st.integers(len(ids), 100)),
        draw(st.integers(0, 100)),
        weights,
        tuple(draw(st.lists(TEXTS, max_size=2))),
    )


PROBLEMS = st.builds(Problem, st.sampled_from(["empty", "no answer"]), TEXTS, PLACES, st.integers(0, 9))
RESULTS = st.lists(rows() | PROBLEMS, max_size=12)


def stored(results: list[Row | Problem], folder: Path | None, batch: int = 5) -> ColumnStore:
    writer = ColumnWriter(folder, "<u2")
    for start in range(0, len(results), batch):
        writer.append(columns_of(results[start : start + batch], "<u2"))
    return writer.rows()


def usable(columns: ColumnStore) -> TokenizedRows:
    return TokenizedRows(columns, np.flatnonzero(columns["kind"] == 0))


@settings(max_examples=25, deadline=None)
@given(RESULTS)
def test_stored_rows_are_the_rows_that_were_stored(results: list[Row | Problem]) -> None:
    columns = stored(results, None)
    kept = [result for result in results if isinstance(result, Row)]
    loaded = usable(columns)
    assert list(loaded) == kept == [loaded[place] for place in range(len(loaded))] and loaded == kept
    assert (
        loaded[1:] == kept[1:] and loaded[::-2] == kept[::-2] and loaded.take([*range(len(kept))][::-1]) == kept[::-1]
    )
    for number, result in enumerate(results):
        assert columns.where(number) == result.where
        if isinstance(result, Problem):
            assert (columns.kinds[columns["kind"][number]], columns.text(number)) == (result.kind, result.what)


@settings(max_examples=25, deadline=None)
@given(RESULTS)
def test_columns_of_sizes_are_those_of_the_rows(results: list[Row | Problem]) -> None:
    kept = [result for result in results if isinstance(result, Row)]
    loaded = usable(stored(results, None))
    assert loaded.lengths.tolist() == lengths_of(kept).tolist() == [len(row.input_ids) for row in kept]
    assert loaded.loss_tokens.tolist() == [len(row.labels) - row.labels.count(IGNORE_INDEX) for row in kept]
    assert loaded.answer_tokens.tolist() == answer_tokens_of(kept).tolist()
    assert loaded.cut.tolist() == [row.cut for row in kept]
    assert list(loaded.targets()) == [row.target for row in kept]


@settings(max_examples=25, deadline=None)
@given(RESULTS)
def test_the_fingerprint_is_that_of_the_rows_written_out(results: list[Row | Problem]) -> None:
    loaded = usable(stored(results, None))
    parts = {"train": loaded[2:], "validation": loaded[:1], "test": loaded[1:2]}
    assert fingerprint(parts, loaded[:0]) == written_out({name: list(some) for name, some in parts.items()})


def written_out(rows: dict[str, list[Row]]) -> str:
    """The definition of the fingerprint of earlier releases, with weights and references if there are any."""
    digest = hashlib.sha256()
    for name in SPLITS:
        digest.update(f"{name} {len(rows[name])}\n".encode())
        for row in rows[name]:
            for ids in (row.input_ids, row.labels, row.prompt):
                digest.update(len(ids).to_bytes(8, "little") + array("q", ids).tobytes())
            if row.weights is not None:
                digest.update(b"weights" + array("d", row.weights).tobytes())
            digest.update(row.target.encode() + b"\0")
            digest.update("".join(f"reference {other}\0" for other in row.references).encode())
    return digest.hexdigest()


def some_rows(count: int) -> list[Row]:
    return [Row([n, n + 1, 7], [IGNORE_INDEX, n + 1, 7], [n], f"t{n}", f"a line {n}", False) for n in range(count)]


def test_rows_on_disk_are_mapped_and_equal_those_in_memory(tmp_path: Path) -> None:
    on_disk = usable(stored(list(some_rows(20)), tmp_path))
    assert isinstance(on_disk.columns["ids"], np.memmap)
    assert on_disk == usable(stored(list(some_rows(20)), None))
    assert (tmp_path / "ids.bin").stat().st_size == 2 * 60
