"""The directory store: atomic writes, one winner, nothing left of losers and failures."""

import os
import threading

import pytest

from components.common.directory_store import DirectoryStore
from components.common.errors import InputError, UserError
from components.common.store import local_path, open_store


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path / "store")


def fill(store, text):
    folder = store.scratch()
    (folder / "data.bin").write_text(text)
    (folder / "manifest.json").write_text("{}")
    return folder


def test_written_files_are_read_back_and_listed(store):
    store.write("runs/a/x.json", b"1")
    store.write("runs/a/b/y.json", b"2")
    assert store.read("runs/a/x.json") == b"1"
    assert store.files("runs/a") == ["runs/a/b/y.json", "runs/a/x.json"]
    assert store.exists("runs/a/x.json")
    assert not store.exists("runs/a")


def test_a_failed_write_leaves_neither_part_nor_temporary_file(store, monkeypatch):
    store.write("x", b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="No space left"):
        store.write("x", b"new")
    assert store.read("x") == b"old"
    assert store.files("") == ["x"]


def test_publishing_moves_the_folder(store):
    folder = fill(store, "one")
    assert store.publish(folder, "artifacts/sft/k")
    assert not folder.exists()
    assert (store.fetch("artifacts/sft/k") / "data.bin").read_text() == "one"


def test_the_first_writer_wins_and_the_second_is_told(store):
    assert store.publish(fill(store, "one"), "artifacts/sft/k")
    assert not store.publish(fill(store, "two"), "artifacts/sft/k")
    assert store.read("artifacts/sft/k/data.bin") == b"one"


def test_many_writers_at_once_leave_one_whole_artifact(store):
    folders = [fill(store, str(i)) for i in range(8)]
    won = []
    threads = [threading.Thread(target=lambda f=f: won.append(store.publish(f, "artifacts/s/k"))) for f in folders]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(won) == [False] * 7 + [True]
    assert store.files("artifacts/s/k") == ["artifacts/s/k/data.bin", "artifacts/s/k/manifest.json"]


def test_a_folder_that_is_not_ours_is_left_alone(store):
    store.write("artifacts/sft/k/precious", b"x")
    with pytest.raises(UserError, match="is not empty and not an artifact"):
        store.publish(fill(store, "whole"), "artifacts/sft/k")
    assert store.files("artifacts/sft/k") == ["artifacts/sft/k/precious"]


def test_what_killed_writers_left_is_swept_and_living_ones_are_not(store):
    mine = store.scratch()
    dead = mine.with_name(mine.name.replace(f".{os.getpid()}.", ".4194305."))  # above the largest pid there can be
    dead.mkdir()
    store.scratch()
    assert mine.exists()
    assert not dead.exists()


def test_missing_things_are_input_errors(store):
    with pytest.raises(InputError, match="no such file"):
        store.read("nothing")
    with pytest.raises(InputError, match="no such file or folder"):
        store.fetch("nothing")


def test_a_root_below_a_file_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        DirectoryStore(tmp_path / "file" / "store").write("x", b"")


def test_uris():
    assert str(local_path("file:///a/b")) == "/a/b"
    with pytest.raises(UserError, match="no store for ftp"):
        open_store("ftp://host/x")
