"""The rl stage as a pipeline component."""

from kfp import dsl

from components.images import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def rl(
    config: str,
    model: str,
    reward: str,
    reward_model: str,
    dataset: str,
    adapter: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Reinforcement learning from the reward model.

    Args:
        config: URI of the run's configuration.
        model: URI of the policy to train.
        reward: URI of the reward adapter.
        reward_model: URI of the merged reward model, used if the adapter stands on another base.
        dataset: URI of the prompts.
        adapter: The trained policy.
        metrics: Held-out metrics before and after.

    Returns:
        URI of the adapter, or of `model` if the stage is off.
    """
    from components.launcher import steps

    inputs = {"model": model, "reward": reward, "reward_model": reward_model, "dataset": dataset}
    return steps.stage("rl", config, inputs).register(adapter, metrics)
