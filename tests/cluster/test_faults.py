"""What a cluster does to a step, really done to it: each ends well, or soon, with one sentence and nothing left."""

from __future__ import annotations

import re
import time
from datetime import datetime

import pytest
from kubernetes.client.exceptions import ApiException

from components.common.store import open_store
from components.launcher.job import LABEL_RUN
from components.launcher.log_store import read_log, stored_logs
from components.launcher.record import Place, Run
from tests.support.cluster import wait_until
from tests.support.cluster_steps import Launcher, Steps, kill_containers
from tests.support.commands import python


def said_steps(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"^sft step (\d+)/", text, re.MULTILINE)]


def test_a_step_runs_on_four_gpus_and_its_lines_come_as_they_are_written(steps):
    launcher = steps.launch("--steps=8", "--pause=0.5")
    launcher.wait_for("sft step 1/8")
    job = steps.cluster.pytorchjob(steps.namespace, steps.name)
    found = steps.cluster.core.read_namespaced_pod(steps.pod, steps.namespace)
    assert found.spec.containers[0].resources.limits["nvidia.com/gpu"] == "4"
    assert found.metadata.labels[LABEL_RUN] == steps.run == job["metadata"]["labels"][LABEL_RUN]
    launcher.wait_for("sft step 8/8")
    wait_until(lambda: ended(steps), 30, "the job has ended")
    noticed = time.time()
    assert launcher.end() == 0, launcher.text
    print(f"the launcher ended {time.time() - noticed:.2f} s after its job")
    assert time.time() - noticed < 2
    assert said_steps(launcher.text) == list(range(1, 9))
    assert steps.manifest().kind == "adapter"
    late = delays(steps, launcher)
    print(f"lines come {max(late):.2f} s after they are written at most, the first {late[0]:.2f} s")
    assert max(late) < 2, "as a rule less than one, on an idle machine"
    steps.check_nothing_is_left()


def delays(steps: Steps, launcher: Launcher) -> list[float]:
    """Seconds from when the kubelet has stamped each of the step's lines to when the launcher has printed it."""
    store = open_store(steps.bucket.root)
    (parts,) = stored_logs(store, f"work/sft/{steps.key}/{steps.run}/logs").values()
    printed = {text: moment for moment, text in launcher.lines}
    lines = [line for line in read_log(store, parts) if line.text.startswith("sft step")]
    return [printed[line.text] - datetime.fromisoformat(line.time).timestamp() for line in lines]


def ended(steps: Steps) -> bool:
    if steps.name not in steps.jobs():
        return True
    conditions = steps.cluster.pytorchjob(steps.namespace, steps.name).get("status", {}).get("conditions") or []
    return any(found["type"] == "Succeeded" and found["status"] == "True" for found in conditions)


def test_four_pods_of_one_gpu(steps):
    launcher = steps.launch("--steps=4", nodes=4, gpus_per_node=1)
    launcher.wait_for("sft step 1/4", 240)
    pods = steps.cluster.core.list_namespaced_pod(steps.namespace).items
    assert len(pods) == 4
    assert launcher.end() == 0, launcher.text
    assert said_steps(launcher.text) == [1, 2, 3, 4], "rank 0's lines alone are shown"
    steps.check_nothing_is_left()


def test_a_killed_container_starts_again_and_no_line_is_lost_or_doubled(steps):
    launcher = steps.launch("--steps=12", "--pause=0.4")
    launcher.wait_for("sft step 4/12")
    kill_containers(f"little_stage.*{steps.key}")
    assert launcher.end() == 0, launcher.text
    assert "starts again: " in launcher.text
    assert said_steps(launcher.text) == list(range(1, 13))
    steps.check_nothing_is_left()


def test_a_deleted_pod_is_made_anew_and_the_step_goes_on(steps):
    launcher = steps.launch("--steps=12", "--pause=0.4")
    launcher.wait_for("sft step 4/12")
    steps.cluster.core.delete_namespaced_pod(steps.pod, steps.namespace, grace_period_seconds=0)
    assert launcher.end() == 0, launcher.text
    numbers = said_steps(launcher.text)
    assert numbers[-1] == 12
    assert sorted(set(numbers)) == list(range(1, 13))
    steps.check_nothing_is_left()


def test_a_launcher_that_was_killed_is_followed_by_one_that_adopts_the_job(steps):
    first = steps.launch("--steps=20", "--pause=0.5")
    first.wait_for("sft step 3/20")
    made = steps.cluster.pytorchjob(steps.namespace, steps.name)["metadata"]["uid"]
    first.kill()
    second = steps.launch("--steps=20", "--pause=0.5")
    second.wait_for("goes on with job")
    assert steps.cluster.pytorchjob(steps.namespace, steps.name)["metadata"]["uid"] == made
    assert second.end() == 0, second.text
    assert sorted({*said_steps(first.text), *said_steps(second.text)}) == list(range(1, 21))
    steps.check_nothing_is_left()


def test_a_launcher_in_a_pod_needs_no_more_than_its_role_and_leaves_the_job_when_it_is_told_to_stop(steps):
    body = steps.launcher_pod("launcher", "--steps=20", "--pause=0.5")
    steps.cluster.core.create_namespaced_pod(steps.namespace, body)
    wait_until(lambda: "sft step 3/20" in log_of(steps, "launcher"), 120, "the step runs")
    steps.cluster.core.delete_namespaced_pod("launcher", steps.namespace, grace_period_seconds=5)
    wait_until(lambda: "launcher" not in pods_of(steps), 30, "the launcher's pod is gone")
    assert steps.jobs() == [steps.name]
    steps.cluster.core.create_namespaced_pod(steps.namespace, body)
    result = steps.cluster.wait_for_pod(steps.namespace, "launcher")
    steps.cluster.core.delete_namespaced_pod("launcher", steps.namespace, grace_period_seconds=0)
    assert result.exit_code == 0, result.log
    assert "goes on with job" in result.log
    assert said_steps(result.log)[-1] == 20
    steps.check_nothing_is_left()


def pods_of(steps: Steps) -> list[str]:
    return [item.metadata.name for item in steps.cluster.core.list_namespaced_pod(steps.namespace).items]


def log_of(steps: Steps, name: str) -> str:
    try:
        return steps.cluster.log(steps.namespace, name)
    except ApiException:  # its container has not started
        return ""


def test_two_launchers_with_one_key_make_one_job_and_both_end_well(steps):
    first = steps.launch("--steps=8", "--pause=0.4")
    first.wait_for("job rlhf-sft")
    second = steps.launch("--steps=8", "--pause=0.4")
    assert first.end() == 0, first.text
    assert second.end() == 0, second.text
    assert said_steps(first.text) == list(range(1, 9))
    steps.check_nothing_is_left()


def test_memory_beyond_the_limit_is_named(steps):
    small = {"training": {"cpu": "100m", "memory": "300Mi"}}
    launcher = steps.launch("--steps=9", "--eat-at=2", resources=small, shm_size="16Mi")
    assert launcher.end() == 2, launcher.text
    assert "ran out of memory and was killed (OOMKilled) at its limit of 300Mi" in launcher.text
    assert "raise launcher.resources.sft.memory" in launcher.text
    steps.check_nothing_is_left()


def test_an_image_that_is_not_there_is_named(steps):
    launcher = steps.launch(images={"sft": "localhost/rlhf-test/no-such-image:1"})
    assert launcher.end(120) == 2, launcher.text
    assert "the image localhost/rlhf-test/no-such-image:1 cannot be pulled" in launcher.text
    steps.check_nothing_is_left()


def test_more_gpus_than_there_are_is_said_in_the_schedulers_words(steps):
    launcher = steps.launch(gpus_per_node=5, pending_timeout=10)
    assert launcher.end() == 75, launcher.text
    assert "Insufficient nvidia.com/gpu" in launcher.text
    assert "has not started after 10 s" in launcher.text
    steps.check_nothing_is_left()


def test_a_selector_that_no_node_has_is_said_in_the_schedulers_words(steps):
    launcher = steps.launch(placement="gke", pending_timeout=10)
    assert launcher.end() == 75, launcher.text
    assert "didn't match Pod's node affinity/selector" in launcher.text
    steps.check_nothing_is_left()


def test_a_step_that_hangs_leaves_its_stacks_and_starts_again(steps):
    launcher = steps.launch("--steps=8", "--hang-at=3", stall_timeout=8, grace_period=3)
    assert launcher.end(240) == 0, launcher.text
    assert "hangs: no heartbeat for 8 s after step 3" in launcher.text
    assert 'little_stage.py", line' in launcher.text, "what the process was doing"
    assert said_steps(launcher.text)[-1] == 8
    steps.check_nothing_is_left()


def test_a_deadline_ends_a_step(steps):
    launcher = steps.launch("--steps=600", "--pause=0.5", deadline=12)
    assert launcher.end(60) == 2, launcher.text
    assert "sft: is not done after 12 s; raise launcher.deadline" in launcher.text
    steps.check_nothing_is_left()


def test_the_error_that_a_step_leaves_is_the_launchers(steps):
    launcher = steps.launch("--fail-at=2", "--code=3")
    assert launcher.end() == 3, launcher.text
    assert "error: little: failed as it was told to; tell it not to" in launcher.text
    steps.check_nothing_is_left()


def test_an_error_that_may_pass_is_tried_again(steps):
    launcher = steps.launch("--steps=6", "--fail-at=3", "--code=75")
    assert launcher.end() == 0, launcher.text
    assert "starts again: little: failed as it was told to" in launcher.text
    assert said_steps(launcher.text) == list(range(1, 7))
    steps.check_nothing_is_left()


@pytest.mark.parametrize("when", ["pending", "running"])
def test_cancel_leaves_no_job_within_five_seconds(steps, when):
    begin_run(steps)
    gpus = 5 if when == "pending" else 4
    launcher = steps.launch("--steps=600", "--pause=0.5", gpus_per_node=gpus)
    launcher.wait_for("waits: " if when == "pending" else "sft step 2/")
    began = time.monotonic()
    result = python("-m", "pipelines.cli", "cancel", steps.run, "-n", steps.namespace, **steps.variables())
    assert result.returncode == 0, result.stderr
    wait_until(lambda: not steps.jobs(), 5, "the job is gone")
    assert time.monotonic() - began < 15, "with the time that Python takes to start"
    assert launcher.end(30) == 2, launcher.text
    assert "the run was cancelled" in launcher.text
    steps.check_nothing_is_left()


def begin_run(steps: Steps) -> None:
    Run(open_store(steps.bucket.root), steps.run).begin(Place("kubernetes", "elsewhere", 1, steps.namespace))


def test_an_operator_that_is_down_is_waited_for_or_named(steps):
    apps = steps.cluster.apps
    operator = ("training-operator", "kubeflow")
    launcher = steps.launch("--steps=30", "--pause=0.5")
    launcher.wait_for("sft step 2/30")
    apps.patch_namespaced_deployment_scale(*operator, {"spec": {"replicas": 0}})
    try:
        wait_until(lambda: not apps.read_namespaced_deployment(*operator).status.ready_replicas, 60, "it is down")
        other = Steps(steps.cluster, steps.namespace, steps.bucket, steps.lent)
        refused = other.launch()
        assert refused.end(150) == 75, refused.text
        assert "the training operator does not answer" in refused.text
    finally:
        apps.patch_namespaced_deployment_scale(*operator, {"spec": {"replicas": 1}})
    assert launcher.end() == 0, launcher.text
    assert said_steps(launcher.text) == list(range(1, 31))
    steps.check_nothing_is_left()
