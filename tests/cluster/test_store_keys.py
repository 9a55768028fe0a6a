"""Temporary keys open what is named and nothing else; a stage works with them."""

from __future__ import annotations

import dataclasses
import os
import threading

import pytest

from components.common.errors import UserError
from components.common.s3 import S3Store
from components.common.store import split_s3
from components.common.sts import compact, session_credentials, session_policy
from tests.support.stored import PREFIX, forget, make

pytest_plugins = ("tests.support.store_fixtures",)

OWN = "artifacts/rl/abc"


@pytest.fixture
def limited(store, monkeypatch, tmp_path):
    """The store, opened with keys for one input, one result and the work on it; and as its owner sees it."""
    store.write("runs/r/config.yaml", b"seed: 1")
    store.write("runs/r2/config.yaml", b"secret")
    store.write(f"{PREFIX}x/near", b"secret")
    make(store)
    make(store, prefix="artifacts/sft/other")
    given = session_credentials(
        store.root, [PREFIX, f"{store.root}/runs/r/config.yaml"], [OWN, "work/rl/abc"], seconds=3600
    )
    assert given
    assert given.secret_key not in repr(given)
    (tmp_path / "credentials").write_text(given.text())
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    return S3Store(store.root), store


def test_inputs_can_be_read_and_results_written(limited, own_cache):
    store, owner = limited
    forget(own_cache)
    assert (store.fetch(PREFIX) / "a.bin").read_bytes() == b"0123456789"
    assert store.read("runs/r/config.yaml") == b"seed: 1"
    assert not store.exists(f"{OWN}/manifest.json")
    make(store, {"big": bytes(20 << 20), "small": b"1"}, prefix=OWN)
    assert not store.publish(owner_copy(store), OWN)
    with store.work("work/rl/abc/run", writes=True) as work:
        (work / "metrics.jsonl").write_text("{}\n")
    assert owner.read("work/rl/abc/run/metrics.jsonl") == b"{}\n"
    store.remove_folder("work/rl/abc")
    assert owner.files("work/rl/abc") == []


def owner_copy(store):
    """A result of the same key that comes second."""
    folder = store.scratch()
    (folder / "small").write_text("2")
    (folder / "manifest.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    "ask",
    [
        lambda s: s.read("artifacts/sft/other/manifest.json"),
        lambda s: s.fetch("artifacts/sft/other"),
        lambda s: s.read(f"{PREFIX}x/near"),
        lambda s: s.read("runs/r2/config.yaml"),
        lambda s: s.files(""),
        lambda s: s.files("artifacts"),
        lambda s: s.files("artifacts/sft/other"),
        lambda s: s.files("runs/r2"),
        lambda s: s.write(f"{PREFIX}/extra", b""),
        lambda s: s.write("runs/r/config.yaml", b""),
        lambda s: s.remove(f"{PREFIX}/manifest.json"),
        lambda s: s.write("artifacts/rl/abcd/manifest.json", b""),
        lambda s: s.write("work/sft/abc/x", b""),
        lambda s: make(s, prefix="artifacts/rl/other"),
        lambda s: s.bucket.create(),
    ],
)
def test_nothing_else_can(limited, own_cache, ask):
    store, owner = limited
    forget(own_cache)
    before = owner.bucket.entries("")
    with pytest.raises(UserError, match=r"access denied|cannot be deleted"):
        ask(store)
    assert owner.bucket.entries("") == before


def test_keys_are_taken_up_while_a_process_works_and_waited_for_when_theirs_are_over(store, tmp_path, monkeypatch):
    make(store)
    make(store, prefix="artifacts/sft/other")
    first, second = (
        session_credentials(store.root, [prefix], [OWN], seconds=3600) for prefix in (PREFIX, "artifacts/sft/other")
    )
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")

    def put(text):
        (tmp_path / "new").write_text(text)
        os.replace(tmp_path / "new", file)

    put(first.text())
    limited = S3Store(store.root)
    assert limited.read(f"{PREFIX}/manifest.json")
    with pytest.raises(UserError, match="access denied"):
        limited.read("artifacts/sft/other/manifest.json")
    put(dataclasses.replace(first, access_key="F" * 20, session_token="over").text())  # MinIO forgets such keys
    threading.Timer(1.0, put, [second.text()]).start()
    assert limited.read("artifacts/sft/other/manifest.json")


def test_a_policy_is_measured_as_minio_does_it_and_a_larger_one_is_an_error_not_a_lack(store):
    reads = [f"artifacts/merge/{number:016x}" for number in range(8)]
    free = 2048 - len(compact(session_policy(store.root, [*reads, "runs/r"], [OWN])))
    fits = [*reads, f"runs/r{'r' * (free // 2)}"]  # a name is in the resources and in the listing
    assert 2046 <= len(compact(session_policy(store.root, fits, [OWN]))) <= 2048
    assert session_credentials(store.root, fits, [OWN], 3600)
    with pytest.raises(UserError, match="refuses the policy of temporary keys"):
        session_credentials(store.root, [*reads, f"{fits[-1]}r"], [OWN], 3600)


def test_where_there_are_none(limited, tmp_path):
    store, _ = limited
    assert session_credentials(store.root, [PREFIX], [OWN], 60) is None  # temporary keys give no others
    assert session_credentials(str(tmp_path), [PREFIX], [OWN], 60) is None


def test_a_policy_never_opens_a_whole_bucket():
    bucket = split_s3("s3://b/p")[0]
    with pytest.raises(UserError, match="a whole bucket would be opened"):
        session_policy(bucket, [bucket], [])
