"""The sentences in which the source says what failed, with … in place of what varies."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.commands import ROOT

VARIES = "…"
# What makes an error or a finding, and which of its arguments says what is wrong.
MAKERS = {
    "RlhfError": 0,
    "UserError": 0,
    "InputError": 0,
    "RetryableError": 0,
    "StalledError": 0,
    "_unavailable": 0,
    "_wrong_address": 0,
    "Finding": 2,
}
CHART_MAKERS = {"AssertionError": 0}  # of helm test; elsewhere an assertion is no word to a person
PARTS = {"_tight", "_limited", "_obstacle"}  # functions that give a finding's words
CAUSES = "_CAUSES"  # S3's codes with a sentence for each
NOT_ON_A_CLUSTER = ("components/inference/", "pipelines/plan/", "pipelines/cli/plan.py")

Named = dict[str, list[ast.expr]]


def sentences() -> dict[str, str]:
    """Every sentence, and a file that says it. What is a library's or the cluster's own wording is none of them."""
    found: dict[str, str] = {}
    for folder in ("components", "pipelines", "charts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(NOT_ON_A_CLUSTER):
                found |= dict.fromkeys(_of_module(path, CHART_MAKERS if folder == "charts" else MAKERS), name)
    refusals = ROOT / "charts" / "rlhf-stack" / "templates" / "validate.yaml"
    found |= dict.fromkeys(re.findall(r'fail "([^"]+)"', refusals.read_text(encoding="utf-8")), refusals.name)
    return {sentence: name for sentence, name in found.items() if re.search("[A-Za-z]{2}", sentence)}


def pattern(sentence: str) -> str:
    """A regular expression for a sentence with anything in place of what varies."""
    return ".*".join(map(re.escape, sentence.split(VARIES)))


def _of_module(path: Path, makers: dict[str, int]) -> Iterator[str]:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield from _of_function(node, makers)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == CAUSES:
            assert isinstance(node.value, ast.Dict)
            yield from (ast.literal_eval(cause)[0] for cause in node.value.values)


def _of_function(function: ast.FunctionDef, makers: dict[str, int]) -> Iterator[str]:
    named: Named = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            named.setdefault(node.targets[0].id, []).append(node.value)
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in makers:
            if not any(isinstance(argument, ast.Constant) and argument.value == "ok" for argument in node.args):
                yield from (text for said in node.args[makers[node.func.id] :][:1] for text in _texts(said, named))
        elif function.name in PARTS and isinstance(node, ast.Return | ast.Yield) and node.value:
            yield from _texts(node.value, named)


def _texts(node: ast.expr, named: Named) -> Iterator[str]:
    """The texts that an expression can be."""
    if isinstance(node, ast.IfExp):
        yield from _texts(node.body, named)
        yield from _texts(node.orelse, named)
    elif isinstance(node, ast.Name):
        yield from (text for value in named.get(node.id, ()) for text in _texts(value, {}))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        parts = (str(part.value) if isinstance(part, ast.Constant) else VARIES for part in node.values)
        yield re.sub(f"{VARIES}+", VARIES, "".join(parts))
