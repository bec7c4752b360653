"""torch's compiler is loaded once something is compiled, and is then the same as without the stand-in."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

FORKED = """
import json, os, sys, traceback
from engine.methods.quick_import import import_libraries
import_libraries()
import torch
failures = {}
for name, code in json.loads(sys.argv[1]).items():
    reader, writer = os.pipe()
    if not os.fork():
        try:
            exec(code, {"sys": sys, "torch": torch})
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        os._exit(0)
    os.close(writer)
    text, (_, status) = os.fdopen(reader).read(), os.wait()
    failures[name] = text or (f"status {status}" if status else "")
print(json.dumps(failures))
"""
"""Run each program in a process of its own, in which the libraries are imported; importing them takes most of the
time."""
LOADED = "'torch._dynamo.eval_frame' in sys.modules"
STEP = f"""
import engine.worker.main
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(1, 4)).sum().backward()
optimizer.step()
from accelerate.utils.other import is_compiled_module
assert not is_compiled_module(model)
assert not {LOADED}
"""
USES = {
    "an attribute": "torch._dynamo.config.suppress_errors",
    "a module": "import torch._dynamo.exc",
    "a name of a module": "from torch._dynamo.exc import TorchDynamoException",
    "a name of the package": "from torch._dynamo import is_compiling",
    "reset": "torch.compiler.reset()",
    "compile": "assert torch.compile(lambda x: 2 * x, backend='eager')(torch.ones(1)) == 2",
    "a compiled module": "from accelerate.utils.other import is_compiled_module\n"
    "assert is_compiled_module(torch.compile(torch.nn.Linear(1, 1), backend='eager'))",
    "frames": "assert torch._dynamo.eval_frame.innermost_fn(len) is len",
}
EVERYTHING = f"""
assert {LOADED}
import torch._dynamo.utils as utils, torch._dynamo as package
assert package is torch._dynamo is sys.modules['torch._dynamo'] and package.__file__.endswith('__init__.py')
assert utils is package.utils is sys.modules['torch._dynamo.utils']
assert utils.__spec__.origin.endswith('utils.py')
assert torch.compiler.disable(len) is not len and not [one for one in sys.meta_path if 'First' in repr(one)]
"""


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """Each program's traceback, "" if it has none."""
    programs = {"step": STEP, **{name: f"assert not {LOADED}\n{use}\n{EVERYTHING}" for name, use in USES.items()}}
    done = subprocess.run([sys.executable, "-P", "-c", FORKED, json.dumps(programs)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    assert found.keys() == programs.keys()
    return found


def test_imports_and_a_training_step_do_not_load_the_compiler(failures: dict[str, str]) -> None:
    assert failures["step"] == ""


@pytest.mark.parametrize("use", USES)
def test_the_first_use_loads_it_and_everything_is_its_own(use: str, failures: dict[str, str]) -> None:
    assert failures[use] == ""
