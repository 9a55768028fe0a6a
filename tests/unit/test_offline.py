"""Stages neither phone home nor run code that came with a model; what they run on is pinned."""

import ast
import re
import tomllib

import pytest

from tests.support.commands import ROOT, python

LOCKS = ("demo", "dev", "smollm2")


def test_a_stage_asks_no_hub_and_sends_no_telemetry():
    code = "from components.common.libraries import quiet_libraries as q; q(); import huggingface_hub.constants as c;"
    code += "print(c.HF_HUB_OFFLINE, c.HF_HUB_DISABLE_TELEMETRY)"
    plain = {"HF_HUB_OFFLINE": "", "HF_HUB_DISABLE_TELEMETRY": ""}
    for name in plain:  # unset, as for a user
        code = f"import os; os.environ.pop('{name}', None); {code}"
    assert python("-c", code).stdout.split() == ["True", "True"]


def test_foreign_code_is_never_trusted():
    """Left unsaid, transformers asks on the terminal; a stage may read a folder that `prepare` never saw."""
    files = [path for folder in ("components", "pipelines") for path in (ROOT / folder).rglob("*.py")]
    loads = [call for path in files for call in ast.walk(ast.parse(path.read_bytes())) if _loads(call)]
    said = [{word.arg: ast.unparse(word.value) for word in call.keywords} for call in loads]
    assert len(loads) > 3
    assert all(words.get("trust_remote_code") == "False" for words in said), [ast.unparse(call) for call in loads]


def _loads(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_of_a_lock_file_has_one_version_and_hashes(lock):
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    entries = re.split(r"\n(?=[a-z])", re.sub(r"(?m)^\s*#.*\n?", "", text).strip())
    assert entries
    for entry in entries:
        assert re.match(r"[\w.\[\]-]+==[\w.+!-]+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_what_decides_numbers_is_pinned_and_locked_alike():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pinned = dict(line.split("==") for line in extras["data"] + extras["train"] if "==" in line)
    assert {"torch", "transformers", "trl", "peft", "accelerate", "datasets"} <= pinned.keys()
    lock = (ROOT / "requirements" / "demo.txt").read_text()
    for package, version in pinned.items():
        assert f"\n{package}=={version}" in f"\n{lock}", package
