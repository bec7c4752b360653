"""Programs that attack what the documentation promises, and print tables of failures.

`terminal_*` attack the commands and the bench in a terminal (`python -m tests.faults.attacks`), `run_*` attack runs and
ladders (`python -m tests.faults.attacks.run_kills`, `.run_corruptions`, `.run_environment`).
"""
