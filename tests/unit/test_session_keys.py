"""Temporary keys are renewed by the launcher, and a stage takes the new ones up while it works."""

import base64
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from components.common import sts
from components.common.errors import RetryableError, UserError
from components.common.s3 import S3Store
from components.common.s3_keys import keys_text
from components.common.sts import Credentials
from components.launcher import credentials
from components.launcher.config import LauncherConfig
from components.launcher.connect import connect
from components.launcher.credentials import StoreKeys
from components.launcher.job import stage_job
from components.launcher.objects import to_object

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>over</Message></Error>"


class Store:
    """A store that knows one access key, and to which the others are over."""

    def __init__(self):
        self.known, self.refused = "first", threading.Event()
        state = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                good = f"Credential={state.known}/" in self.headers["Authorization"]
                body = b"content" if good else EXPIRED
                self.send_response(200 if good else 400)
                self.send_header("Content-Type", "application/octet-stream" if good else "application/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                if not good:
                    state.refused.set()

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def store(monkeypatch):
    store = Store()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    yield store
    store.http.shutdown()
    store.http.server_close()


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """Replaces the file with the keys, as the kubelet does: a link to another file."""
    link = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(link))

    def put(name):
        (tmp_path / name).write_text(keys_text(name, "secret%", "token"))
        (tmp_path / "new").symlink_to(tmp_path / name)
        os.replace(tmp_path / "new", link)

    put("first")
    return put


def test_keys_that_were_replaced_are_used_by_the_next_request(store, keys):
    opened = S3Store("s3://bucket")
    assert opened.read("a") == b"content"
    store.known = "second"
    keys("second")
    assert opened.read("a") == b"content"
    assert not store.refused.is_set()


def test_keys_that_are_over_are_waited_for(store, keys):
    opened = S3Store("s3://bucket")
    assert opened.read("a") == b"content"
    store.known = "second"
    threading.Thread(target=lambda: store.refused.wait(20) and keys("second"), daemon=True).start()
    assert opened.read("a") == b"content"
    assert store.refused.is_set()


def test_keys_that_nobody_renews_are_not_waited_for(store, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    began = time.monotonic()
    with pytest.raises(RetryableError, match="the session token has expired"):
        S3Store("s3://bucket").read("a")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("text", "words"), [(None, "cannot be read"), ("[x]\n", "no keys"), ("oh", "no keys")])
def test_a_file_without_keys_is_named(store, tmp_path, monkeypatch, text, words):
    file = tmp_path / "keys"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=f"AWS_SHARED_CREDENTIALS_FILE={file}: .*{words}"):
        S3Store("s3://bucket").read("a")


@pytest.fixture
def given(monkeypatch):
    """Keys that the store gives, one set after the other, each good for 1000 seconds; an error is raised."""
    answers = []

    def give(*_):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer and Credentials(answer, "secret", "token", datetime.now(UTC) + timedelta(seconds=1000))

    monkeypatch.setattr(sts, "session_credentials", give)
    return answers


@pytest.fixture
def clock(monkeypatch):
    """The launcher's clock, which stands still: sets it."""
    now = [0.0]
    monkeypatch.setattr(credentials, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return lambda seconds: now.__setitem__(0, seconds)


def step():
    return stage_job("r1", "sft", "k", [], "s3://b", LauncherConfig(), cluster=True, writes=["artifacts/sft/k"])


def secret(server, job):
    return base64.b64decode(server.objects["secrets"][job.name]["data"]["credentials"]).decode()


def test_a_pod_has_its_keys_in_a_file(server, given):
    given.append("one")
    job = StoreKeys(connect(), step()).give()
    pod = to_object(job)["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    variables = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} & set(variables)
    folder, _, name = variables["AWS_SHARED_CREDENTIALS_FILE"].rpartition("/")
    assert {"name": "keys", "mountPath": folder, "readOnly": True} in pod["containers"][0]["volumeMounts"]
    assert {"name": "keys", "secret": {"secretName": job.name, "defaultMode": 0o440}} in pod["volumes"]
    assert list(server.objects["secrets"][job.name]["data"]) == [name]
    assert "aws_access_key_id = one\n" in secret(server, job)


def test_a_secret_that_went_with_the_job_before_is_made_again(server, given):
    given.append("one")
    keys = StoreKeys(connect(), step())
    job = keys.give()
    server.drop("secrets", job.name)
    keys.belong_to({"kind": "PyTorchJob", "apiVersion": "kubeflow.org/v1", "metadata": {"uid": "u"}})
    assert "= one\n" in secret(server, job)
    (owner,) = server.objects["secrets"][job.name]["metadata"]["ownerReferences"]
    assert owner == {"kind": "PyTorchJob", "apiVersion": "kubeflow.org/v1", "name": job.name, "uid": "u"}


def test_new_keys_come_before_the_old_ones_are_over(server, given, clock):
    given += ["one", "two"]
    keys = StoreKeys(connect(), step())
    job = keys.give()
    clock(490)
    keys.renew()
    assert "= one\n" in secret(server, job)
    clock(510)
    keys.renew()
    assert "= two\n" in secret(server, job)


def test_a_store_that_is_away_is_asked_for_keys_again(server, given, clock, capsys):
    given += ["one", RetryableError("the store is away"), None, "two"]
    keys = StoreKeys(connect(), step())
    job = keys.give()
    for seconds in (510, 580, 650):
        assert "= one\n" in secret(server, job)
        clock(seconds)
        keys.renew()
        keys.renew()
    assert "= two\n" in secret(server, job)
    said = capsys.readouterr().out
    assert said.count("cannot be renewed for now: the store is away") == 1
    assert said.count("cannot be renewed for now: the store gives none any more") == 1


def test_a_store_without_temporary_keys_is_told_and_the_pods_get_the_configured_ones(server, given, capsys):
    given.append(None)
    assert StoreKeys(connect(), step()).give().secret == ""
    assert capsys.readouterr().out.count("the store gives no temporary keys") == 1


def test_a_refused_policy_is_an_error_of_the_step(server, given):
    given.append(UserError("refuses the policy"))
    with pytest.raises(UserError, match="refuses the policy"):
        StoreKeys(connect(), step()).give()
    assert not server.objects.get("secrets")
