"""A planned stage as a job: what its pod is told."""

from components.common.config import Config
from components.common.directory_store import DirectoryStore
from components.common.stage import EXPECTED_KEY, StageSpec, make_plan
from components.launcher.config import LauncherConfig
from components.launcher.planned import job_of
from components.launcher.pod import pod_template
from components.launcher.record import Run


def test_a_stage_is_told_the_key_of_its_result(tmp_path):
    store = DirectoryStore(tmp_path)
    plan = make_plan(StageSpec(name="sft", result_version=1, config=Config, inputs={}), {}, "", {}, store.root)
    job = job_of(Run(store, "r1"), plan, {}, LauncherConfig())
    (container,) = pod_template(job).spec.containers
    assert {variable.name: variable.value for variable in container.env}[EXPECTED_KEY] == plan.key
