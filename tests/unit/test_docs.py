"""What the documentation says of the tree is so."""

import ast
import re

import pytest

from tests.support.commands import ROOT
from tests.support.sentences import pattern, sentences

NAMED = re.compile(r"`((?:unit|stages|golden)/test_\w+\.py)::(test_\w+)`")
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
ENOUGH = 5  # letters by which a sentence is known among the lines of errors.md, whatever varies in it
FOLDERS = ("charts", "components", "docs", "images", "manifests", "pipelines", "tests")
PAGES = [ROOT / "README.md", *(page for folder in FOLDERS for page in sorted((ROOT / folder).rglob("*.md")))]


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


def _explained():
    """The sentences that failures.md explains: each begins an item of a list or a row of a table."""
    text = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")
    found = re.findall(r"^(?:-|\|) (``?)(.+?) ?\1(?: \||$)", text, re.MULTILINE)
    return {sentence for _, sentence in found}


def _shown():
    """The lines that errors.md shows."""
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    return re.findall(r"`error: (.+)` \|$", text.replace("\\|", "|"), re.MULTILINE)


def test_every_failure_has_an_entry_and_no_entry_is_stale():
    said, explained, shown = sentences(), _explained(), _shown()
    assert len(said) > 250

    def is_shown(sentence):
        known = len(re.findall("[A-Za-z]", sentence)) >= ENOUGH
        return known and any(re.fullmatch(f"(.*: )?{pattern(sentence)}(; .*)?", line) for line in shown)

    missing = {sentence: file for sentence, file in said.items() if sentence not in explained}
    assert {sentence: file for sentence, file in missing.items() if not is_shown(sentence)} == {}
    assert explained - set(said) == set()


def _anchors(page):
    """The anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, anchor in LINK.findall(text):
        if "://" in target:
            continue
        place = page.parent / target if target else page
        assert place.exists(), target
        assert not anchor or anchor in _anchors(place), f"{target}#{anchor}"
