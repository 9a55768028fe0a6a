"""Temporary keys: none where the store has no such service, but never none because it is busy."""

import importlib
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs

import pytest

from components.common.errors import RetryableError, UserError
from components.common.stage import Plan
from components.common.sts import compact, session_credentials, session_policy
from components.launcher.config import LauncherConfig
from components.launcher.job import GPU_STAGES
from components.launcher.planned import job_of
from components.launcher.record import Run
from pipelines.doctor.stored import check_keys

RUN_ON_KFP = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
LONG = f"s3://{'b' * 63}/{'p/' * 29}pp"  # the longest name of a bucket, and a prefix of 60


@pytest.fixture
def answer(monkeypatch):
    """Makes a store that answers every question with one status and text."""
    servers = []

    def make(status, text="", longest=1 << 20):
        """A status, a text, and how many characters a policy may have; a longer one is refused as MinIO does it."""

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.send_response(status if len(asked["Policy"][0]) <= longest else 400)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{servers[-1].server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)

    yield make
    for server in servers:
        server.shutdown()


@pytest.mark.parametrize("status", [400, 403, 404, 405, 501])
def test_a_store_without_the_service_has_none(answer, status):
    answer(status)
    assert session_credentials("s3://bucket", ["a"], ["b"], 900) is None


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_store_is_asked_again_later(answer, status):
    answer(status)
    with pytest.raises(RetryableError, match="no temporary keys now"):
        session_credentials("s3://bucket", ["a"], ["b"], 900)


def keys(ends):
    return (
        '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>'
        "<AccessKeyId>a</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>"
        f"<Expiration>{ends:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )


def test_keys_say_when_they_end(answer):
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=900)
    answer(200, keys(ends))
    given = session_credentials("s3://bucket", ["a"], ["b"], 900)
    assert (given.access_key, given.secret_key, given.session_token) == ("a", "s", "t")
    assert given.expires == ends


def test_a_store_that_refuses_this_policy_alone_is_an_error(answer):
    answer(200, keys(datetime.now(UTC)), longest=500)
    with pytest.raises(
        UserError, match=r"refuses the policy of temporary keys .*, which has \d{4} characters; .*s3://b,"
    ):
        session_credentials("s3://b", [f"{'long/' * 100}{number}" for number in range(3)], ["b"], 900)


def widest(root):
    """The steps with all their inputs, optional ones too, as the launcher asks for their keys."""
    for stage in (*GPU_STAGES, "merge"):
        spec = importlib.import_module(f"components.{stage}.config").SPEC
        makers = {name: wanted.made_by or "merge" for name, wanted in spec.inputs.items()}
        inputs = {name: f"{root}/artifacts/{makers[name]}/{index:016x}" for index, name in enumerate(makers)}
        store = SimpleNamespace(root=root)
        plan = Plan(spec, None, 0, {}, store, f"artifacts/{stage}/{'f' * 16}", "f" * 16)
        yield job_of(Run(store, RUN_ON_KFP), plan, inputs, LauncherConfig())


@pytest.mark.parametrize(("root", "most"), [("s3://rlhf", 1100), ("s3://team-models/rlhf", 1200), (LONG, 1950)])
def test_the_policy_of_every_stage_is_far_below_what_minio_takes(root, most):
    sizes = {job.stage: len(compact(session_policy(root, job.reads, job.writes))) for job in widest(root)}
    assert set(sizes) == {*GPU_STAGES, "merge"}
    assert max(sizes.values()) < most, sizes


def test_a_policy_names_a_folder_of_the_store_once_and_anything_else_as_what_it_may_be():
    policy = session_policy("s3://b/p", ["runs/r", "s3://team/corpus"], ["artifacts/sft/k", "work/sft/k"])
    read, written, here, there = policy["Statement"]
    assert read["Resource"] == [f"arn:aws:s3:::{name}" for name in ("b/p/runs/r/*", "team/corpus", "team/corpus/*")]
    assert written["Resource"] == ["arn:aws:s3:::b/p/artifacts/sft/k/*", "arn:aws:s3:::b/p/work/sft/k/*"]
    assert here["Condition"] == {"StringLike": {"s3:prefix": ["*/runs/r/*", "*/sft/k/*"]}}
    assert there["Condition"] == {"StringLike": {"s3:prefix": ["corpus", "corpus/*"]}}


def test_doctor_asks_for_as_much_as_the_widest_stage_does(answer):
    most = max(len(compact(session_policy(LONG, job.reads, job.writes))) for job in widest(LONG))
    answer(200, keys(datetime.now(UTC)), longest=most - 1)
    with pytest.raises(UserError, match="refuses the policy"):
        list(check_keys(LONG))
    answer(200, keys(datetime.now(UTC)), longest=most)
    (found,) = check_keys(LONG)
    assert found.state == "ok"
