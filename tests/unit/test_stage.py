"""The stage contract: inputs are found and checked, keys decide, failures leave nothing behind."""

import dataclasses
import json
from typing import Annotated

import pytest

from components.common.config import Config, Neutral
from components.common.directory_store import DirectoryStore
from components.common.entry import run_plan, stage_main
from components.common.errors import InputError, UserError
from components.common.inputs import split_uri
from components.common.stage import EXPECTED_KEY, InputSpec, Result, StageSpec, make_plan


class ToyConfig(Config):
    """A toy stage."""

    size: int = 1


class GatedConfig(ToyConfig):
    """A toy stage with a gate."""

    require_improvement: Annotated[bool, Neutral()] = False


SPEC = StageSpec(name="sft", result_version=1, config=ToyConfig, inputs={"model": InputSpec(("model",))})


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    return folder


@pytest.fixture
def arguments(tmp_path, model):
    config = tmp_path / "run.yaml"
    config.write_text("sft: {size: 2}")
    return ["--config", str(config), "--input", f"model={model}", "--output", str(tmp_path / "store")]


def make(job):
    (job.out / "weights").write_text(str(job.config.size))
    return Result("adapter", {"loss": 1.0})


def test_a_stage_runs_commits_and_is_then_skipped(tmp_path, arguments, capsys):
    calls = []

    def load_run():
        calls.append(1)
        return make

    assert stage_main(SPEC, load_run, arguments) == 0
    assert stage_main(SPEC, load_run, arguments) == 0
    assert len(calls) == 1
    assert "finished before" in capsys.readouterr().out
    (manifest,) = (tmp_path / "store" / "artifacts" / "sft").glob("*/manifest.json")
    fields = json.loads(manifest.read_text())
    assert fields["config"] == {"size": 2}
    assert fields["parents"]["model"]["digest"].startswith("sha256:")


def test_a_failing_stage_leaves_nothing_but_its_log(tmp_path, arguments, capsys):
    def fail(job):
        (job.out / "half").write_text("")
        raise UserError("row 7 is broken", where="x.jsonl line 7")

    assert stage_main(SPEC, lambda: fail, arguments) == 2
    assert capsys.readouterr().err == "error: x.jsonl line 7: row 7 is broken\n"
    left = {path.name: path for path in (tmp_path / "store").rglob("*") if path.is_file()}
    assert left.keys() == {"log.txt", "heartbeat.json"}
    assert left["log.txt"].read_text().endswith("sft ✗ x.jsonl line 7: row 7 is broken\n")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (["--set", "sft.sise=3"], 2, "sft.sise: unknown field (did you mean size?)"),
        (["--set", "sftt.size=3"], 2, "unknown section sftt"),
        (["--input", "modle=/x"], 2, "unknown input modle"),
        (["--input", "model=/nowhere"], 3, "neither an artifact nor a folder"),
    ],
)
def test_user_mistakes_end_with_a_code_and_one_line(arguments, change, code, words, capsys):
    assert stage_main(SPEC, lambda: make, [*arguments, *change]) == code
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("\n") == 1


def test_an_output_uri_is_used_as_given_but_not_for_another_key(tmp_path, arguments):
    uri = str(tmp_path / "store" / "artifacts" / "sft" / "mine")
    assert stage_main(SPEC, lambda: make, [*arguments, "--output", uri]) == 0
    assert stage_main(SPEC, lambda: make, [*arguments, "--output", uri]) == 0
    assert stage_main(SPEC, lambda: make, [*arguments, "--output", uri, "--set", "sft.size=3"]) == 3


def test_a_plain_folder_is_known_by_its_content(tmp_path, model):
    def key():
        return make_plan(SPEC, {}, "x", {"model": str(model)}, str(tmp_path / "s")).key

    before = key()
    assert key() == before
    (model / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "x": 1}))
    assert key() != before


def test_an_artifact_is_fetched_when_its_folder_is_looked_at(tmp_path, arguments, monkeypatch):
    assert stage_main(SPEC, lambda: make_model, arguments) == 0
    (made,) = (tmp_path / "store" / "artifacts" / "sft").glob("*")
    fetched = []
    fetch = DirectoryStore.fetch
    monkeypatch.setattr(DirectoryStore, "fetch", lambda store, prefix: fetched.append(prefix) or fetch(store, prefix))
    plan = make_plan(SPEC, {}, "x", {"model": str(made)}, str(tmp_path / "other"))
    assert plan.parents()["model"].digest.startswith("sha256:")
    assert fetched == []
    plan.verify_inputs()
    assert plan.inputs["model"].folder == made
    assert fetched == [f"artifacts/sft/{made.name}"]


def test_a_wrong_kind_is_refused(tmp_path, model):
    (model / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="is of kind adapter, the input model takes model"):
        make_plan(SPEC, {}, "x", {"model": str(model)}, str(tmp_path))


def test_an_altered_input_is_refused_before_anything_runs(tmp_path, arguments, model):
    assert stage_main(SPEC, lambda: make_model, [*arguments]) == 0
    (made,) = (tmp_path / "store" / "artifacts" / "sft").glob("*")
    (made / "config.json").write_text("[]")
    plan = make_plan(SPEC, {"seed": 1}, "x", {"model": str(made)}, str(tmp_path / "other"))
    with pytest.raises(InputError, match="was altered"):
        run_plan(plan, make)


def make_model(job):
    (job.out / "config.json").write_text("{}")
    return Result("model")


def test_uris_are_split_at_artifacts():
    assert split_uri("/a/artifacts/sft/k/") == ("/a", "artifacts/sft/k", "")
    assert split_uri("s3://b/r/artifacts/data-sft/k") == ("s3://b/r", "artifacts/data-sft/k", "")
    assert split_uri("artifacts/sft/k") == (".", "artifacts/sft/k", "")
    assert split_uri("/a/artifacts/source/k/sft/x") == ("/a", "artifacts/source/k", "sft/x")
    for plain in ("/models/llama", "/x/artifacts/mystore", "/x/artifacts/models/llama", "/x/artifacts"):
        assert split_uri(plain) == (plain, "", "")


def test_a_store_below_a_folder_called_artifacts_is_a_store(tmp_path, arguments):
    precious = tmp_path / "artifacts" / "mystore" / "precious"
    precious.parent.mkdir(parents=True)
    precious.write_text("x")
    assert stage_main(SPEC, lambda: make, [*arguments, "--output", str(precious.parent)]) == 0
    assert precious.read_text() == "x"
    assert len(list(precious.parent.glob("artifacts/sft/*/manifest.json"))) == 1


@pytest.mark.parametrize("below", ["artifacts/rl/mine", "artifacts/sft/mine/deeper"])
def test_an_output_uri_of_another_stage_is_refused(tmp_path, arguments, below):
    assert stage_main(SPEC, lambda: make, [*arguments, "--output", str(tmp_path / below)]) == 2


def test_a_result_that_is_no_number_is_refused(tmp_path, arguments, capsys):
    def diverge(job):
        (job.out / "weights").write_text("")
        return Result("adapter", {"before": {"loss": 1.0}, "after": {"loss": float("nan")}})

    assert stage_main(SPEC, lambda: diverge, arguments) == 2
    assert "after.loss is no number" in capsys.readouterr().err
    assert not list((tmp_path / "store").rglob("manifest.json"))


def test_a_gate_looks_at_finished_results_too(arguments, capsys):
    spec = dataclasses.replace(SPEC, config=GatedConfig, main_metric="loss", higher_is_better=False)

    def worse(job):
        (job.out / "weights").write_text("")
        return Result("adapter", {"before": {"loss": 1.0}, "after": {"loss": 2.0}})

    required = [*arguments, "--set", "sft.require_improvement=true"]
    assert stage_main(spec, lambda: worse, required) == 2
    assert stage_main(spec, lambda: worse, arguments) == 0
    assert stage_main(spec, lambda: worse, required) == 2
    assert "held-out loss is no better than before: 1 → 2" in capsys.readouterr().err


def test_inputs_of_other_vocabularies_are_refused(tmp_path):
    def make_with(identity):
        def run(job):
            (job.out / "config.json").write_text(json.dumps({"x": identity}))
            return Result("model", {}, {"vocabulary": identity})

        return run

    spec = dataclasses.replace(SPEC, name="base", inputs={})
    made = {}
    for identity in ("a", "b"):
        plan = make_plan(spec, {"seed": ord(identity)}, "x", {}, str(tmp_path))
        run_plan(plan, make_with(identity))
        made[identity] = plan.uri
    both = dataclasses.replace(SPEC, inputs={"model": InputSpec(("model",)), "before": InputSpec(("model",))})
    plan = make_plan(both, {}, "x", {"model": made["a"], "before": made["b"]}, str(tmp_path))
    with pytest.raises(InputError, match="has another vocabulary than the input"):
        run_plan(plan, make)


def test_an_image_of_another_version_than_the_launchers_is_named(tmp_path, arguments, model, monkeypatch, capsys):
    key = make_plan(SPEC, {"sft": {"size": 2}}, "", {"model": str(model)}, str(tmp_path / "store")).key
    monkeypatch.setenv(EXPECTED_KEY, "0123456789abcdef")
    assert stage_main(SPEC, lambda: make, arguments) == 2
    assert f"the launcher made the key 0123456789abcdef for this stage and its image {key}" in capsys.readouterr().err
    assert not list((tmp_path / "store").glob("*"))
    monkeypatch.setenv(EXPECTED_KEY, key)
    assert stage_main(SPEC, lambda: make, arguments) == 0
