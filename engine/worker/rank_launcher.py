"""Run a worker as several ranks, one per device, with the part of torchrun that starts and watches processes.

Without its agent: the agents of several machines find each other over a TCP store, which listens on all addresses and
answers everybody. The ranks of one machine meet in a file of the run's directory, which only its owner can open.

This process holds the locks of the run and its devices, and passes stop requests on. It writes the end of the run:
what rank 0 recorded, or why a rank ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

import psutil
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from engine.config.files import remove_tree
from engine.hardware.devices import SelectedDevice
from engine.memory.formula.estimate import Device, rows_per_device
from engine.runs.run.event_log import EventLog
from engine.runs.run.events import End, Error, MicroBatchReduced, Status, Warning
from engine.runs.run.folder import EndRecord
from engine.runs.run.run_dir import FrozenRun, RunDir, write_end
from engine.runs.stopping import StopRequest
from engine.worker.rank import FOLDER, OUT_OF_MEMORY, STOP_SIGNAL
from engine.worker.run_log import earlier_workers, memory_advice

Failure = tuple[int, ProcessFailure]
"""Rank, and how it ended."""
POLL_SECONDS = 0.1
"""Interval at which the ranks are watched."""
REPEAT_SECONDS = 0.5
"""Interval at which a stop request is passed on again."""
FAILED = "run.rank_failed"


def run_ranks(
    run: RunDir, frozen: FrozenRun, log: EventLog, stopping: StopRequest, devices: Sequence[SelectedDevice]
) -> int:
    """Execute the run with one rank per device; returns the exit status of the process."""
    log.close()  # the ranks write it until they have ended
    if all(device.gpu is not None and device.visible for device in devices):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(device.visible) for device in devices)
    arguments = [str(run.path), str(log.started), *(device.lock for device in devices)]
    failure = _run_once(run, stopping, arguments)
    while failure and failure[1].exitcode == OUT_OF_MEMORY and _reduce(run, frozen, log.started):
        failure = _run_once(run, stopping, arguments)
    record, status = run.read_end(), failure[1].exitcode if failure else 0
    log = EventLog(run.events_file, log.started)
    if record is None or (record.status == "stopped" and status < 0 and not stopping.requested):
        record = _unrecorded(run, frozen, failure, "cuda" if devices[0].gpu else "cpu")
        code = "run.out_of_memory" if record.status == "out_of_memory" else FAILED
        log.write(Error(text=record.reason, code=code))
    run.reserve_end()
    write_end(run, frozen, log, End(status=record.status, reason=record.reason))
    return 0 if record.status in ("finished", "stopped") else 2 if status == 2 else 1


def _run_once(run: RunDir, stopping: StopRequest, arguments: Sequence[str]) -> Failure | None:
    """Run all ranks until they have ended; returns the first one that failed."""
    folder, size = run.path / FOLDER, len(arguments) - 2
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"  # stop requests are handled here: it would end the ranks
    signal.signal(STOP_SIGNAL, signal.SIG_IGN)  # inherited by the ranks
    ended = threading.Event()

    def pass_on() -> None:  # repeatedly: a starting rank ignores the signal
        while not ended.wait(REPEAT_SECONDS):
            for rank in psutil.Process().children() if stopping.requested else ():
                with contextlib.suppress(psutil.NoSuchProcess):
                    rank.send_signal(STOP_SIGNAL)

    thread = threading.Thread(target=pass_on, name="pass on stop requests")
    thread.start()
    try:
        ranks = start_processes(
            "rank",
            sys.executable,
            args=dict.fromkeys(range(size), ("-P", "-m", "engine.worker.rank", *arguments)),
            envs={rank: {"RANK": str(rank), "WORLD_SIZE": str(size)} for rank in range(size)},
            logs_specs=DefaultLogsSpecs(log_dir=str(folder)),  # output goes to engine.log, as this process's does
        )
        results = ranks.wait(period=POLL_SECONDS)
    finally:
        ended.set()
        thread.join()
        remove_tree(folder, ignore_errors=True)
    assert results is not None, "without a timeout"
    return min(results.failures.items(), key=lambda failure: failure[1].timestamp, default=None)


def _reduce(run: RunDir, frozen: FrozenRun, started: float) -> bool:
    """Log half of the micro-batch size, for ranks that start again; False if it is already 1."""
    train = frozen.config.train
    size = min(earlier_workers(run).micro_batch or train.batch, rows_per_device(train))
    if size == 1:
        return False
    log = EventLog(run.events_file, started)
    text = f"a rank is out of memory: all start again from the latest checkpoint, with micro-batch {(size + 1) // 2}"
    log.write(Warning(code="memory.micro_batch_reduced", text=text))
    log.write(MicroBatchReduced(micro_batch=(size + 1) // 2, restarted=True))
    log.close()
    return True


def _unrecorded(run: RunDir, frozen: FrozenRun, failure: Failure | None, device: Device) -> EndRecord:
    """The end of a run whose rank 0 recorded none."""
    status: Status = "failed"
    resume = f"run `ftbench resume {run.argument}` to resume"
    if failure is None:
        reason = f"the ranks ended without an outcome; see {run.log_file}; {resume}"
    else:
        rank, process = failure
        if process.exitcode < 0:
            name = signal.Signals(-process.exitcode).name
            reason = f"rank {rank} (process {process.pid}) was ended by {name}; {resume}"
        elif process.exitcode == OUT_OF_MEMORY:
            status = "out_of_memory"
            reason = f"rank {rank} is out of memory with micro-batch 1; {memory_advice(frozen.config, device)}"
        else:
            message = process.message["message"] if isinstance(process.message, dict) else str(process.message)
            text = " ".join(message.removeprefix("RankFailed: ").split())[:300] or f"exit status {process.exitcode}"
            reason = f"rank {rank} failed: {text}; see {run.log_file}; {resume}"
    return EndRecord(status=status, reason=reason, t=time.time())
