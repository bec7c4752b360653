"""The figures of a report and their colors."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from made_ladder import made_ladder

from engine.ladder.report import page
from engine.ladder.report.figures import ReportFigure, report_figures
from engine.ladder.report.page import ReportData


def drawn_figures(data: ReportData) -> tuple[list[ReportFigure], list[str]]:
    return report_figures(data.ladder, data.styles, data.traces)


def test_there_is_a_figure_for_everything_that_was_measured(tmp_path: Path) -> None:
    drawn, missing = drawn_figures(ReportData(*made_ladder(tmp_path / "runs")))
    names = [name for figure in drawn for name in re.findall(r'id="([a-z-]+)-figure_1"', figure.svg)]
    assert (names, missing) == (["loss-by-tokens", "trials"], [])


def test_more_rungs_than_colors_still_differ(tmp_path: Path) -> None:
    directory, ladder = made_ladder(tmp_path / "runs", seeds=(0,))
    names = [f"_$lora_{n}$ <b>" for n in range(9)]
    ladder.rows += [msgspec.structs.replace(ladder.rows[2], name=name) for name in names]
    run = next(entry for entry in ladder.entries if entry.kind == "run")
    ladder.entries += [msgspec.structs.replace(run, rung=name) for name in names]
    data = ReportData(directory, ladder)
    rung_styles = {(style.number, style.marker, style.dash) for style in data.styles.values()}
    assert len(rung_styles) == len(data.styles)
    drawn, _ = drawn_figures(data)
    assert "_$lora_8$ &lt;b&gt;" in drawn[0].svg
    assert "<b>" not in drawn[0].svg


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast of two colors `#rrggbb` or `#rgb`."""

    def luminance(color: str) -> float:
        digits = color[1:] if len(color) == 7 else "".join(digit * 2 for digit in color[1:])
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colors_have_enough_contrast_in_light_and_dark() -> None:
    css = (page.FOLDER / "page.css").read_text("utf-8")
    light, dark = (dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]+)", part)) for part in css.split("@media screen")[:2])
    assert light.keys() == dark.keys()
    for scheme in (light, dark):
        for name, color in scheme.items():
            least = 4.5 if name in ("ink", "muted", "link") else 3.0 if name.startswith(("rung", "base")) else 1.0
            assert contrast(color, scheme["paper"]) >= least, name
            assert least < 4.5 or contrast(color, scheme["wash"]) >= least, name
