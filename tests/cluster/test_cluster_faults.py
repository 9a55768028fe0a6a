"""Faults of the cluster's own parts, and of its nodes, while a step runs or is to begin."""

from __future__ import annotations

import time

import pytest

from tests.cluster.test_faults import said_steps
from tests.support.cluster_faults import frozen, killed, tainted

OUTAGE_SECONDS = 30
TAINT = "rlhf-test/reserved"


@pytest.mark.parametrize("fault", [killed, frozen])
def test_an_api_server_that_is_away_for_half_a_minute_is_waited_for(steps, ours, fault):
    """Killed, it refuses connections; frozen, it takes them and says nothing, as behind a load balancer."""
    launcher = steps.launch("--steps=80", "--pause=0.5")
    launcher.wait_for("sft step 5/80")
    with fault("apiserver"):
        time.sleep(OUTAGE_SECONDS)
        assert launcher.process.poll() is None, launcher.text
        unseen = said_steps(launcher.text)[-1]
        assert unseen < 60, "the log goes through the API server"
    assert launcher.end(300) == 0, launcher.text
    assert said_steps(launcher.text) == list(range(1, 81)), "those that were written meanwhile, too"
    steps.check_nothing_is_left()


def test_a_kubelet_that_is_restarted_costs_no_line(steps, ours):
    launcher = steps.launch("--steps=50", "--pause=0.5")
    launcher.wait_for("sft step 5/50")
    with killed("kubelet"):
        time.sleep(8)
    assert launcher.end(180) == 0, launcher.text
    assert said_steps(launcher.text) == list(range(1, 51))
    assert "starts again" not in launcher.text, "the container outlives the kubelet"
    steps.check_nothing_is_left()


def test_a_taint_that_is_not_tolerated_is_said_in_the_schedulers_words(steps):
    with tainted(steps.cluster, TAINT):
        launcher = steps.launch(pending_timeout=10)
        assert launcher.end() == 75, launcher.text
        assert "had untolerated taint" in launcher.text
        assert "has not started after 10 s" in launcher.text
        assert "placement or tolerations" in launcher.text, "the remedy"
        steps.check_nothing_is_left()
        tolerant = steps.launch(tolerations=[{"key": TAINT, "operator": "Exists"}])
        assert tolerant.end() == 0, tolerant.text
    assert steps.manifest()
    steps.check_nothing_is_left()
