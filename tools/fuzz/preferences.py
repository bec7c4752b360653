"""Generate preference and KTO rows, refused unless a setting says which answers to train on."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

from hypothesis import strategies as st

from fuzz.expected import ExpectedRow, Rows
from fuzz.row_parts import Draw, many
from fuzz.texts import Limits, said


@cache
@st.composite
def preference(draw: Draw, limits: Limits) -> Rows:
    """Chosen and rejected answers, with a prompt or as whole conversations."""
    kind = draw(st.sampled_from(["pair", "turns", "conversations"]))

    def draw_row(draw: Draw) -> ExpectedRow:
        asked, good, bad = (draw(said(limits)) for _ in range(3))
        if kind == "pair":
            return ExpectedRow({"prompt": asked, "chosen": good, "rejected": bad}, (good,))
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (good, bad))
        prompt = [{"role": "user", "content": asked}]
        if kind == "turns":
            return ExpectedRow({"prompt": prompt, "chosen": chosen, "rejected": rejected}, (good,))
        return ExpectedRow({"chosen": prompt + chosen, "rejected": prompt + rejected}, (good,))

    return Rows("preference", many(draw, draw_row), refused=True)


@cache
@st.composite
def kto(draw: Draw, limits: Limits) -> Rows:
    """Completions with a label that says whether they are good."""

    bad = ExpectedRow({"prompt": draw(said(limits)), "completion": "x", "label": False}, ())
    return Rows("KTO", [bad, *many(draw, partial(_judged, limits=limits))], refused=True)


def _judged(draw: Draw, limits: Limits) -> ExpectedRow:
    good, text = draw(st.booleans()), draw(said(limits))
    return ExpectedRow({"prompt": draw(said(limits)), "completion": text, "label": good}, (text,) if good else ())


@cache
@st.composite
def desirable(draw: Draw, limits: Limits) -> Rows:
    """KTO's rows with the setting that trains on the good ones."""
    rows: Rows = draw(kto(limits))
    good = draw(said(limits))
    row = ExpectedRow({"prompt": draw(said(limits)), "completion": good, "label": True}, (good,))
    return replace(rows, format="desirable", rows=[*rows.rows, row], options={"format": "desirable"}, refused=False)


@cache
@st.composite
def chosen(draw: Draw, limits: Limits) -> Rows:
    """Preference data with the setting that trains on the chosen answers."""
    return replace(draw(preference(limits)), format="chosen", options={"format": "chosen"}, refused=False)
