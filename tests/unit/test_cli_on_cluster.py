"""`rlhf run --on kubernetes`: what it is refused for before anything is made, and what it sends."""

import pytest
import yaml

from components.prepare.resolve import Request, resolve
from pipelines.cli.on_cluster import check_paths, embed_files
from tests.support.commands import invoke_rlhf as rlhf

pytest_plugins = ("tests.support.run_fixtures",)
pytestmark = pytest.mark.usefixtures("nothing_named")


def test_a_run_needs_a_cluster_that_answers(monkeypatch, tmp_path, server):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    result = rlhf("run", "--on", "kubernetes")
    assert result.exit_code == 2
    assert "no cluster is known" in result.output
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
    server.close()
    result = rlhf("run", "--on", "kubernetes")
    assert result.exit_code == 75
    assert "no cluster answers" in result.output


def test_a_run_needs_a_store_that_pods_can_see(server, tmp_path):
    result = rlhf("run", "--on", "kubernetes", "--store", str(tmp_path))
    assert result.exit_code == 2
    assert "is a folder of this machine, which pods cannot see" in result.output


def test_what_is_on_this_machine_only_is_refused_with_the_way_to_bring_it(tmp_path):
    (tmp_path / "sft.jsonl").write_text("{}\n")
    config = resolve(Request("tiny-cpu", data=str(tmp_path)))
    with pytest.raises(Exception, match=r"data.sft.sources\[0\]: .*sft.jsonl is on this machine.*`rlhf put --on kub"):
        check_paths(config, "s3://b")
    mounts = f"launcher.volume_mounts=[{{name: x, mountPath: {tmp_path}}}]"
    check_paths(resolve(Request("tiny-cpu", data=str(tmp_path), overrides=mounts)), "s3://b")


def test_a_missing_secret_is_named_with_the_command_that_makes_it(server):
    result = rlhf("run", "--on", "kubernetes", "--store", "s3://b")
    assert result.exit_code == 2
    assert "kubectl -n rlhf create secret generic rlhf-store --from-literal=AWS_ACCESS_KEY_ID=…" in result.output


def test_local_configuration_files_are_sent_as_text(tmp_path):
    for name in ("preset", "config"):
        (tmp_path / f"{name}.yaml").write_text(f"sft: {{max_steps: 3}}  # {name}\n")
    sent = embed_files({name: str(tmp_path / f"{name}.yaml") for name in ("preset", "config")})
    assert yaml.safe_load(str(sent["preset"])) == yaml.safe_load(str(sent["config"])) == {"sft": {"max_steps": 3}}
    assert resolve(Request(str(sent["preset"]), model="scratch")).sft.max_steps == 3
