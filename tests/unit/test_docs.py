"""What the documentation says of the tree is so."""

import ast
import re

from tests.support.commands import ROOT

NAMED = re.compile(r"`((?:unit|stages|golden)/test_\w+\.py)::(test_\w+)`")


def _tests(path):
    """Names of a module's test functions."""
    return {node.name for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.FunctionDef)}


def test_every_fault_has_a_guard_and_every_guard_exists():
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| B\d+ ", line)]
    assert [row.split()[1] for row in rows] == [f"B{number}" for number in range(1, 27)]
    for row in rows:
        named = NAMED.findall(row)
        assert named, row
        for file, test in named:
            assert test in _tests(ROOT / "tests" / file), f"{file}::{test}"
    spelt = set(re.findall(r"\btest_\w+", text))
    assert spelt == {part for file, test in NAMED.findall(text) for part in (file.split("/")[1][:-3], test)}
