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
    for name, (theirs,) in table.runs.items():
        for figure in ("end s", "RSS MB"):
            assert ours[figure] <= theirs[figure], name
