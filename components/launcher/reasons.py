"""Why a job waits or failed, in one sentence, from what the cluster says of it. Nothing here asks the cluster."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from components.common.errors import RetryableError, RlhfError, UserError, error_from_dict
from components.launcher.cluster import Object
from components.launcher.job import StageJob
from components.launcher.pod import CONTAINER

# Of several pods' errors, the one that the user can act on; the loss of a peer tells least.
_TELLING = (2, 3, 1, 75)
# A pod waits for these without end, or for as long as nobody changes anything.
NOT_PULLED = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_SET_UP = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


def condition(job: Object, kind: str) -> Object | None:
    """A condition of a job that is true now."""
    for found in job.get("status", {}).get("conditions") or []:
        if found["type"] == kind and found["status"] == "True":
            return dict(found)
    return None


def has_succeeded(job: Object) -> bool:
    """Whether a PyTorchJob or a Job has ended well."""
    return any(condition(job, kind) for kind in ("Succeeded", "Complete"))


def failure_condition(job: Object) -> Object | None:
    """The condition by which a PyTorchJob or a Job has failed."""
    return condition(job, "Failed")


def is_started(pod: Object, container: str = CONTAINER) -> bool:
    """Whether a pod's container has run, or the pod is past that."""
    status = _container(pod, container)
    begun = any(name in status.get("state", {}) for name in ("running", "terminated"))
    return begun or bool(status.get("lastState")) or pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def has_failed(pod: Object) -> bool:
    """Whether a pod has ended badly for good."""
    return bool(pod.get("status", {}).get("phase") == "Failed")


def waiting_reason(pods: Iterable[Object], container: str = CONTAINER) -> str:
    """What the first pod that has not started waits for, in the scheduler's or the kubelet's own words.

    Args:
        pods: The pods.
        container: Name of the container that matters.
    """
    for pod in pods:
        if is_started(pod, container):
            continue
        for found in pod.get("status", {}).get("conditions") or []:
            if found["type"] == "PodScheduled" and found["status"] == "False":
                return str(found.get("message") or found.get("reason"))
        waiting = _container(pod, container).get("state", {}).get("waiting", {})
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    return ""


def hopeless_wait(job: StageJob, pods: Iterable[Object]) -> RlhfError | None:
    """The error of a pod that waits for what will not come by itself."""
    for pod in pods:
        waiting = _container(pod).get("state", {}).get("waiting", {})
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        where = _where(job, pod)
        if reason in NOT_PULLED:
            return UserError(
                f"the image {job.image} cannot be pulled ({reason}): {message}",
                where=where,
                hint="check RLHF_REGISTRY and RLHF_VERSION, launcher.images and launcher.image_pull_secrets",
            )
        if reason in _SET_UP:
            return UserError(
                f"the container cannot be started ({reason}): {message}",
                where=where,
                hint="see that the Secrets and ConfigMaps that it names exist, and that its image is one of ours",
            )
    return None


def fatal_end(job: StageJob, pods: Iterable[Object]) -> RlhfError | None:
    """The error of a container that has ended in a way that another start will not mend."""
    errors = [error for pod in pods for error in _ends(job, pod) if error.code != RetryableError.code]
    return min(errors, key=lambda error: _TELLING.index(error.code)) if errors else None


def failure_of(job: StageJob, found: Object, pods: Iterable[Object]) -> RlhfError:
    """The error of a job that has failed."""
    errors = [error for pod in pods for error in (*_ends(job, pod), *_lost(job, pod), *_unexplained(job, pod))]
    if errors:
        return min(errors, key=lambda error: _TELLING.index(error.code))
    failed = failure_condition(found) or {}
    reason, message = failed.get("reason", ""), failed.get("message", "")
    if "Deadline" in reason or "deadline" in message:
        return past_deadline(job)
    return RetryableError(f"the job failed ({reason}): {message}", where=job.title)


def past_deadline(job: StageJob) -> UserError:
    """The error of a step that took too long."""
    return UserError(
        f"is not done after {job.config.deadline} s",
        where=job.title,
        hint="raise launcher.deadline: the same command goes on from the last checkpoint",
    )


def restart_notes(job: StageJob, pods: Iterable[Object]) -> dict[str, str]:
    """What is to be said of containers and pods that ended and are started again, by something that names each."""
    notes = {}
    for pod in pods:
        name = pod["metadata"]["name"]
        ended = _container(pod).get("lastState", {}).get("terminated")
        if ended:
            errors = _ends(job, pod) or _unexplained(job, pod)
            why = str(errors[-1]) if errors else f"exit code {ended.get('exitCode')}"
            notes[f"{pod['metadata']['uid']}/{_container(pod)['restartCount']}"] = f"starts again: {why}"
        for error in _lost(job, pod):
            notes[pod["metadata"]["uid"]] = f"pod {name} was lost: {error.what}"
    return notes


def told_by(events: Iterable[Object], limit: int = 5) -> list[str]:
    """The last warnings among events, for people."""
    warnings = [event for event in events if event.get("type") == "Warning"]
    warnings.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    return [f"{event['reason']}: {event.get('message', '')}" for event in warnings[-limit:]]


def _ends(job: StageJob, pod: Object) -> list[RlhfError]:
    """Errors that a pod's containers left, or that the kubelet knows the cause of."""
    errors: list[RlhfError] = []
    for ended in _terminated(pod):
        if ended.get("reason") == "OOMKilled":
            limit = _memory_limit(pod)
            errors.append(
                UserError(
                    f"ran out of memory and was killed (OOMKilled) at its limit of {limit}",
                    where=_where(job, pod),
                    hint=f"raise launcher.resources.{job.stage}.memory, or use smaller batches",
                )
            )
        elif ended.get("exitCode") != 0 and (left := _left_behind(ended.get("message", ""))):
            errors.append(error_from_dict(left))
    return errors


def _unexplained(job: StageJob, pod: Object) -> list[RlhfError]:
    """Errors of containers that left no word."""
    errors: list[RlhfError] = []
    for ended in _terminated(pod):
        code, message = ended.get("exitCode", 0), ended.get("message", "")
        if code == 0 or ended.get("reason") == "OOMKilled" or _left_behind(message):
            continue
        last = next((line for line in reversed(message.splitlines()) if line.strip()), "")
        if code in (128 + 9, 128 + 15):
            errors.append(RetryableError(f"was killed (exit code {code})", where=_where(job, pod)))
        else:
            what = f"ended with exit code {code}{f': {last}' if last else ''}"
            errors.append(RlhfError(what, where=_where(job, pod), hint="see its log"))
    return errors


def _lost(job: StageJob, pod: Object) -> list[RlhfError]:
    """Errors of a pod that the cluster took away: evicted, preempted, its node lost."""
    status = pod.get("status", {})
    if status.get("phase") != "Failed" or not status.get("reason"):
        return []
    what = f"{status['reason']}: {status.get('message', '')}".rstrip(": ")
    hint = "ask for what it uses: launcher.resources" if status["reason"] == "Evicted" else "try again"
    return [RetryableError(what, where=_where(job, pod), hint=hint)]


def _container(pod: Object, name: str = CONTAINER) -> dict[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return next((status for status in statuses if status["name"] == name), {})


def _terminated(pod: Object) -> list[dict[str, Any]]:
    status = _container(pod)
    states = (status.get("lastState", {}), status.get("state", {}))
    return [state["terminated"] for state in states if "terminated" in state]


def _left_behind(message: str) -> dict[str, Any] | None:
    """What `write_termination` wrote, if a termination message is that."""
    try:
        fields = json.loads(message)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and "code" in fields else None


def _memory_limit(pod: Object) -> str:
    container: dict[str, Any] = next((found for found in pod["spec"]["containers"] if found["name"] == CONTAINER), {})
    return str(container.get("resources", {}).get("limits", {}).get("memory", "the node's memory"))


def _where(job: StageJob, pod: Object) -> str:
    return f"{job.title} (pod {pod['metadata']['name']})"
