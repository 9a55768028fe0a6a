"""Every mistake ends with its exit code, one line that says what to do, and nothing left behind.

`docs/errors.md` lists the same mistakes with the lines they end with. `RLHF_REGENERATE=1` writes its lines anew.
"""

import os
import re

import pytest

from tests.support.commands import ROOT, left_behind
from tests.support.mistake_kit import Kit, make_shared
from tests.support.mistakes import MISTAKES

PAGE = ROOT / "docs" / "errors.md"
ALL = [mistake for section in MISTAKES.values() for mistake in section]


@pytest.fixture(scope="module")
def shared(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("shared")
    make_shared(folder, tokenizer)
    return folder


def shown(line: str, kit: Kit) -> str:
    """An error's line as the page has it: without places of this machine, hashes, names of presets, ends of cells."""
    for folder in (kit.folder, kit.shared):
        line = line.replace(f"{folder}/", "").replace(str(folder), ".")
    line = re.sub(r"sha256:[0-9a-f]{64}", "sha256:…", line.strip())
    line = re.sub(r"; presets: .*", "; presets: …", line)
    return re.sub(r"\b[0-9a-f]{16}\b", "KEY", line).replace("|", "\\|")


@pytest.mark.parametrize("mistake", ALL, ids=lambda mistake: mistake.what.replace(" ", "-"))
def test_a_mistake_is_one_line_with_its_code_and_leaves_nothing(mistake, shared, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(shared.rglob("*"))
    kit = Kit(tmp_path, shared)
    code = mistake.make(kit)
    printed = capsys.readouterr().err
    assert code == mistake.code, printed
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    left = [path for path in left_behind(tmp_path / "store") if "runs" not in path.parts]
    assert left == []
    assert list((tmp_path / "store").glob(".scratch/*")) == []
    assert set(shared.rglob("*")) == before
    row = f"| {mistake.what} | {code} | `{shown(printed, kit)}` |"
    if os.environ.get("RLHF_REGENERATE"):
        lines = PAGE.read_text(encoding="utf-8").splitlines()
        PAGE.write_text("\n".join(row if line.startswith(f"| {mistake.what} |") else line for line in lines) + "\n")
    assert row in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_page_lists_these_mistakes_and_no_others():
    listed: dict[str, list[str]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            listed[line.removeprefix("## ")] = []
        elif line.endswith("` |"):
            listed[list(listed)[-1]].append(line.removeprefix("| ").split(" | ")[0])
    assert listed == {section: [mistake.what for mistake in mistakes] for section, mistakes in MISTAKES.items()}
