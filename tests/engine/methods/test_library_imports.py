"""Libraries imported in less time are the same libraries; torch's compiler is loaded once something is compiled."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import transformers.models

from engine.config import schema
from engine.data.prepare import prepare
from engine.methods.model_source import load_tokenizer

FILES_OPENED = """
import collections, sys
opened = collections.Counter()
def count(event, arguments):
    if event == "open" and "/transformers/models/" in str(arguments[0]) and str(arguments[0]).endswith(".py"):
        opened[arguments[0]] += 1
sys.addaudithook(count)
def files():
    import transformers.models
    return [dir(transformers.models), len(opened), sum(times > 1 for times in opened.values())]
"""
"""Counts how often each file of a transformers model is opened; imports read bytecode instead."""


def run(code: str, *arguments: str) -> Any:
    """What a new process prints as JSON."""
    done = subprocess.run([sys.executable, "-P", "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def check_models(names: list[str], files: int, again: int) -> None:
    """All models have their names, and each file is read once."""
    assert names == dir(transformers.models) and "LlamaForCausalLM" in names
    assert files > 1000 and again < 100  # those of models whose own package is imported


def test_without_torch_rows_get_the_tokens_of_a_run() -> None:
    models, fingerprint, torch_free = run(
        f"{FILES_OPENED}from engine.methods.library_imports import import_without_torch\nimport_without_torch()\n"
        "import json, sys\nmodels = files()\n"
        "from engine.config import schema\nfrom engine.data.prepare import prepare\n"
        "from engine.methods.model_source import load_tokenizer\nfrom engine.evaluation.preflight import preflight\n"
        "rows = prepare(schema.Data(), 512, load_tokenizer(schema.Model()))\n"
        "splits = {'train': rows.train, 'validation': rows.validation, 'test': rows.test}\n"
        "assert preflight(schema.Model(), 512, schema.Evaluation(), splits) is None\n"
        "print(json.dumps([models, rows.facts.fingerprint, 'torch' not in sys.modules]))"
    )
    check_models(*models)
    assert torch_free
    assert fingerprint == prepare(schema.Data(), 512, load_tokenizer(schema.Model())).facts.fingerprint


FORKED = f"""{FILES_OPENED}
import json, os, sys, torch, traceback
from engine.methods.library_imports import import_libraries
failures = {{}}
for name, code in json.loads(sys.argv[1]).items():
    if name != "with a GPU":
        import_libraries()
    reader, writer = os.pipe()
    if not os.fork():
        try:
            exec(code, {{"sys": sys, "torch": torch}})
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        os._exit(0)
    os.close(writer)
    text, (_, status) = os.fdopen(reader).read(), os.wait()
    failures[name] = text or ("ended" if status else "")
print(json.dumps([failures, files()]))
"""
"""Run each program in a fork of a process that has imported torch and, unless it is the program `with a GPU`, the other
libraries: imports take most of the time."""
WITH_GPU = """
answers = iter([True])
torch.cuda.is_available = lambda: next(answers, False)
sys.modules["bitsandbytes"] = sys.modules["transformers"] = None  # imported later than the compiler
from engine.methods.library_imports import DeferredCompiler, import_libraries
try:
    import_libraries()
except ImportError:
    assert not isinstance(torch._dynamo, DeferredCompiler) and torch._dynamo.__file__.endswith("__init__.py")
else:
    raise AssertionError("transformers was imported")
"""
LOADED = "'torch._dynamo.eval_frame' in sys.modules"
STEP = f"""
import engine.evaluation.score, engine.worker.main
assert not {{"rouge_score", "nltk"}} & set(sys.modules)  # only the metric rouge needs them
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
    "a name of a module": "from torch._dynamo.exc import TorchDynamoException",
    "a name of the package": "from torch._dynamo import is_compiling",
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
assert torch.compiler.disable(len) is not len and not [finder for finder in sys.meta_path if 'First' in repr(finder)]
"""


@pytest.fixture(scope="module")
def outcome() -> tuple[dict[str, str], list[Any]]:
    """Each program's traceback, "" if it has none; and what `files` returns."""
    programs = {"with a GPU": WITH_GPU, "step": STEP}
    programs |= {name: f"assert not {LOADED}\n{use}\n{EVERYTHING}" for name, use in USES.items()}
    tracebacks, models = run(FORKED, json.dumps(programs))
    assert tracebacks.keys() == programs.keys()
    return tracebacks, models


@pytest.fixture
def failures(outcome: tuple[dict[str, str], list[Any]]) -> dict[str, str]:
    return outcome[0]


def test_all_models_have_their_names_and_each_file_is_read_once(outcome: tuple[dict[str, str], list[Any]]) -> None:
    check_models(*outcome[1])


def test_imports_and_a_training_step_load_neither_the_compiler_nor_rouge(failures: dict[str, str]) -> None:
    assert failures["step"] == ""


@pytest.mark.parametrize("use", USES)
def test_the_first_use_loads_it_and_everything_is_its_own(use: str, failures: dict[str, str]) -> None:
    assert failures[use] == ""


def test_with_a_gpu_the_compiler_is_imported_as_torch_does(failures: dict[str, str]) -> None:
    assert failures["with a GPU"] == ""


def test_no_program_of_the_hub_replaces_layers_or_operators() -> None:
    """Of `kernels`, on which transformers depends, and which bitsandbytes uses when it is imported."""
    program = """
import engine, importlib.util, sys
assert importlib.util.find_spec("kernels") is None
from engine.methods.library_imports import import_libraries
import_libraries()
import bitsandbytes, transformers.modeling_utils
assert not [name for name in sys.modules if name.startswith("kernels.")]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
