"""The report's page in a real browser: self-contained, readable on a phone, a wide screen and paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser, browser
from made_ladder import made_ladder
from made_runs import BEGIN, HOSTILE
from made_sweep import ladder_with, sweep_of
from simulated import with_times

from engine.extensions.sweeps.sweep import Axis, Sweep
from engine.extensions.sweeps.sweep_dir import SweepDir
from engine.extensions.sweeps.sweep_report import write as write_sweep
from engine.ladder.report import write
from engine.ladder.report.page import shown
from engine.runs.ladder.ladder_state import Ladder

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium not found: install Debian's package `chromium`")

PAGES = ("cpu", "gpu", "loss", "hostile", "unfinished", "sweep")
SMALLEST = 10.0
"""Minimum font size in CSS pixels, also in figures."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name -> URL."""
    folder = tmp_path_factory.mktemp("ladders")
    ladders = {
        "cpu": made_ladder(folder / "cpu"),
        "gpu": made_ladder(folder / "gpu", gpu=True, without=["full"]),
        "loss": made_ladder(folder / "loss", metric="loss", seeds=(0,)),
        "hostile": made_ladder(folder / "hostile", hostile=True),
        "unfinished": made_ladder(folder / "unfinished"),
    }
    directory, _ = ladders["unfinished"]
    ladders["unfinished"] = directory, Ladder(name=directory.name, preset="demo", command="", created=BEGIN)
    for hostile in ladders["hostile"][1].rows:
        hostile.status, hostile.reason, hostile.no_share = "partly", HOSTILE[6], HOSTILE[1]
    ladders["hostile"][1].warnings = list(HOSTILE)
    for ladder in ladders.values():
        write(*ladder)
    sweep = SweepDir(folder / "sweep")
    sweep.path.mkdir()
    write_sweep(sweep, two_settings())
    return {name: directory.page.as_uri() for name, (directory, _) in ladders.items()} | {"sweep": sweep.page.as_uri()}


def two_settings() -> Sweep:
    """A finished sweep over two settings, with names as long as real ones and costs that vary."""
    axes = [Axis(key="adapter.rank", values=[4, 16, 64]), Axis(key="data.max_rows", values=[500, 2000])]
    ladders: list[Ladder | None] = [ladder_with(0.8 + 0.04 * number, 11.0 + number) for number in range(6)]
    for number, ladder in enumerate(filter(None, ladders)):
        with_times(ladder, qlora=15.0, lora=40.0, full=100.0)
        for row in ladder.rows if number == 1 else []:
            row.share_of_gain, row.no_share = None, "full fine-tuning is not significantly better than the base model"
    sweep = sweep_of(ladders, axes)
    for number, cell in enumerate(sweep.cells):
        cell.ladder = f"20260131-12010{number}-demo-ladder-{number:04x}"
    return sweep


def test_the_tables_of_a_sweep_need_no_scrolling_in_1100_pixels(chromium: Browser, pages: dict[str, str]) -> None:
    chromium.open(pages["sweep"], 1100)
    wide = "[...document.querySelectorAll('.wide')].filter(element => element.scrollWidth > element.clientWidth).length"
    assert chromium.value("document.querySelectorAll('.wide').length") and chromium.value(wide) == 0


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


@pytest.mark.parametrize(("width", "dark"), [(400, True), (1600, False)])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_sends_no_requests_logs_no_errors_and_fits(
    chromium: Browser, pages: dict[str, str], name: str, width: int, dark: bool
) -> None:
    chromium.open(pages[name], width, dark)
    chromium.value("document.querySelectorAll('details').forEach(folded => folded.open = true)")
    assert chromium.requests() == [pages[name]]
    assert chromium.console() == []
    assert chromium.value("document.documentElement.scrollWidth") <= width
    assert chromium.value(
        "[...document.querySelectorAll('svg[role=img]')].every(s => s.getBoundingClientRect().width > 250)"
    )
    assert chromium.value(SMALL_TEXTS) == []


SMALL_TEXTS = f"""
[...document.querySelectorAll('body *')].filter(element => {{
  const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  if (!own || element.closest('svg') && element.tagName !== 'text') return false;
  const svg = element.closest('svg');
  const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
  return parseFloat(getComputedStyle(element).fontSize) * scale < {SMALLEST};
}}).map(element => element.tagName + ' ' + element.textContent.slice(0, 40))
"""


def test_hostile_strings_are_text(chromium: Browser, pages: dict[str, str]) -> None:
    chromium.open(pages["hostile"], 1600)
    text = chromium.value("document.body.textContent")
    for string in HOSTILE:
        assert shown(string) in text
    assert chromium.value("document.title").startswith("tiny on <script>")
    active = "script, img, iframe, object, embed, form, base, link:not([rel=icon])"
    assert chromium.value(f"document.querySelectorAll('{active}').length") == 0


def test_a_long_line_is_complete_in_a_scrolling_box(chromium: Browser, pages: dict[str, str]) -> None:
    chromium.open(pages["hostile"], 400)
    boxes = "[...document.querySelectorAll('pre')].filter(pre => pre.textContent.length >= 100000)"
    assert chromium.value(f"{boxes}.length") > 0
    assert chromium.value(f"{boxes}.every(pre => pre.clientHeight < 300 && pre.scrollHeight > 300)")


def colors(chromium: Browser) -> tuple[str, str, str]:
    """Colors of the background, the text and the figures' text."""
    computed = chromium.value("""[
      getComputedStyle(document.documentElement).backgroundColor, getComputedStyle(document.querySelector('h1')).color,
      getComputedStyle(document.querySelector('svg text')).fill]""")
    return computed[0], computed[1], computed[2]


def test_print_is_light_and_the_screen_follows_the_preferred_scheme(chromium: Browser, pages: dict[str, str]) -> None:
    chromium.open(pages["cpu"], 1600)
    light = colors(chromium)
    chromium.open(pages["cpu"], 1600, dark=True)
    dark = colors(chromium)
    chromium.open(pages["cpu"], 1600, dark=True, media="print")
    paper = colors(chromium)
    assert light[0] == "rgb(255, 255, 255)"
    assert all(a != b for a, b in zip(light, dark, strict=True))
    assert paper == light


def test_printing_takes_few_pages(chromium: Browser, pages: dict[str, str], tmp_path: Path) -> None:
    chromium.open(pages["cpu"], 1600, dark=True)
    chromium.pdf(tmp_path / "page.pdf")
    pdf = (tmp_path / "page.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert 3 <= pdf.count(b"/Type /Page\n") <= 12


def test_tables_label_their_rows_and_columns(chromium: Browser, pages: dict[str, str]) -> None:
    chromium.open(pages["gpu"], 1600)
    assert chromium.value("[...document.querySelectorAll('th')].every(th => th.scope)")
    assert chromium.value(
        "[...document.querySelectorAll('svg')].every(s => s.ariaHidden || s.getAttribute('aria-label'))"
    )
    counts = chromium.value("""[...document.querySelectorAll('table')].map(table => {
      const wide = row => [...row.cells].reduce((sum, cell) => sum + cell.colSpan, 0);
      return new Set([...table.rows].map(wide)).size;
    })""")
    assert set(counts) == {1}
