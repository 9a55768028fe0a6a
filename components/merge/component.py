"""The merge step as a pipeline component."""

from kfp import dsl

from components.images import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def merge(config: str, base: str, adapter: str, of: str, merged: dsl.Output[dsl.Model]) -> str:
    """Merges a stage's adapter into the model it was trained on.

    Args:
        config: URI of the run's configuration.
        base: URI of that model.
        adapter: URI of the stage's result.
        of: Name of the stage.
        merged: The merged model.

    Returns:
        URI of the merged model.
    """
    from components.launcher import steps

    return steps.merge(config, base, adapter, of).register(merged)
