"""Artifacts: the manifest is the commit, every altered byte is found, keys change with what matters."""

import json

import pytest

from components.common.artifacts import commit, read_manifest, stage_key, verify
from components.common.directory_store import DirectoryStore
from components.common.errors import InputError
from components.common.manifest import Manifest, Parent, canonical_json, list_files

KEY = {"stage": "sft", "result_version": 1, "config": {"a": 1.0}, "parents": {"model": "sha256:x"}, "seed": 0}


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path / "store")


def make(store, prefix="artifacts/sft/k", **fields):
    folder = store.scratch()
    (folder / "sub").mkdir()
    (folder / "a.bin").write_bytes(b"0123456789")
    (folder / "sub" / "b.txt").write_text("text")
    manifest = Manifest(kind="adapter", stage="sft", key="k", files=list_files(folder), **fields)
    return commit(store, prefix, folder, manifest)


def test_a_committed_artifact_reads_back_and_verifies(store):
    manifest = make(store, parents={"model": Parent(uri="artifacts/base/x", digest="sha256:1")})
    assert read_manifest(store, "artifacts/sft/k") == manifest
    verify(store.fetch("artifacts/sft/k"), manifest)
    assert [entry.path for entry in manifest.files] == ["a.bin", "sub/b.txt"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "a.bin").write_bytes(b"0123456780"), "a.bin: was altered"),
        (lambda f: (f / "a.bin").write_bytes(b"01234"), "a.bin: has 5 bytes, manifest.json says 10"),
        (lambda f: (f / "sub" / "b.txt").unlink(), "b.txt: is listed in manifest.json but missing"),
        (lambda f: (f / "extra").write_text(""), "extra: is not listed"),
    ],
)
def test_any_change_is_found_and_named(store, damage, words):
    manifest = make(store)
    folder = store.fetch("artifacts/sft/k")
    damage(folder)
    with pytest.raises(InputError, match=words):
        verify(folder, manifest)


def test_without_manifest_there_is_no_artifact(store):
    store.write("artifacts/sft/half/a.bin", b"")
    with pytest.raises(InputError, match="not a complete artifact"):
        read_manifest(store, "artifacts/sft/half")


@pytest.mark.parametrize(("change", "words"), [({"kind": "song"}, "kind"), ({"schema_version": 99}, "schema 99")])
def test_a_manifest_of_another_world_is_refused(store, change, words):
    make(store)
    fields = {**json.loads(store.read("artifacts/sft/k/manifest.json")), **change}
    store.write("artifacts/sft/k/manifest.json", json.dumps(fields).encode())
    with pytest.raises(InputError, match=words):
        read_manifest(store, "artifacts/sft/k")


def test_the_digest_depends_on_content_not_on_place(tmp_path):
    first = make(DirectoryStore(tmp_path / "one"))
    second = make(DirectoryStore(tmp_path / "two"), prefix="artifacts/other/z")
    assert first.digest == second.digest
    assert make(DirectoryStore(tmp_path / "three"), metrics={"loss": 1.0}).digest != first.digest


def test_the_loser_of_a_race_takes_over_what_stands(store):
    first = make(store, seed=1)
    assert make(store, seed=2) == first


@pytest.mark.parametrize(
    "change",
    [{"stage": "rl"}, {"result_version": 2}, {"config": {"a": 2.0}}, {"parents": {"model": "sha256:y"}}, {"seed": 1}],
)
def test_the_key_changes_with_everything_that_can_change_the_result(change):
    assert stage_key(**{**KEY, **change}) != stage_key(**KEY)
    assert len(stage_key(**KEY)) == 16


def test_canonical_json_has_one_spelling_and_no_nan():
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json(float("nan"))
