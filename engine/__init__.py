"""The engine: data, training, evaluation and ladders, without a user interface.

A run is one process, started as `python -m engine RUN_DIR`.
"""

__version__ = "0.1.0"
