"""The step that ends every run, whatever became of it, as a pipeline component."""

from kfp import dsl

from components.images import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def cleanup(status: dsl.PipelineTaskFinalStatus) -> None:
    """Deletes what is left of a run on the cluster: a run that was cancelled leaves its training job behind.

    Args:
        status: How the run ended; kfp.local knows an exit step by it.
    """
    import os

    from components.launcher.__main__ import main

    if os.environ.get("RLHF_LAUNCHER") == "kubernetes" and main(["cleanup", os.environ["RLHF_RUN_ID"]]):
        raise SystemExit(1)
