"""Print the lowest allowed version of each dependency in pyproject.toml as pip constraints; torch is left out.

python .ci/lowest_versions.py > lowest.txt && pip install -c lowest.txt -e '.[test]'
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

REQUIREMENT = re.compile(r"([\w.-]+)>=([\w.]+)")

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["project"]
for requirement in project["dependencies"]:
    found = REQUIREMENT.match(requirement)
    if found is None:
        raise SystemExit(f"no lower bound: {requirement!r} in pyproject.toml; write NAME>=VERSION")
    if found[1] != "torch":
        print(f"{found[1]}=={found[2]}")
