"""The step that ends every run, whatever became of it, as a pipeline component."""

from kfp import dsl

from components.images import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def cleanup(status: dsl.PipelineTaskFinalStatus) -> None:
    """Deletes what is left of a run on the cluster: a run that was cancelled leaves its training job behind.

    Args:
        status: How the run ended; kfp.local knows an exit step by it.
    """
    from components.launcher import leftovers

    leftovers.remove()
