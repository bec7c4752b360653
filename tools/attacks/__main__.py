"""Attack commands and the bench in a terminal: `python -m tools.attacks [strings] [kills] [corruptions]`.

Without arguments, all three run. Prints a line per attempt, then a table of counts and the failures. `--seed N` draws
other strings and times.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tests"))

from tools.attacks.terminal_corruptions import attack_with_corruptions
from tools.attacks.terminal_kills import attack_with_kills
from tools.attacks.terminal_report import Report
from tools.attacks.terminal_strings import attack_with_strings

ATTACKS = {"strings": attack_with_strings, "kills": attack_with_kills, "corruptions": attack_with_corruptions}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=", ".join(ATTACKS))
    parser.add_argument("--seed", type=int, default=13)
    options = parser.parse_args()
    if unknown := set(options.attacks) - set(ATTACKS):
        parser.error(f"unknown: {', '.join(unknown)}")
    report, environment = Report(), dict(os.environ)
    for ignorable in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(ignorable, signal.SIG_DFL)  # nohup and a shell's background jobs ignore them
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in options.attacks or ATTACKS:
        ATTACKS[name](report, random.Random(options.seed))
        os.environ.clear()
        os.environ.update(environment)
    print(f"\n{report.table()}")
    return int(bool(report.failures))


if __name__ == "__main__":
    sys.exit(main())
