"""Faults of the cluster's own parts, and of its nodes, while a step runs or is to begin."""

from __future__ import annotations

import time

from tests.cluster.test_faults import log_of, said_steps
from tests.support.cluster import wait_until
from tests.support.cluster_faults import frozen, killed, tainted
from tests.support.cluster_steps import Steps

OUTAGE_SECONDS = 30
TAINT = "rlhf-test/reserved"


def test_an_api_server_that_is_killed_is_waited_for_here_and_in_a_pod(steps, ours):
    """When it is back, it may refuse an account for a moment: it has yet to learn what its roles allow."""
    other = Steps(steps.cluster, steps.namespace, steps.bucket, steps.lent)
    arguments = ("--steps=80", "--pause=0.5")
    launcher = steps.launch(*arguments, gpus_per_node=2)
    inside = other.launcher_pod("launcher", *arguments, gpus_per_node=2)
    steps.cluster.core.create_namespaced_pod(steps.namespace, inside)
    launcher.wait_for("sft step 5/80")
    wait_until(lambda: "sft step 5/80" in log_of(steps, "launcher"), 120, "the other step runs")
    with killed("apiserver"):
        time.sleep(OUTAGE_SECONDS)
        assert launcher.process.poll() is None, launcher.text
        assert said_steps(launcher.text)[-1] < 60, "the log comes through the API server"
    assert launcher.end(300) == 0, launcher.text
    assert said_steps(launcher.text) == list(range(1, 81)), "those that were written meanwhile, too"
    result = steps.cluster.wait_for_pod(steps.namespace, "launcher")
    steps.cluster.core.delete_namespaced_pod("launcher", steps.namespace, grace_period_seconds=0)
    assert result.exit_code == 0, result.log
    assert said_steps(result.log) == list(range(1, 81))
    steps.check_nothing_is_left()


def test_an_api_server_that_hangs_is_waited_for(steps, ours):
    """Connections stay open and nothing comes."""
    launcher = steps.launch("--steps=80", "--pause=0.5")
    launcher.wait_for("sft step 5/80")
    with frozen("apiserver"):
        time.sleep(OUTAGE_SECONDS)
        assert launcher.process.poll() is None, launcher.text
    assert launcher.end(300) == 0, launcher.text
    assert said_steps(launcher.text) == list(range(1, 81))
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
