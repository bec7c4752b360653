"""Guess data.map for columns with unknown names."""

from __future__ import annotations

from engine.data.columns import Summary


def guess_map(summary: Summary) -> dict[str, str]:
    """The most likely data.map: a column of conversations, text and label, or the first two text columns."""
    columns = {name: summary.columns[name] for name in summary.filled}
    chats = [name for name, column in columns.items() if {"role", "from"} & column.keys]
    if chats:
        return {"messages": chats[0]}
    texts = [name for name, column in columns.items() if set(column.kinds) == {"text"}]
    if len(texts) == 1:
        return {"text": texts[0]}
    if len(texts) < 2:
        return {}
    labels = [name for name in texts if _is_label(summary, name)]
    if len(labels) == 1:
        asked = [name for name in texts if name not in labels]
        return {"prompt": max(asked, key=lambda name: _length(summary, name)), "completion": labels[0]}
    return {"prompt": texts[0], "completion": texts[1]}


def _length(summary: Summary, name: str) -> int:
    return max(map(len, summary.columns[name].examples))


def _is_label(summary: Summary, name: str) -> bool:
    distinct = summary.columns[name].distinct
    return distinct is not None and len(distinct) < summary.columns[name].rows
