"""Terminal capabilities, ASCII mode, themes, settings and key conflicts."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color

from tui.commands import key_conflicts
from tui.settings import Settings, is_light, needs_ascii, read_settings, remember, remembered, suited_theme, theme_file
from tui.start import bench_options
from tui.terminal import AsciiFilter, plain


@pytest.mark.parametrize(
    "text",
    ["╭─ loss ─╮", "│⠣⡀⣀│", "▁▂▅▇█░ 64 °C", "a → b … ±3 %", "naïve café", "日本語 テキスト", "🦙 llama", "⏎ start"],
)
def test_ascii_text_has_the_same_width(text: str) -> None:
    assert plain(text).isascii() and len(plain(text)) == cell_len(text)


@pytest.mark.parametrize("marks", ["━─", "█▓░┃", " ▁▂▃▄▅▆▇█", "·▸✓–✗", "─●├┤", "▶■…"])
def test_marks_with_different_meanings_differ_in_ascii(marks: str) -> None:
    """Progress, memory, curves and histograms, runs of a ladder, intervals, the watched run."""
    texts = [plain(mark) for mark in marks]
    assert len(set(texts)) >= len(marks) - (marks[-1] == "█") and "?" not in texts  # the two fullest columns are alike


def test_the_filter_leaves_styles_and_control_alone() -> None:
    control = Segment("\x1b[1m", None, [(1,)])  # type: ignore[list-item]
    made = AsciiFilter().apply([Segment("─x", None), control], Color(0, 0, 0))
    assert made[0].text == "-x" and made[1] is control


@pytest.mark.parametrize(
    ("environ", "encoding", "wanted"),
    [
        ({"TERM": "xterm-256color"}, "utf-8", False),
        ({"TERM": "screen"}, "UTF-8", False),
        ({"TERM": "linux"}, "utf-8", True),
        ({"TERM": "xterm"}, "iso-8859-1", True),
        ({"TERM": "xterm"}, "ascii", True),
    ],
)
def test_ascii_is_the_default_on_terminals_without_braille(
    environ: dict[str, str], encoding: str, wanted: bool
) -> None:
    assert needs_ascii(environ, encoding) is wanted


def test_the_theme_suits_the_terminal() -> None:
    assert suited_theme("truecolor", {"TERM": "x"}) == "textual-dark"
    assert suited_theme("truecolor", {"COLORFGBG": "0;15"}) == "textual-light"
    assert suited_theme("standard", {"COLORFGBG": "15;0"}) == "ansi-dark"
    assert suited_theme(None, {"COLORFGBG": "0;default;7"}) == "ansi-light"
    assert not is_light({"TERM": "x"})


def test_a_chosen_theme_is_remembered_until_the_setting_changes(tmp_path: Path) -> None:
    assert remembered("auto") is None
    remember("nord", "auto")
    assert remembered("auto") == "nord" and remembered("dracula") is None
    theme_file().write_bytes(b"\xff\xfe")
    assert remembered("auto") is None


def test_errors_in_the_settings_are_reported_and_the_rest_is_used(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('theme = "nrod"\nascii = "yes"\ncolour = 1\n[keys]\n"bench.strat" = "f"\n"bench.stop" = "X"\n')
    settings = read_settings(["nord"], path)
    assert settings.theme == Settings().theme and settings.keys == {"bench.stop": "X"}
    assert len(settings.errors) == 4
    suggested = (("unknown_theme", "nord"), ("unknown_command", "bench.start"))
    for code, name in suggested:
        assert any(f"[settings.{code}]" in error and name in error for error in settings.errors), code
    codes = ["unknown_key", "invalid_value", "unknown_theme", "unknown_command"]
    assert sorted(error.rpartition("settings.")[2].rstrip("]") for error in settings.errors) == sorted(codes)
    path.write_text("not toml at all [")
    assert len(read_settings([], path).errors) == 1


def test_conflicting_keys_are_reported() -> None:
    assert list(key_conflicts({})) == []
    (reserved,) = key_conflicts({"bench.stop": "ctrl+b"})
    assert "bench.stop: ctrl+b" in reserved and "[keys.reserved]" in reserved
    assert any("bench.stop" in line and "[keys.conflict]" in line for line in key_conflicts({"bench.stop": "r"}))
    assert list(key_conflicts({"bench.stop": "X, ctrl+x, f2, minus, full_stop, space"})) == []
    for wrong in ("ctl+x", "f99x", "", "X,"):
        assert any(
            "bench.stop" in line and "[keys.invalid]" in line for line in key_conflicts({"bench.stop": wrong})
        ), wrong


def test_a_key_that_an_input_line_takes_as_text_is_reported() -> None:
    for keys in ("q", "space", "a, question_mark", "slash", "minus"):
        assert any("try.back" in line and "[keys.text]" in line for line in key_conflicts({"try.back": keys})), keys
    assert not [line for line in key_conflicts({"try.back": "ctrl+x, b", "bench.stop": "X"}) if "[keys.text]" in line]


def test_the_bench_is_opened_for_its_own_options_only() -> None:
    opening = bench_options(["--ascii", "--no-mouse", "--runs", "here"])
    assert opening == {"ascii_only": True, "mouse": False, "runs": "here"}
    assert bench_options(["--runs=there"]) is not None and bench_options([]) is not None
    for other in (["runs"], ["--help"], ["--version"], ["--runs"], ["--ascii", "demo"]):
        assert bench_options(other) is None, other


def test_two_commands_without_a_key_do_not_conflict() -> None:
    problems = list(key_conflicts({"bench.stop": "", "bench.log_scale": ","}))
    assert all("[keys.invalid]" in line for line in problems) and problems
