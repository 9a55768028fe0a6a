"""What following a job costs, beside what it costs with the kubeflow-training SDK in the same minutes."""

from __future__ import annotations

import pytest

from tests.benchmarks.bench_launcher import compare
from tests.support.cluster_steps import Steps


@pytest.fixture
def table(steps):
    made = compare(lambda: Steps(steps.cluster, steps.namespace, steps.bucket, steps.lent), runs=1, count=30)
    print(made.markdown())
    return made


def test_a_waiting_launcher_is_prompt_small_and_quiet(table):
    (ours,) = table.runs["components.launcher"]
    assert ours["first line s"] <= 1
    assert ours["end s"] <= 1
    assert ours["RSS MB"] <= 120
    assert ours["% of a core"] <= 1
    # Where the SDK looks just after the job has ended it is as prompt, and else up to its interval late: its end proves
    # nothing in one run.
    for theirs in list(table.runs.values())[:-1]:
        assert ours["RSS MB"] <= theirs[0]["RSS MB"]
        assert ours["first line s"] < theirs[0]["first line s"]
