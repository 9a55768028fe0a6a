"""What the tasks of all our pipelines have in common.

kfp.local ignores everything that is Kubernetes' own here, so the same pipeline runs on a laptop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kfp import dsl, kubernetes

from components.images import image_of
from components.launcher.component import cleanup
from components.launcher.job import STEP
from components.merge.component import merge
from components.names import CONFIG_MAP, IN_CONFIG_MAP, IN_SECRET, SECRET

# What works in the step's own pod; all other steps make a training job and wait for it. Cores and memory to begin with.
AT_WORK = {"prepare": ("500m", "4Gi"), "data": ("500m", "2Gi"), "merge": ("500m", "2Gi"), "report": ("100m", "512Mi")}
WAITING = ("100m", "256Mi")
OWN_IMAGE = ("prepare", "data")  # the launcher's has neither torch nor transformers
RETRIES = 2


def step(task: dsl.PipelineTask, name: str = "", *, image: Any) -> dsl.PipelineTask:
    """Sets what every step needs: its image, no cache, the run's name, the store, labels, retries.

    Args:
        task: The step.
        name: What it is called where its component's name would not do.
        image: The launcher's image, or the pipeline's parameter that names it.
    """
    stage = task.component_spec.name
    cpu, memory = AT_WORK.get(stage, WAITING)
    task.set_container_image(image_of(stage) if stage in OWN_IMAGE else image)
    # A stage's key says whether its result is there; KFP's cache does not know what a URI holds.
    task.set_caching_options(False)
    # For pods that were evicted or lost: a step that failed for good says so again and ends.
    task.set_retry(RETRIES).set_cpu_request(cpu).set_memory_request(memory)
    _on_kubernetes(task, name.replace(" ", "-") or stage)
    return task.set_display_name(name) if name else task


def _on_kubernetes(task: dsl.PipelineTask, step: str) -> None:
    # Not the label for the stage, which the job's own pod has: a selector would find every line twice.
    kubernetes.add_pod_label(task, STEP, step)
    # A variable of the task itself would reach kfp.local, too, where steps are processes.
    kubernetes.add_pod_label(task, "rlhf-stack/launcher", "kubernetes")
    kubernetes.use_field_path_as_env(task, "RLHF_LAUNCHER", "metadata.labels['rlhf-stack/launcher']")
    kubernetes.use_field_path_as_env(task, "RLHF_RUN_ID", "metadata.labels['pipeline/runid']")
    # Optional, since a step can say in one sentence what it lacks, and a pod that cannot start does not.
    kubernetes.use_config_map_as_env(task, CONFIG_MAP, {name: name for name in IN_CONFIG_MAP}, optional=True)
    kubernetes.use_secret_as_env(task, SECRET, {name: name for name in IN_SECRET}, optional=True)
    # For namespaces that enforce the Pod Security Standard `restricted`.
    kubernetes.set_security_context(task, run_as_user=1000, run_as_group=1000, run_as_non_root=True)


def cleaned_up(image: Any) -> dsl.ExitHandler:
    """A block of steps after which, however it ends, no job of the run is left.

    Args:
        image: The launcher's image.
    """
    return dsl.ExitHandler(step(cleanup(), image=image), name="run")


def merged(
    step: Callable[[dsl.PipelineTask, str], dsl.PipelineTask],
    config: Any,
    base: Any,
    trained: dsl.PipelineTask,
    of: str,
) -> Any:
    """Adds the merge that follows a stage.

    Args:
        step: The function of that name, with the pipeline's image.
        config: URI of the run's configuration.
        base: URI of the model that the stage trained.
        trained: The stage's step.
        of: The stage's name.

    Returns:
        URI of the merged model.
    """
    task = merge(config=config, base=base, adapter=trained.outputs["Output"], of=of)
    return step(task, f"merge {of}").outputs["Output"]
