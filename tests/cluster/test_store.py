"""A store in a bucket of a real MinIO server does what a directory does, and refuses what it refuses."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import threading

import pytest

from components.common.artifacts import Manifest, commit, list_files, read_manifest
from components.common.errors import InputError, RetryableError, UserError
from components.common.inputs import find_input
from components.common.s3 import S3Store
from components.common.s3_upload import PART
from components.common.stage import make_plan
from components.common.store import open_store, read_uri
from components.common.uploads import get, put, put_plain
from components.data.config import Source
from components.data.sources import names_below, readable, source_digest
from components.prepare.resolve import Request, resolve
from tests.support.minio import new_root, running

pytest_plugins = ("tests.support.store_fixtures",)

PREFIX = "artifacts/sft/0123456789abcdef"


def fill(store, files, kind="adapter", stage="sft"):
    folder = store.scratch()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder, Manifest(kind=kind, stage=stage, key="k", files=list_files(folder))


def make(store, files=None, prefix=PREFIX, **fields):
    folder, manifest = fill(store, files or {"a.bin": b"0123456789", "sub/b.txt": b"text", "empty": b""}, **fields)
    return commit(store, prefix, folder, manifest)


def forget(cache):
    """As another machine would begin."""
    shutil.rmtree(cache / "fetched")


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


def test_an_uploaded_model_is_the_local_folder(store, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (model / "model.safetensors").write_bytes(os.urandom(1000))
    (model / ".cache").mkdir()
    (model / ".cache" / "x").write_text("nobody's")
    uri = put(store, [model])
    assert put(store, [model]) == uri
    uploaded, local = (find_input("model", place, ("model",)) for place in (uri, str(model)))
    shutil.rmtree(model / ".cache")
    assert uploaded.digest == find_input("model", str(model), ("model",)).digest != local.digest
    assert list_files(uploaded.folder) == list_files(model)
    (model / "config.json").write_text("{}")  # the person goes on working on it
    assert "Llama" in (find_input("model", uri, ("model",)).folder / "config.json").read_text()


def test_data_by_name_uploaded_or_where_people_keep_it(store, root, tmp_path):
    for name in ("sft.jsonl", "rl.jsonl.gz", "pretrain/a.txt"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(name.encode())
    uploaded = put(store, [tmp_path / "mine"])
    together = put(store, sorted((tmp_path / "mine").iterdir()))
    plain = put_plain(f"{root}/shared/data", [tmp_path / "mine"])
    assert plain == f"{root}/shared/data"
    for place in (uploaded, together, plain):
        assert names_below(place) == ["pretrain", "rl.jsonl.gz", "sft.jsonl"]
        data = resolve(Request("tiny-cpu", data=place)).data
        assert [source.path for source in data.sft.sources] == [f"{place}/sft.jsonl"]
        assert [source.path for source in data.pretrain.sources] == [f"{place}/pretrain"]
        for name in ("sft.jsonl", "pretrain"):
            source = f"{place}/{name}"
            path = readable(Source(path=source))
            assert path.endswith(f"/{name}") or place == plain
            local = source_digest(str(tmp_path / "mine" / name))
            assert (source_digest(source) == local) == (place != plain)
    first = source_digest(f"{plain}/sft.jsonl")
    store.write("shared/data/sft.jsonl", b"other")
    assert source_digest(f"{plain}/sft.jsonl") != first
    with open(readable(Source(path=f"{plain}/sft.jsonl"))) as file:
        assert file.read() == "other"
    assert names_below(f"{root}/nothing") == []


def test_get_copies_goes_on_and_compares(store, root, tmp_path):
    make(store)
    out = tmp_path / "out"
    assert get(f"{root}/{PREFIX}", out) == 3
    (out / "a.bin").write_bytes(b"9876543210")
    assert get(f"{root}/{PREFIX}", out) == 3
    assert (out / "a.bin").read_bytes() == b"0123456789"
    assert sorted(path.name for path in out.iterdir()) == ["a.bin", "empty", "sub"]
    store.write("runs/r/report/index.html", b"<html>")
    assert get(f"{root}/runs/r/report", tmp_path / "report") == 1
    assert get(f"{root}/runs/r/report/index.html", tmp_path / "page") == 1
    assert (tmp_path / "page" / "index.html").read_bytes() == b"<html>"
    with pytest.raises(InputError, match="no such file or folder"):
        get(f"{root}/runs/q", tmp_path / "q")


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


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"AWS_ACCESS_KEY_ID": "nobody"}, UserError, "does not know the access key; check AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": "wrongwrong"}, UserError, "secret key does not belong .* AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SESSION_TOKEN": "wrong"}, UserError, "does not know the session token"),
        ({"AWS_ACCESS_KEY_ID": ""}, UserError, "AWS_ACCESS_KEY_ID: is not set"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9000"}, UserError, "AWS_ENDPOINT_URL: is no address"),
        ({"AWS_CA_BUNDLE": "/nowhere"}, UserError, "AWS_CA_BUNDLE=/nowhere: no such file"),
    ],
)
def test_wrong_settings_are_told(root, monkeypatch, changes, kind, words):
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    for ask in (lambda s: s.read("x"), lambda s: s.exists("x"), lambda s: s.files("x"), lambda s: s.write("x", b"")):
        with pytest.raises(kind, match=words):
            ask(open_store(root))


def test_a_bucket_that_is_not_there_is_not_made_unasked(root):
    store = open_store("s3://no-such-bucket-here/x")
    for ask in (lambda: store.read("x"), lambda: store.exists("x"), lambda: store.write("x", b""), lambda: make(store)):
        with pytest.raises(UserError, match=r"no such bucket; .*--create-bucket"):
            ask()
    with pytest.raises(UserError, match="is no name for a bucket"):
        open_store("s3://Not_A_Bucket/x")


def test_a_clock_that_is_wrong_is_told(root, monkeypatch):
    import minio.time

    now = minio.time.utcnow
    monkeypatch.setattr("minio.time.utcnow", lambda: now() - datetime.timedelta(hours=1))
    store = open_store(root)
    for ask in (lambda: store.read("x"), lambda: store.exists("x"), lambda: store.write("x", b"")):
        with pytest.raises(UserError, match=r"clocks of this machine and of the store differ.*NTP"):
            ask()


def test_nobody_at_the_address(root, monkeypatch):
    monkeypatch.setattr("components.common.s3_retry.FIRST_SECONDS", 1.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(RetryableError, match=r"the store at http://127.0.0.1:9 refuses the connection"):
        open_store(root).read("x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://no-such-host.invalid:9000")
    with pytest.raises(RetryableError, match="cannot be found: its name has no address"):
        open_store(root).read("x")


def test_tls_with_a_ca_file(own_cache, reach, tmp_path, monkeypatch):
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    names = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    keys = [
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        certificates / "private.key",
        "-out",
        certificates / "public.crt",
    ]
    subprocess.run(["openssl", "req", "-x509", *names, *keys], check=True, capture_output=True)
    for server in running(tmp_path, certificates=certificates):
        reach(server)
        with pytest.raises(UserError, match=r"its certificate is not trusted: .*AWS_CA_BUNDLE"):
            new_root()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates / "public.crt"))
        store = S3Store(new_root())
        manifest = make(store, {"big": os.urandom(3 * PART)})
        forget(own_cache)
        assert list_files(store.fetch(PREFIX)) == manifest.files
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.replace("https", "http"))
        with pytest.raises(UserError, match="the store speaks TLS; write https://"):
            store = S3Store(store.root).read("x")


def test_two_thousand_small_files(store, own_cache):
    manifest = make(store, {f"{i % 10}/{i}": str(i).encode() for i in range(2000)})
    forget(own_cache)
    assert list_files(store.fetch(PREFIX)) == manifest.files
