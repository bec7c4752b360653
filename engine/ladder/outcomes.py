"""How the process of a ladder or sweep ends: every error becomes an outcome with a reason."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from engine.config.errors import RunFailed, UserError
from engine.config.files import is_no_space_error
from engine.runs.comparison_dir import ComparisonDir, State
from engine.runs.ladder import Outcome
from engine.runs.stop_request import StopRequested


def run_to_outcome(work: Callable[[], None], state: State, folder: ComparisonDir) -> tuple[Outcome, str]:
    """Do the work; returns (status, reason) and records the error's code in the state."""
    try:
        work()
    except StopRequested as error:
        return "stopped", f"{str(error) or 'stopped by request'}; `ftbench resume {folder.name}` resumes it"
    except UserError as error:
        state.reason_code = error.code
        return "failed", error.line
    except RunFailed as error:
        state.reason_code = error.code
        return "failed", str(error)
    except Exception as error:  # noqa: BLE001 - top level: the state records any error
        if is_no_space_error(error):
            state.reason_code = "disk.full"
            return "failed", f"disk full ({error}); free disk space, then `ftbench resume {folder.name}`"
        traceback.print_exc()
        text = " ".join(str(error).split())[:300]
        return "failed", f"{type(error).__name__}: {text}; the traceback is in {folder.log_file}"
    return state.status, state.reason
