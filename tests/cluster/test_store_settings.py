"""A store that cannot be reached as it was asked for: settings, bucket, clock, address and TLS."""

from __future__ import annotations

import datetime
import os
import subprocess

import pytest

from components.common.errors import RetryableError, UserError
from components.common.manifest import list_files
from components.common.s3 import S3Store
from components.common.s3_upload import PART
from components.common.store import open_store
from tests.support.minio import new_root, running
from tests.support.stored import PREFIX, forget, make

pytest_plugins = ("tests.support.store_fixtures",)


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
