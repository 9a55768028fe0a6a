"""The report step as a pipeline component."""

from kfp import dsl

from components.images import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def report(config: str, evaluation: str, page: dsl.Output[dsl.HTML]) -> str:
    """Writes the run's report: flow, curves, metrics, samples, lineage, configuration.

    Args:
        config: URI of the run's configuration.
        evaluation: URI of the evaluation, which must be there first.
        page: The report, shown with the run.

    Returns:
        Where the report is.
    """
    from components.launcher import steps

    return steps.report(config, page.path)
