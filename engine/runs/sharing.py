"""One sentence on shared prefixes, for the plan, the launch screen and the log."""

from __future__ import annotations


def describe_sharing(prefix: int, rows: int, ratio: float) -> str:
    """What computing common prefixes once saves; "" without shared prefixes.

    `prefix`: tokens of the prefix common to `rows` rows, 0 if it differs between groups of rows. `ratio`: tokens of
    the rows divided by tokens computed.
    """
    if ratio <= 1.0:
        return ""
    shared = f"prefix of {prefix:,} tokens shared by {rows:,} rows" if prefix else "prefixes shared by groups of rows"
    return f"{shared}: {100 / ratio:.0f}% of the tokens are computed"
