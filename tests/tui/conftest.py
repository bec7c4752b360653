"""Fixtures for tests of the bench."""

from bench_fixtures import forks, here, server, undrawn

__all__ = ["forks", "here", "server", "undrawn"]
