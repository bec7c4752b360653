"""The engine: data, training, evaluation and ladders, without a user interface.

A run is one process, started as `python -m engine RUN_DIR`.

No remote code: transformers (from 5.25) and bitsandbytes replace layers and operators by programs that the package
`kernels`, on which transformers depends, downloads from the Hub. In a process of ftbench this package does not exist.
"""

import os
import sys

__version__ = "0.1.0"

sys.modules["kernels"] = None  # type: ignore[assignment]  # importing it raises ImportError
os.environ["USE_HUB_KERNELS"] = "NO"
