"""Programs that attack what the documentation promises, and print tables of failures.

`terminal_*` attack the commands and the bench in a terminal (`python -m tools.attacks`), `run_*` attack runs and
ladders (`python -m tools.attacks.run_kills`, `.run_corruptions`, `.run_environment`).
"""
