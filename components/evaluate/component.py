"""The evaluate step as a pipeline component."""

from kfp import dsl

from components.images import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def evaluate(
    config: str,
    model: str,
    before: str,
    reward: str,
    dataset: str,
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Compares the final model with the base on held-out prompts.

    Args:
        config: URI of the run's configuration.
        model: URI of the final model.
        before: URI of the base.
        reward: URI of the merged reward model.
        dataset: URI of the prompts.
        evaluation: Answers side by side.
        metrics: The comparison.

    Returns:
        URI of the evaluation.
    """
    from components.launcher import steps

    inputs = {"model": model, "before": before, "reward": reward, "dataset": dataset}
    return steps.stage("evaluate", config, inputs).register(evaluation, metrics)
