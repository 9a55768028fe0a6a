"""No step imports what it does not use; which libraries may be imported where."""

import ast
import json
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from components.data.table import write_jsonl
from components.prepare.config import ScratchModel
from components.prepare.scratch import make_config
from tests.support.commands import ROOT, python

TRAINING = {"accelerate", "datasets", "pandas", "peft", "torch", "transformers", "trl"}
# What a step has loaded before it does anything.
LOADED = {
    "import components.launcher.steps": set(),
    "import components.merge.stage, components.merge.worker": set(),
    "import components.report.__main__": set(),
    "import components.data.stage": set(),
    "import components.evaluate.stage": {"accelerate", "torch", "transformers"},
    "import components.rl.stage": {"accelerate", "peft", "torch", "transformers"},
    **{
        f"from components.{stage}.__main__ import _load_run; _load_run()": {
            "accelerate",
            "peft",
            "torch",
            "transformers",
        }
        for stage in ("pretrain", "sft")
    },
    **{f"from components.{stage}.__main__ import _load_run; _load_run()": TRAINING for stage in ("reward", "dpo")},
}
# Where the source says `import`, inside functions too. Elsewhere nobody may.
IMPORTERS = {
    "trl": {"reward", "dpo"},
    "datasets": {"reward", "dpo", "data"},
    "torch": {"common", "pretrain", "sft", "reward", "dpo", "rl", "evaluate", "inference", "prepare"},
    "kfp": {"component.py"},
}


def loaded(code, *arguments):
    """The top-level packages that a process has loaded after some code."""
    shown = "import json, sys; print(json.dumps([n for n, m in sys.modules.items() if m and '.' not in n]))"
    result = python("-c", f"{code}\n{shown}", *arguments)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize("code", LOADED)
def test_a_step_loads_the_libraries_that_it_uses(code):
    assert loaded(code) & {*TRAINING, "kfp"} <= LOADED[code]


def test_the_data_step_runs_without_torch(tokenizer, tmp_path):
    model = tmp_path / "model"
    make_config(ScratchModel(), tokenizer).save_pretrained(model)
    tokenizer.save_pretrained(model)
    write_jsonl(tmp_path / "rows.jsonl", [{"question": f"the {i}?", "answer": "moo"} for i in range(40)])
    config = {"data": {"heldout": 0.3, "sft": {"sources": [{"path": str(tmp_path / "rows.jsonl")}], "max_length": 64}}}
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    code = "import sys; from components.data.__main__ import main; assert main(sys.argv[1:]) == 0"
    arguments = [f"--config={tmp_path / 'run.yaml'}", f"--input=model={model}", f"--output={tmp_path / 'store'}"]
    assert not loaded(code, "--task=sft", *arguments) & (TRAINING - {"transformers"})
    assert list(tmp_path.rglob("manifest.json"))


def test_the_models_of_training_jobs_are_loaded_by_whoever_makes_one():
    needed = "import components.launcher.cluster_run"
    assert "kubernetes" in loaded(needed)
    assert "kubeflow" not in loaded(needed)


@pytest.mark.parametrize("library", IMPORTERS)
def test_libraries_are_imported_where_they_belong(library):
    paths = [path for path in sorted((ROOT / "components").rglob("*.py")) if library in imported(path)]
    assert paths
    for path in paths:
        part = path.relative_to(ROOT / "components").parts[0]
        assert {part, path.name} & IMPORTERS[library], f"{path} imports {library}"


def test_what_is_imported_is_declared():
    """A package that comes along with another goes when that one no longer needs it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
    ]
    declared = {canonicalize_name(Requirement(line).name) for line in wanted}
    packages = packages_distributions()
    own = {*sys.stdlib_module_names, "components", "pipelines"}
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for folder in ("components", "pipelines")
        for path in (ROOT / folder).rglob("*.py")
        for name in imported(path) - own
        if not {canonicalize_name(owner) for owner in packages.get(name, ())} & declared
    }
    assert not missing


def imported(path):
    """Top-level packages that a file imports anywhere, but for types."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}
