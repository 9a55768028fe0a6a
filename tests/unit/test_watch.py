"""Watching objects: through what passes, and not without end or rest through what does not."""

import threading
import time

import pytest

from components.common.errors import RetryableError, UserError
from components.launcher import watch
from components.launcher.cluster import PODS
from components.launcher.connect import connect
from components.launcher.watch import Watched
from tests.support.api_server import Fault

WATCHES = r"GET .*/pods\?.*watch=true"


@pytest.fixture
def pods(server):
    watched = Watched(connect(), PODS, threading.Condition())
    yield watched
    watched.stop()


def error_of(pods, kind):
    pods.join(30)
    assert not pods.is_alive(), "it goes on"
    with pytest.raises(kind) as caught:
        pods.objects()
    return str(caught.value)


def asked(server):
    return sum("watch=true" in request for request in server.requests)


def test_a_watch_that_is_forbidden_ends_with_one_sentence(server, pods):
    server.faults.append(Fault(WATCHES, 403, "pods is forbidden", times=10000))
    pods.start()
    assert "may not watch pods: pods is forbidden; give the launcher's" in error_of(pods, UserError)
    assert asked(server) == 1
    with pytest.raises(UserError):
        pods.wait_until_listed(0)


@pytest.mark.parametrize("status", [500, 410, 200])
def test_a_watch_that_never_lasts_is_asked_for_less_and_less_and_then_given_up(server, pods, monkeypatch, status):
    monkeypatch.setattr(watch, "PATIENCE_SECONDS", 4.0)
    server.faults.append(Fault(WATCHES, status, times=10000))
    pods.start()
    assert "pods have not been heard of for 4 s" in error_of(pods, RetryableError)
    assert 3 <= asked(server) <= 8


def test_a_server_that_does_not_answer_is_not_waited_for_by_a_person(server, pods):
    server.go_down()
    pods.start()
    with pytest.raises(RetryableError, match="has not told of pods in 0 s"):
        pods.wait_until_listed(0.2)


def test_failures_that_pass_are_survived(server, pods):
    server.faults += [Fault(WATCHES, 500, times=2), Fault(WATCHES, 429), Fault(WATCHES, 410), Fault(WATCHES, 0)]
    pods.start()
    server.wait_for(lambda: asked(server) >= 6)
    server.put("pods", {"metadata": {"name": "p", "uid": "u"}})
    end = time.monotonic() + 20
    while pods.find("u") is None:
        assert time.monotonic() < end
        time.sleep(0.02)
