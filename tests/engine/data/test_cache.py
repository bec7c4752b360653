"""Prepared data is cached by content and settings, and a wrong entry is never used."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from data_fixtures import CHATML, tokenizer, write_jsonl

from engine.config.errors import UserError
from engine.config.files import locked_folder
from engine.config.schema import Data
from engine.data import cache
from engine.data.prepare import Builder, prepare_unchecked
from engine.data.prepared import Preparation
from engine.data.store import ColumnWriter

OTHER_MAP = {"prompt": "extra", "completion": "completion"}
ROWS = [{"prompt": f"ask {n}", "completion": f"say {n % 7}", "extra": "x"} for n in range(60)]


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(id=str(write_jsonl(tmp_path / "rows.jsonl", ROWS)))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has one entry per preparation that was not found in the cache."""
    seen: list[str] = []
    build = Builder.build

    def counting(self: Builder, folder: Path | None) -> Any:
        seen.append(str(folder))
        return build(self, folder)

    monkeypatch.setattr(Builder, "build", counting)
    return seen


def same(first: Preparation, other: Preparation) -> bool:
    rows = all(first.rows[name] == other.rows[name] for name in first.rows)
    return rows and first.facts == other.facts and first.columns.tables == other.columns.tables


def entries() -> list[Path]:
    return list(cache.cache_folder().iterdir())


def test_the_second_preparation_is_read_from_the_cache_and_equal(data: Data, built: list[str]) -> None:
    first, other = prepare_unchecked(data, 64, tokenizer()), prepare_unchecked(data, 64, tokenizer())
    assert len(built) == 1 and same(first, other)
    assert other.left_out("train") == first.left_out("train") and not other.notices
    (entry,) = entries()
    assert entry.stat().st_mode & 0o077 == 0


def test_the_name_and_time_of_a_file_do_not_matter_but_its_content_does(data: Data, built: list[str]) -> None:
    path = Path(data.id)
    prepare_unchecked(data, 64, tokenizer())
    os.utime(path, (1, 1))
    prepare_unchecked(data, 64, tokenizer())
    assert len(built) == 1
    status = path.stat()
    path.write_text(path.read_text().replace("say 3", "say 4"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    changed = prepare_unchecked(data, 64, tokenizer())
    assert len(built) == 2 and "say 3" not in set(changed.rows["train"].targets())


@pytest.mark.parametrize(
    "change",
    [
        lambda data, length, tok: (data, 65, tok),
        lambda data, length, tok: (msgspec.structs.replace(data, seed=1), length, tok),
        lambda data, length, tok: (msgspec.structs.replace(data, map=OTHER_MAP), length, tok),
        lambda data, length, tok: (data, length, tokenizer(CHATML + "\n")),
        lambda data, length, tok: (data, length, tokenizer(specials=("<|new|>",))),
    ],
)
def test_other_settings_or_another_tokenizer_are_prepared_again(data: Data, built: list[str], change: Any) -> None:
    asked = (data, 64, tokenizer())
    prepare_unchecked(*asked)
    prepare_unchecked(*change(*asked))
    assert len(built) == 2


@pytest.mark.parametrize("change", ["append", "cut", "replace"])
def test_files_that_change_while_they_are_read_are_refused_and_not_cached(
    data: Data, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(data.id)
    content = path.read_text()
    changed = {"append": content + content, "cut": content[:500], "replace": content.replace("say 3", "say 4")}[change]
    assign = Builder._assign

    def changing(self: Builder) -> Any:
        path.write_text(changed)
        return assign(self)

    monkeypatch.setattr(Builder, "_assign", changing)
    with pytest.raises(UserError) as caught:
        prepare_unchecked(data, 64, tokenizer())
    assert caught.value.code in ("data.changed_while_read", "data.invalid_json") and not entries()


def test_other_code_of_the_preparation_prepares_again(
    data: Data, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_unchecked(data, 64, tokenizer())
    monkeypatch.setattr("engine.data.cache.code_fingerprint", lambda: "other")
    prepare_unchecked(data, 64, tokenizer())
    assert len(built) == 2


@pytest.mark.parametrize("file", ["ids.bin", "text.bin", "split.bin", "meta.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_a_damaged_entry_is_reported_and_prepared_again(data: Data, built: list[str], file: str, damage: str) -> None:
    first = prepare_unchecked(data, 64, tokenizer())
    path = entries()[0] / file
    content = path.read_bytes()
    middle = len(content) // 2
    damaged = {
        "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "cut": content[:-1],
        "empty": b"",
    }
    path.unlink()
    if damage in damaged:
        path.write_bytes(damaged[damage])
    again = prepare_unchecked(data, 64, tokenizer())
    assert len(built) == 2 and same(first, again)
    assert [notice.code for notice in again.notices] == ["data.cache_damaged"]
    assert same(prepare_unchecked(data, 64, tokenizer()), first) and len(built) == 2


@pytest.mark.parametrize("step", ["append", "rows", "assign"])
def test_no_row_is_lost_when_the_disk_fills_up(data: Data, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = prepare_unchecked(data, 64, tokenizer())
    cache.remove(entries()[0].name)
    write = getattr(ColumnWriter, step)

    def full(self: ColumnWriter, *arguments: Any) -> Any:
        if self._folder:
            raise OSError(28, "No space left on device")
        return write(self, *arguments)

    monkeypatch.setattr(ColumnWriter, step, full)
    done = prepare_unchecked(data, 64, tokenizer())
    assert [notice.code for notice in done.notices] == ["data.not_cached"] and "No space" in done.notices[0].text
    assert same(done, expected) and not entries()


@pytest.mark.parametrize("kind", ["file", "read-only", "full"])
def test_without_a_place_for_the_cache_data_is_prepared_and_a_notice_says_so(
    data: Data, built: list[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache.cache_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        folder.write_text("in the way")
    else:
        failing = "engine.data.cache.temporary_folder" if kind == "read-only" else "engine.data.cache._put"

        def fail(*_: Any) -> None:
            raise OSError(30 if kind == "read-only" else 28, "no place")

        monkeypatch.setattr(failing, fail)
    done = prepare_unchecked(data, 64, tokenizer())
    assert [notice.code for notice in done.notices] == ["data.not_cached"]
    assert len(done.rows["train"]) > 40 and done.rows["train"][0].target
    assert kind == "file" or not folder.exists() or not list(folder.iterdir())


def test_the_least_recently_used_entries_are_removed_above_the_limit(
    tmp_path: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [Data(id=str(write_jsonl(tmp_path / f"{n}.jsonl", ROWS[n:]))) for n in range(4)]
    for number, dataset in enumerate(sets[:3]):
        prepare_unchecked(dataset, 64, tokenizer())
        newest = max(entries(), key=lambda path: path.stat().st_ctime_ns)
        os.utime(newest / "meta.json", (1000 + number, 1000 + number))
    size = sum(file.stat().st_size for file in entries()[0].iterdir())
    prepare_unchecked(sets[0], 64, tokenizer())  # used again: now the second is the oldest
    monkeypatch.setattr(cache, "limit", lambda root, used: int(3.5 * size))
    prepare_unchecked(sets[3], 64, tokenizer())
    assert len(built) == 4 and len(entries()) == 3
    prepare_unchecked(sets[0], 64, tokenizer())
    assert len(built) == 4
    prepare_unchecked(sets[1], 64, tokenizer())
    assert len(built) == 5


def test_what_killed_processes_left_is_removed_and_what_is_being_written_is_not(data: Data) -> None:
    ages = {"old": 2 * cache.ABANDONED_SECONDS, "future": -2 * cache.ABANDONED_SECONDS, "new": 0}
    for name, age in (ages | {"used": ages["old"]}).items():
        folder = cache.cache_folder() / f".tmp-{name}"
        folder.mkdir(parents=True)
        (folder / "ids.bin").write_bytes(b"x")
        for path in (folder / "ids.bin", folder):
            os.utime(path, (time.time() - age, time.time() - age))
    with locked_folder(cache.cache_folder() / ".tmp-used"):
        prepare_unchecked(data, 64, tokenizer())
    assert {path.name for path in entries() if path.name.startswith(".")} == {".tmp-new", ".tmp-used"}


def prepare_in_child(data: Data, end: Any) -> None:
    done = prepare_unchecked(data, 64, tokenizer())
    end.send((done.facts.fingerprint, [notice.code for notice in done.notices]))


def test_processes_that_prepare_the_same_at_once_end_with_one_entry(data: Data) -> None:
    context = multiprocessing.get_context("fork")
    tokenizer()
    ends = []
    for _ in range(3):
        ours, theirs = context.Pipe(duplex=False)
        context.Process(target=prepare_in_child, args=(data, theirs)).start()
        ends.append(ours)
    results = {json.dumps(end.recv()) for end in ends}
    assert results == {json.dumps((prepare_unchecked(data, 64, tokenizer()).facts.fingerprint, []))}
    for child in multiprocessing.active_children():
        child.join()
    assert len(entries()) == 1


def test_rows_outlive_the_removal_of_their_entry(data: Data) -> None:
    done = prepare_unchecked(data, 64, tokenizer())
    again = prepare_unchecked(data, 64, tokenizer())
    expected = list(done.rows["train"])
    shutil.rmtree(cache.cache_folder())
    assert list(again.rows["train"]) == expected == list(done.rows["train"])


def test_a_template_that_writes_the_date_is_prepared_again_on_another_day(
    data: Data, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dated = tokenizer("{% set d = strftime_now('%d %b') %}" + CHATML)
    prepare_unchecked(data, 64, dated)
    prepare_unchecked(data, 64, dated)
    assert len(built) == 1
    monkeypatch.setattr("engine.data.cache.time.strftime", lambda *form: "2000-01-01")
    prepare_unchecked(data, 64, dated)
    assert len(built) == 2
