"""The dpo stage as a pipeline component."""

from kfp import dsl

from components.images import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def dpo(config: str, model: str, dataset: str, adapter: dsl.Output[dsl.Model], metrics: dsl.Output[dsl.Metrics]) -> str:
    """Direct preference optimisation on preference pairs.

    Args:
        config: URI of the run's configuration.
        model: URI of the model to train, which is the reference too.
        dataset: URI of the preference pairs.
        adapter: The trained policy.
        metrics: Held-out metrics before and after.

    Returns:
        URI of the adapter, or of `model` if the stage is off.
    """
    from components.launcher import steps

    return steps.stage("dpo", config, {"model": model, "dataset": dataset}).register(adapter, metrics)
