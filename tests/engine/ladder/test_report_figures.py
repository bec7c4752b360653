"""The figures of a report: which there are, and that they can be told apart."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from made_ladder import made_ladder

from engine.ladder.report import page
from engine.ladder.report.material import figures, gather


def test_figures_for_what_there_is(tmp_path: Path) -> None:
    titles = {}
    for card in (False, True):
        drawn, undrawn = figures(gather(*made_ladder(tmp_path / f"runs-{card}", card=card)))
        titles[card] = [figure.title for figure in drawn]
        assert undrawn == []
    assert titles[False] == [
        "Score against training time",
        "Score against peak memory",
        "Loss by tokens",
        "Loss by seconds of training",
        "Learning-rate trials",
        "Memory over time: process",
    ]
    assert set(titles[True]) - set(titles[False]) == {
        "Score against money",
        "Memory over time: tensors",
        "Memory over time: torch’s pool",
        "Memory over time: whole card",
    }


def test_more_rungs_than_colours_are_still_told_apart(tmp_path: Path) -> None:
    directory, ladder = made_ladder(tmp_path / "runs", seeds=(0,))
    names = [f"_$lora_{n}$ <b>" for n in range(9)]
    ladder.rows += [msgspec.structs.replace(ladder.rows[2], name=name) for name in names]
    material = gather(directory, ladder)
    looks = {(style.number, style.marker, style.dash) for style in material.styles.values()}
    assert len(looks) == len(material.styles)
    drawn, _ = figures(material)
    assert "_$lora_8$ &lt;b&gt;" in drawn[0].svg
    assert "<b>" not in drawn[0].svg


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast of two colours `#rrggbb` or `#rgb`."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_told_from_the_paper_in_light_and_dark() -> None:
    css = (page.HERE / "page.css").read_text("utf-8")
    light, dark = (dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]+)", part)) for part in css.split("@media screen")[:2])
    assert light.keys() == dark.keys()
    for scheme in (light, dark):
        for name, colour in scheme.items():
            least = 4.5 if name in ("ink", "muted", "link") else 3.0 if name.startswith(("rung", "base")) else 1.0
            assert contrast(colour, scheme["paper"]) >= least, name
            assert least < 4.5 or contrast(colour, scheme["wash"]) >= least, name
