"""A store in a bucket of a real MinIO server does what a directory does, and refuses what it refuses."""

from __future__ import annotations

import os
import threading

import pytest

from components.common.artifacts import commit, read_manifest
from components.common.errors import InputError
from components.common.inputs import find_input
from components.common.manifest import Manifest, list_files
from components.common.s3 import S3Store
from components.common.s3_upload import PART
from components.common.stage import make_plan
from components.common.store import open_store, read_uri
from tests.support.stored import PREFIX, fill, forget, make

pytest_plugins = ("tests.support.store_fixtures",)


def test_small_files_are_written_read_listed_and_removed(store):
    store.write("runs/a/x.json", b"1")
    store.write("runs/a/b/ü y.json", b"2")
    assert store.read("runs/a/x.json") == b"1"
    assert store.files("runs/a") == ["runs/a/b/ü y.json", "runs/a/x.json"]
    assert store.exists("runs/a/x.json")
    assert not store.exists("runs/a")
    store.remove("runs/a/x.json")
    store.remove("runs/a/x.json")
    assert not store.exists("runs/a/x.json")
    store.remove_folder("runs")
    assert store.files("") == []
    with pytest.raises(InputError, match=r"s3://\S+/some/prefix/runs/a/x.json: no such file"):
        store.read("runs/a/x.json")


def test_an_artifact_is_the_same_here_and_on_another_machine(store, own_cache):
    manifest = make(store)
    assert read_manifest(store, PREFIX) == manifest
    for begin in (lambda: None, lambda: forget(own_cache)):
        begin()
        folder = store.fetch(PREFIX)
        assert list_files(folder) == manifest.files
        assert (store.fetch(f"{PREFIX}/sub") / "b.txt").read_text() == "text"
    assert store.read(f"{PREFIX}/sub/b.txt") == b"text"
    assert store.exists(f"{PREFIX}/a.bin")
    assert not store.exists(f"{PREFIX}/nothing")


def test_only_the_manifest_is_read_until_the_folder_is_looked_at(store, own_cache):
    manifest = make(store, {"config.json": b"{}"}, kind="model")
    forget(own_cache)
    artifact = find_input("model", f"{store.root}/{PREFIX}", ("model",))
    assert artifact.digest == manifest.digest
    assert not list(own_cache.rglob("config.json"))
    artifact.verify()
    assert (artifact.folder / "config.json").read_bytes() == b"{}"


def test_what_is_altered_in_the_cache_is_fetched_again(store, own_cache):
    make(store)
    forget(own_cache)
    (store.fetch(PREFIX) / "a.bin").write_bytes(b"9876543210")
    (store.fetch(PREFIX) / "sub" / "b.txt").unlink()
    folder = store.fetch(PREFIX)
    assert (folder / "a.bin").read_bytes() == b"0123456789"
    assert (folder / "sub" / "b.txt").read_text() == "text"


def test_large_files_go_in_parts_and_come_in_ranges(store, own_cache):
    content = os.urandom(5 * PART + 12345)
    manifest = make(store, {"big.bin": content, "small.bin": content[:100]})
    (tag,) = [entry.etag for entry in store.bucket.entries("") if entry.key.endswith("big.bin")]
    assert tag.endswith("-6")
    forget(own_cache)
    assert list_files(store.fetch(PREFIX)) == manifest.files


@pytest.mark.parametrize("size", [10, 5 * PART])
def test_an_altered_object_is_named(store, own_cache, size):
    make(store, {"a.bin": os.urandom(size), "b.bin": b"b"})
    (key,) = [entry.key for entry in store.bucket.entries("") if entry.key.endswith("a.bin")]
    store.bucket.put(key, os.urandom(size))
    forget(own_cache)
    with pytest.raises(InputError, match=rf"{key}: was altered: its sha256 is not the one in manifest.json"):
        store.fetch(PREFIX)
    store.bucket.remove([key])
    with pytest.raises(InputError, match=rf"{key}: is listed in manifest.json but missing"):
        store.fetch(PREFIX)


@pytest.mark.parametrize("attempt", range(5))
def test_three_who_publish_at_once_end_with_one_whole_artifact(store, own_cache, attempt):
    given = [fill(S3Store(store.root), {f"f{i}": os.urandom(1000) for i in range(20)}) for _ in range(3)]
    kept: list[Manifest] = []
    threads = [
        threading.Thread(target=lambda f=f, m=m: kept.append(commit(S3Store(store.root), PREFIX, f, m)))
        for f, m in given
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len({manifest.digest for manifest in kept}) == 1
    assert len(kept) == 3
    forget(own_cache)
    assert list_files(store.fetch(PREFIX)) == kept[0].files
    assert len(store.files(PREFIX)) == 21  # what the others had sent is gone


def test_a_manifest_that_would_write_elsewhere_is_refused(store, own_cache):
    folder, manifest = fill(store, {"a": b"x"})
    entry = manifest.files[0].model_copy(update={"path": "../../../outside"})
    commit(store, PREFIX, folder, manifest.model_copy(update={"files": (entry,)}))
    forget(own_cache)
    with pytest.raises(InputError, match="outside its folder"):
        store.fetch(PREFIX)


def test_a_store_without_prefix(root):
    store = open_store(root.split("/some")[0])
    assert store.root == root.split("/some")[0]
    make(store)
    assert f"{PREFIX}/manifest.json" in store.files("")
    assert find_input("x", f"{store.root}/{PREFIX}", ("adapter",)).digest


def test_a_stage_is_planned_from_a_bucket(store, root, own_cache, monkeypatch):
    from components.merge.config import SPEC

    store.write("runs/r/config.yaml", b"merge: {dtype: float32}")
    make(store, {"config.json": b"{}"}, "artifacts/base/k", kind="model", stage="base")
    make(store, {"adapter_config.json": b"{}"}, kind="adapter")
    forget(own_cache)
    inputs = {"base": f"{root}/artifacts/base/k", "adapter": f"{root}/{PREFIX}"}
    plan = make_plan(SPEC, {"merge": {"dtype": "float32"}}, "x", inputs, root)
    assert plan.finished() is None
    assert plan.parents()["base"].uri == "artifacts/base/k"
    assert not (own_cache / "fetched").exists()
    assert read_uri(f"{root}/runs/r/config.yaml") == b"merge: {dtype: float32}"


def test_two_thousand_small_files(store, own_cache):
    manifest = make(store, {f"{i % 10}/{i}": str(i).encode() for i in range(2000)})
    forget(own_cache)
    assert list_files(store.fetch(PREFIX)) == manifest.files
