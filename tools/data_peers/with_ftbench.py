"""Prepare a file with `prepare`; prints {"seconds", "cpu", "rows"} as JSON. Called by `tools/data.py`."""

from __future__ import annotations

import json
import os
import sys
import time

from engine.config.schema import Data, Model
from engine.data.prepare import prepare
from engine.methods.model_source import load_tokenizer


def main(file: str, model: str) -> None:
    tokenizer = load_tokenizer(Model(id=model))
    started, used = time.perf_counter(), sum(os.times()[:4])
    made = prepare(Data(id=file), 1024, tokenizer)
    seconds, cpu = time.perf_counter() - started, sum(os.times()[:4]) - used
    rows = sum(len(split) for split in (made.train, made.validation, made.test))
    print(json.dumps({"seconds": seconds, "cpu": cpu, "rows": rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
