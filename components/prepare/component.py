"""The prepare step as a pipeline component."""

from typing import NamedTuple

from kfp import dsl

from components.images import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def prepare(
    preset: str, config: str, overrides: str, model: str, data: str, seed: int, pipeline: str = "rlhf"
) -> NamedTuple("Prepared", [("config", str), ("model", str)]):
    """Resolves the configuration for all steps and brings the base model into the store.

    Args:
        preset: Name of a preset.
        config: YAML text or URI, laid over the preset.
        overrides: Lines section.field=value, laid over both.
        model: Base model, if not the preset's.
        data: Folder with each stage's data, if not the preset's.
        seed: Of everything random; negative: the configuration's.
        pipeline: Name of the pipeline, which says what stages there are.

    Returns:
        URI of the resolved configuration and of the base model.
    """
    from components.launcher import steps

    asked = {"preset": preset, "config": config, "overrides": overrides, "model": model, "data": data, "seed": seed}
    return steps.prepare(**asked, pipeline=pipeline)
