"""Text is legible in every theme except ANSI themes."""

from __future__ import annotations

import pytest
from textual.color import Color
from textual.theme import BUILTIN_THEMES

from tui.settings import CURSOR, MIN_CONTRAST, TEXT_COLORS, contrast, legible


def test_contrast_of_known_pairs() -> None:
    """The values of the W3C's examples."""
    black, white, grey = Color(0, 0, 0), Color(255, 255, 255), Color(0x77, 0x77, 0x77)
    assert contrast(black, white) == contrast(white, black) == pytest.approx(21)
    assert contrast(grey, white) == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("name", sorted(BUILTIN_THEMES))
def test_text_is_legible_under_the_cursor(name: str) -> None:
    theme = BUILTIN_THEMES[name]
    before = theme.to_color_system().generate()
    after = legible(before, theme.dark)
    if "ansi" in before["background"]:
        replaced = {key: after[key] for key in before if before[key] != after[key]}
        assert set(replaced.values()) == ({"ansi_bright_blue"} if theme.dark else set())  # blue on black
        return
    behind = Color.parse(after["background"]).blend(Color.parse(after["primary"]), CURSOR)
    assert min(contrast(Color.parse(after[name]), behind) for name in TEXT_COLORS) >= MIN_CONTRAST
    assert {key for key in before if before[key] != after[key]} <= set(TEXT_COLORS)
