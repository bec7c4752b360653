"""A first look at a data set, without a tokenizer: rows, format, and rows that nothing can be learnt from.

Takes `prepare`'s own steps as far as they need no model, so it never says otherwise than the preparation will.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine.contract.schema import Data
from engine.data.conversation import Problem
from engine.data.counts import SPLITS, counted
from engine.data.formats import agree, converse, detect
from engine.data.source import read


def glance(data: Data) -> dict[str, Any]:
    """Rows by split as they lie in the files, the format and why, unusable rows by kind with places. JSON-able.

    Raises UserError where the rows cannot be read or understood at all.
    """
    source = read(data)
    found = detect(source.train, data)
    rows: dict[str, int] = {}
    bad: list[Problem] = []
    for name in SPLITS:
        raws = getattr(source, name)
        if raws is None:
            continue
        rows[name] = raws.summary.rows
        agree(raws, found)
        bad += [problem for problem in (converse(raw, found) for raw in raws) if isinstance(problem, Problem)]
    return {
        "rows": rows,
        "format": found.name,
        "why": found.why,
        "unusable": len(bad),
        "kinds": counted([(problem.kind, f"{problem.where}: {problem.what}") for problem in bad]),
        "warnings": [msgspec.to_builtins(notice) for notice in found.warnings],
    }
