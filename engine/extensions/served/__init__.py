"""Served models as rungs: `--rung http://HOST/v1#MODEL` answers the ladder's test items through its server."""
