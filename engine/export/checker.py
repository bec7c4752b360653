"""Run `engine.export.check` in new processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from engine.config.errors import RunFailed
from engine.export.artifact_files import Progress
from engine.export.check_job import Checked, CheckJob
from engine.runs.run_dir import RunDir


@dataclass
class Checker:
    """Checks the artifacts of one run; the logits of the run's own model come first."""

    run: RunDir
    work: Path
    progress: Progress

    def check(self, kind: Literal["run", "adapter", "merged", "gguf"], artifact: Path | None) -> Checked:
        """Check one artifact. Raises RunFailed if the process ends without a result."""
        answer = self.work / "answer.json"
        answer.unlink(missing_ok=True)
        job = CheckJob(
            run=str(self.run.path),
            kind=kind,
            artifact=str(artifact or ""),
            logits=str(self.work / "logits.safetensors"),
            answer=str(answer),
            client=os.getpid(),
        )
        path = self.work / "job.json"
        path.write_bytes(msgspec.json.encode(job))
        command = [sys.executable, "-P", "-m", "engine.export.check", str(path)]
        with (self.work / "errors").open("w+", encoding="utf-8", errors="replace") as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
            )
            try:
                self._follow(process)
            finally:
                process.kill()
                process.wait()
            if not answer.exists():
                errors.seek(0)
                lines = [line.strip() for line in errors if line.strip()]
                reason = lines[-1][:300] if lines else f"exit status {process.returncode}"
                raise RunFailed(f"the check of the artifact failed: {reason}", "export.check_failed")
        return msgspec.json.decode(answer.read_bytes(), type=Checked)

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            message = json.loads(line)
            self.progress(message["progress"], message["done"], message["total"])
        process.wait()
