"""A checkpoint that was badly copied is passed over by name, for the newest that is whole."""

from __future__ import annotations

import os

import pytest

from components.common.checkpoints import Checkpoints


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "sft" / "key" / "r"
    for step in (2, 4):
        with Checkpoints(folder, "sft").writing(step) as aside:
            (aside / "optimizer.pt").write_bytes(bytes(range(200)))
            (aside / "sub").mkdir()
            (aside / "sub" / "a").write_text("a")
    return folder


def truncate(folder):
    os.truncate(folder / "optimizer.pt", 100)


def lose(folder):
    (folder / "sub" / "a").unlink()


def lose_manifest(folder):
    (folder / "manifest.json").unlink()


def cut_manifest(folder):
    os.truncate(folder / "manifest.json", 20)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (truncate, "optimizer.pt is altered"),
        (lose, "sub/a is missing"),
        (lose_manifest, "its manifest cannot be read (FileNotFoundError)"),
        (cut_manifest, "its manifest cannot be read (JSONDecodeError)"),
    ],
)
def test_an_older_one_is_taken(work, spoil, said, capsys):
    newest = work / "checkpoints" / "step-00000004"
    spoil(newest)
    assert Checkpoints(work, "sft").newest().step == 2
    assert capsys.readouterr().out == f"sft checkpoint {newest} is passed over: {said}\n"


def test_none_is_taken_if_none_is_whole(work):
    for folder in (work / "checkpoints").iterdir():
        truncate(folder)
    assert Checkpoints(work, "sft").newest() is None
