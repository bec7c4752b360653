"""torch's compiler is loaded once something is compiled, and is then the same as without the stand-in."""

from __future__ import annotations

import subprocess
import sys

import pytest

DEFERRED = "from engine.methods.quick_import import import_libraries\nimport_libraries()\nimport sys, torch\n"
LOADED = "'torch._dynamo.eval_frame' in sys.modules"
STEP = """
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(1, 4)).sum().backward()
optimizer.step()
from accelerate.utils.other import is_compiled_module
assert not is_compiled_module(model)
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


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_imports_and_a_training_step_do_not_load_the_compiler() -> None:
    run(f"{DEFERRED}import engine.worker.main\n{STEP}assert not {LOADED}")


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_the_first_use_loads_it_and_everything_is_its_own(use: str) -> None:
    run(
        f"{DEFERRED}{use}\nassert {LOADED}\nimport torch._dynamo.utils as utils, torch._dynamo as package\n"
        "assert package is torch._dynamo is sys.modules['torch._dynamo'] and package.__file__.endswith('__init__.py')\n"
        "assert utils is package.utils is sys.modules['torch._dynamo.utils']\n"
        "assert utils.__spec__.origin.endswith('utils.py')\n"
        "assert torch.compiler.disable(len) is not len and not [one for one in sys.meta_path if 'First' in repr(one)]"
    )
