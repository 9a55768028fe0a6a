"""The data step as a pipeline component."""

from typing import NamedTuple

from kfp import dsl

from components.images import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def data(config: str, model: str) -> NamedTuple(
    "Datasets", [("pretrain", str), ("sft", str), ("reward", str), ("rl", str)]
):
    """Reads, normalises, splits, tokenises and packs the data of every stage.

    Args:
        config: URI of the run's configuration.
        model: URI of the base model, for its tokenizer.

    Returns:
        URI of each stage's dataset.
    """
    from components.launcher import steps

    return tuple(steps.data(config, model).values())
