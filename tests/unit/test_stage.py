"""The stage contract: inputs are found and checked, keys decide, failures leave nothing behind."""

import json

import pytest

from components.common.config import Config
from components.common.entry import run_plan, stage_main
from components.common.errors import InputError, UserError
from components.common.stage import InputSpec, Result, StageSpec, make_plan, split_uri


class ToyConfig(Config):
    """A toy stage."""

    size: int = 1


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


def test_a_failing_stage_leaves_nothing(tmp_path, arguments, capsys):
    def fail(job):
        (job.out / "half").write_text("")
        raise UserError("row 7 is broken", where="x.jsonl line 7")

    assert stage_main(SPEC, lambda: fail, arguments) == 2
    assert capsys.readouterr().err == "error: x.jsonl line 7: row 7 is broken\n"
    assert [p for p in (tmp_path / "store").rglob("*") if p.is_file()] == []


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
    assert split_uri("/a/artifacts/sft/k/") == ("/a", "artifacts/sft/k")
    assert split_uri("s3://b/r/artifacts/sft/k") == ("s3://b/r", "artifacts/sft/k")
    assert split_uri("/models/llama") == ("/models/llama", "")
