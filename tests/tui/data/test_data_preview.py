"""Data list, inspector and typed paths, without an app."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from pathlib import Path

import pytest
from hostile import MARK, STRINGS

from engine.config.errors import UserError
from engine.config.files import is_hub_id
from engine.data.check import BINS, histogram
from engine.runs.rpc_client import Cancelled, CancelToken, ask
from tui.charts import Histogram, draw_histogram
from tui.data import recent
from tui.data.datasets import DataSet, detail, line, list_datasets, typed_dataset
from tui.data.inspection import InspectedRow, Token, TokenDisplay, sample_text
from tui.data.preview import MAX_BYTES, Preview, PreviewCache, request_preview, signature
from tui.screens.adding import DiskReader, continuations

PAIR = '{"prompt": "a", "completion": "b"}\n'


def section(path: Path | str, **more: object) -> dict[str, object]:
    return {"id": str(path), **more}


def test_a_hub_id_has_an_owner_and_a_name() -> None:
    assert is_hub_id("openai/gsm8k") and not is_hub_id("gsm8k") and not is_hub_id("/a/b") and not is_hub_id("a/b/c")
    too_long = f"{'x' * 300}/name"  # for a file name: no OSError is raised
    assert DataSet(too_long, too_long).on_the_hub


def test_recent_sets_are_stored_latest_first_bounded_and_unique() -> None:
    for number in range(recent.MAX_RECENT + 5):
        recent.remember(f"/data/{number}.jsonl")
    recent.remember("/data/10.jsonl")
    kept = recent.read_recent()
    assert len(kept) == recent.MAX_RECENT and kept[0] == "/data/10.jsonl" and len(set(kept)) == recent.MAX_RECENT
    recent.forget("/data/10.jsonl")
    assert "/data/10.jsonl" not in recent.read_recent()
    assert [path.name for path in recent.recent_file().parent.iterdir()] == ["recent.json"]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"a": 1}', b"[1]", b"\xff\xfe"])
def test_a_damaged_list_of_recent_sets_is_an_empty_one(damage: bytes) -> None:
    recent.remember("owner/name")
    recent.recent_file().write_bytes(damage)
    assert recent.read_recent() == []
    recent.remember("owner/name")
    assert recent.read_recent() == ["owner/name"]


def test_the_list_has_embedded_sets_files_the_folder_and_recent_sets(tmp_path: Path, here: Path) -> None:
    elsewhere = tmp_path / "elsewhere.jsonl"
    for path in (here / "train.jsonl", here / "test.jsonl", here / "notes.txt", elsewhere):
        path.write_text(PAIR)
    (here / "folder.jsonl").mkdir()
    (here / "loop.csv").symlink_to(here / "loop.csv")
    for dataset_id in (str(elsewhere), "owner/name", str(here / "train.jsonl")):
        recent.remember(dataset_id)
    labels = [dataset.label for dataset in list_datasets("tickets")]
    assert labels == ["tickets", "./", "loop.csv", "test.jsonl", "train.jsonl", "owner/name", "elsewhere.jsonl"]
    assert list_datasets("other/set")[0].id == "other/set"


def test_a_deleted_working_directory_offers_embedded_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert [dataset.id for dataset in list_datasets("tickets")] == ["tickets"]


@pytest.mark.parametrize("width", [10, 22, 26, 60])
@pytest.mark.parametrize(
    "preview",
    [None, Preview({"train": 1600}, "messages"), Preview(error="broken; mend it"), Preview(note="3 GiB, not counted")],
)
def test_a_line_fits_into_its_pane(width: int, preview: Preview | None) -> None:
    shown = line(DataSet("/x/y", "a-rather-long-name-of-a-file.jsonl"), preview, True, width)
    assert shown.cell_length <= max(width, 16)
    assert ("a-rather-long-name-of-a-file.jsonl" in shown.plain) == (width == 60)


def test_a_line_shows_rows_format_and_a_problem_mark() -> None:
    preview = Preview(
        {"train": 10003, "test": 3080}, "prompt-completion", "why", 2, {"empty": {"rows": 2, "where": ["x"]}}
    )
    shown = line(DataSet("/x/y", "banking77/"), preview, False, 30).plain
    assert "10,003" in shown and "prompt" in shown and shown.endswith("!")
    assert "2 rows left out: x" in detail(DataSet("/x/y", "y"), preview)
    assert "network" in detail(DataSet("owner/name", "owner/name"), None)


def test_the_engine_counts_rows_by_split_and_names_the_format(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(PAIR * 3 + '{"prompt": "a", "completion": ""}\n')
    (tmp_path / "test.jsonl").write_text(PAIR)
    preview = request_preview(section(tmp_path), CancelToken())
    assert (preview.rows, preview.format, preview.unusable) == ({"train": 4, "test": 1}, "prompt-completion", 1)
    (problem,) = preview.problems
    assert problem.startswith("1 row ") and "train.jsonl line 4" in problem and "no answer" in problem


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", b"", "empty"),
        ("binary.jsonl", bytes(range(256)) * 20, "NUL"),
        ("cut.jsonl.gz", gzip.compress(PAIR.encode() * 9999, mtime=0)[:-30], "invalid gzip"),
        ("cut.parquet", b"PAR1" + b"\0" * 50, "Parquet"),
        ("long.jsonl", b'{"prompt": "' + b"x" * (17 << 20) + b'"}', "longer than 16 MiB"),
        ("page.json", b'["a", "b"]', "item 1"),
    ],
)
def test_a_broken_file_is_one_line_with_what_to_do(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    (problem,) = request_preview(section(tmp_path / name), CancelToken()).problems
    assert said in problem and ";" in problem and "\n" not in problem


def test_a_huge_file_is_not_counted_and_costs_no_process(tmp_path: Path) -> None:
    huge = tmp_path / "huge.jsonl"
    with huge.open("wb") as file:
        file.truncate(5 << 30)
    preview = PreviewCache().get(str(huge), section(huge), CancelToken())
    assert "not counted" in preview.note and "5.00 GiB" in preview.note
    assert "5.00 GiB" in line(DataSet(str(huge), "huge.jsonl"), preview, False, 30).plain


def test_a_preview_is_cached_until_the_file_or_the_settings_change(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "a", "a": "b", "prompt": "c", "completion": ""}\n')
    first = PreviewCache()
    assert first.get(str(path), section(path), CancelToken()).unusable == 1
    first.save()
    again, left = PreviewCache(), CancelToken()
    left.cancel()  # whoever asks now would be refused
    assert again.get(str(path), section(path), left).unusable == 1
    with pytest.raises(Cancelled):
        again.get(str(path), section(path, map={"prompt": "q", "completion": "a"}), left)
    path.write_text(PAIR * 2)
    assert again.get(str(path), section(path), CancelToken()).rows == {"train": 2}


def test_a_deleted_set_is_reported(tmp_path: Path) -> None:
    (problem,) = (
        PreviewCache().get(str(tmp_path / "gone.jsonl"), section(tmp_path / "gone.jsonl"), CancelToken()).problems
    )
    assert "No such file" in problem


def test_a_folders_signature_changes_with_any_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "train.csv").write_text("text,label\na,b\n")
    bytes_, before = signature(str(tmp_path))
    assert 0 < bytes_ < MAX_BYTES
    os.utime(tmp_path / "sub" / "train.csv", (1, 1))
    assert signature(str(tmp_path))[1] != before


def test_a_cancelled_request_ends_its_process() -> None:
    cancel_token = CancelToken()
    told: list[str] = []

    def progress(text: str) -> None:
        told.append(text)
        cancel_token.cancel()

    arguments = {"data": section("tickets"), "model": {"id": "tiny"}, "max_length": 64, "rows": 1, "most": 9}
    with pytest.raises(Cancelled):
        ask("data.inspect", arguments, progress, cancel_token)
    assert told == ["loading libraries"]


@pytest.mark.slow
def test_a_long_preparation_reports_rows_done_and_total(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"prompt": "ask {n}", "completion": "say {n}"}}\n' for n in range(9000)))
    told: list[tuple[int, int | None]] = []
    arguments = {"data": section(path), "model": {"id": "tiny"}, "max_length": 64}
    ask("data.check", arguments, counted=lambda text, done, total: told.append((done, total)))
    assert any(total == 9000 and 0 < done <= 9000 for done, total in told)
    assert all(total is None or done <= total for done, total in told)


def test_a_histogram_counts_every_row_once_and_shows_truncated_rows() -> None:
    made = histogram([1, 10, 10, 200], [5000], 1024)
    assert made is not None
    assert sum(made["counts"]) == made["rows"] == 5
    assert made["longer"] == made["lost"] == 1 and made["width"] * len(made["counts"]) >= 1024
    assert len(made["counts"]) <= BINS
    assert histogram([], [], 10) is None


def test_one_very_long_row_does_not_compress_the_others_into_one_column() -> None:
    made = histogram([*range(20, 60)] * 50 + [900_000], [], 1_000_000)
    assert made is not None and made["beyond"] == 1 and made["width"] <= 3
    cut = histogram([*range(20, 60)] * 50 + [900_000], [], 4096)
    assert cut is not None and cut["width"] * len(cut["counts"]) > 4096


def test_every_bin_is_drawn_and_columns_beyond_max_length_have_another_style() -> None:
    lengths = Histogram(10, [0, 4, 0, 1, 2, 8], 15, 60, 0, 11, 3)
    rows = draw_histogram(lengths, 30, 40, 4)
    bottom = rows[3]
    assert [style for _, style in bottom] == ["kept", "cut"]
    assert "".join(text for text, _ in bottom) == " █ ▄██"
    assert ["".join(text for text, _ in row) for row in rows[:3]] == ["     █", "     █", " █   █"]
    assert "11 rows (73.3%) truncated" in rows[-1][0][0] and "▲" in rows[-1][0][0]
    whole = draw_histogram(Histogram(10, [3], 3, 9, 0, 0, 0), 64, 40, 4)[-1][0][0]
    assert "no row" in whole and "truncated" in whole


def sample(*tokens: Token, omitted: int = 0, head: int = 9) -> InspectedRow:
    return InspectedRow("a line 1", "b", False, len(tokens), 1, 1, [], omitted, head, list(tokens))


def test_tokens_in_the_loss_are_marked_without_color() -> None:
    row = sample(Token("ask\n", 1, False, False), Token("yes", 2, True, False), Token("<|end|>", 3, True, True))
    shown = sample_text(row, TokenDisplay())
    styles = {shown.plain[span.start : span.end]: str(span.style) for span in shown.spans}
    assert "underline" in styles["yes"] and "underline" not in styles["ask"]
    assert "bold" in styles["<|end|>"] and shown.plain == "ask⏎\nyes<|end|>"
    assert sample_text(row, TokenDisplay(ascii=True, parted=True)).plain == "ask\\n\n[yes│<|end|>]"


def test_tokens_left_out_of_a_long_row_are_counted() -> None:
    row = sample(Token("a", 1, False, False), Token("z", 2, True, False), omitted=12345, head=1)
    assert "12,345 tokens not shown" in sample_text(row, TokenDisplay()).plain


@pytest.mark.parametrize("hostile", STRINGS)
def test_hostile_tokens_are_literal_text(hostile: str) -> None:
    shown = sample_text(sample(Token(hostile, 1, True, False)), TokenDisplay()).plain
    assert MARK in shown
    assert not any(character != "\n" and not character.isprintable() for character in shown)


def test_a_path_is_continued_to_folders_and_data_files(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    for name in ("sub", ".hidden"):
        (here / name).mkdir()
    for name in ("train.jsonl", "test.jsonl", "notes.md", ".secret.jsonl", "sub/rows.csv", "t\x1b.csv"):
        (here / name).write_text(PAIR)

    def of(text: str) -> list[str]:
        return asyncio.run(continuations(text, DiskReader()))

    assert of("") == ["sub/", "test.jsonl", "train.jsonl"]
    assert of("t") == ["test.jsonl", "train.jsonl"] and of("no") == []
    assert of(".") == ["./"] and of("./.") == ["./.hidden/", "./.secret.jsonl"]
    assert of("~") == ["~/"] and of("~/s") == ["~/sub/"]
    assert of(f"{here}/sub/") == [f"{here}/sub/rows.csv"] and of("sub/../s") == ["sub/../sub/"]
    for unreadable in ("gone/", "train.jsonl/", "~nobody-of-that-name/"):
        with pytest.raises(UserError):
            of(unreadable)


def test_a_typed_dataset_is_an_absolute_path_or_a_hub_id(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    (here / "owner").mkdir()
    (here / "owner" / "train.jsonl").write_text(PAIR)
    (here / "notes.md").write_text("")
    file = str(here / "owner" / "train.jsonl")
    assert [typed_dataset(text) for text in (file, "~/owner/train.jsonl", "owner/../owner/train.jsonl")] == [file] * 3
    assert typed_dataset("owner/") == str(here / "owner") and typed_dataset("owner/name") == "owner/name"
    bad = {"notes.md": "data.file_type", "owner/gone.jsonl": "data.not_found", "x\0y": "data.not_found"}
    for text, code in (bad | {"~nobody-of-that-name/x": "file.unknown_user"}).items():
        with pytest.raises(UserError) as refused:
            typed_dataset(text)
        assert refused.value.code == code


def test_lone_surrogates_in_rows_are_counted_or_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "a \ud83d b", "completion": "c"}) + "\n" + PAIR * 30)
    preview = request_preview(section(path), CancelToken())
    assert preview.rows == {"train": 31} or preview.problems
