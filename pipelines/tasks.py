"""What the tasks of all our pipelines have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kfp import dsl, kubernetes

from components.merge.component import merge


def step(task: dsl.PipelineTask, name: str = "", *, image: Any) -> dsl.PipelineTask:
    """Sets what every step needs: our image, no cache, the run's name.

    Args:
        task: The step.
        name: What it is called where its component's name would not do.
        image: Its container image, or the pipeline's parameter that names it.
    """
    # A stage's key says whether its result is there; KFP's cache does not know what a URI holds.
    task.set_caching_options(False).set_container_image(image)
    kubernetes.use_field_path_as_env(task, "RLHF_RUN_ID", "metadata.labels['pipeline/runid']")
    return task.set_display_name(name) if name else task


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
