"""What several modules say is written down in one of them."""

import ast

import pytest

from tests.support.commands import ROOT

# Text and where it may be written; everybody else imports it.
HOMES = {
    "rlhf-store": {"components/names.py", "components/common/store.py"},
    "rlhf-launcher": {"components/names.py"},
    "rlhf-stage": {"components/names.py"},
    "help_option_names": {"pipelines/cli/options.py"},
    "ownerReferences": {
        "components/launcher/run_objects.py",
        "components/launcher/acquire.py",
        "components/launcher/credentials.py",
    },
}


@pytest.mark.parametrize("text", HOMES)
def test_it_is_written_once(text):
    assert {path for path, tree in trees() if any(is_text(node, text) for node in ast.walk(tree))} == HOMES[text]


def test_what_is_in_a_bucket_is_told_by_one_function():
    asked = {path for path, tree in trees() for node in ast.walk(tree) if asks_for_a_bucket(node)}
    assert asked == {"components/common/store.py"}


def trees():
    for folder in ("components", "pipelines"):
        for path in (ROOT / folder).rglob("*.py"):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def is_text(node, text):
    return isinstance(node, ast.Constant) and node.value == text


def asks_for_a_bucket(node):
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "startswith"
    return called and any(is_text(argument, "s3://") for argument in node.args)
