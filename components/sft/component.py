"""The sft stage as a pipeline component."""

from kfp import dsl

from components.images import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def sft(config: str, model: str, dataset: str, adapter: dsl.Output[dsl.Model], metrics: dsl.Output[dsl.Metrics]) -> str:
    """Supervised fine-tuning on conversations.

    Args:
        config: URI of the run's configuration.
        model: URI of the model to train.
        dataset: URI of the stage's dataset.
        adapter: What was trained.
        metrics: Held-out metrics before and after.

    Returns:
        URI of the adapter, or of `model` if the stage is off.
    """
    from components.launcher import steps

    return steps.stage("sft", config, {"model": model, "dataset": dataset}).register(adapter, metrics)
