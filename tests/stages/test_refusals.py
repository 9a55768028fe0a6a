"""What does not belong together is refused: exit code 2 or 3, one line, nothing left behind."""

import json
import shutil

import pytest

from tests.support.commands import left_behind, python


@pytest.fixture
def merge(toy_run, tmp_path):
    def run(base, adapter, *arguments):
        given = ["--config", str(toy_run.config), "--input", f"base={base}", "--input", f"adapter={adapter}"]
        result = python("-m", "components.merge", *given, "--output", str(tmp_path / "out"), *arguments)
        written = left_behind(tmp_path / "out")
        return result, written

    return run


def check(result, written, code, words):
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert written == []


def test_an_adapter_on_the_wrong_base(toy_run, merge):
    result, written = merge(toy_run.folder("prepare"), toy_run.folder("sft"))
    check(result, written, 3, "was trained on")


def test_an_altered_artifact(toy_run, merge, tmp_path):
    copy = tmp_path / "store" / "artifacts" / "sft" / toy_run.folder("sft").name
    shutil.copytree(toy_run.folder("sft"), copy)
    weights = copy / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    result, written = merge(toy_run.folder("merge-pretrain"), copy)
    check(result, written, 3, "adapter_model.safetensors: was altered")


def test_an_unfinished_artifact(toy_run, merge, tmp_path):
    copy = tmp_path / "store" / "artifacts" / "sft" / "x"
    shutil.copytree(toy_run.folder("sft"), copy)
    (copy / "manifest.json").unlink()
    result, written = merge(toy_run.folder("merge-pretrain"), copy)
    check(result, written, 3, "not a complete artifact")


def test_a_model_where_an_adapter_is_wanted(toy_run, merge):
    result, written = merge(toy_run.folder("prepare"), toy_run.folder("merge-sft"))
    check(result, written, 3, "the input adapter takes adapter")


def test_a_typo_in_the_configuration(toy_run, merge):
    result, written = merge(toy_run.folder("prepare"), toy_run.folder("pretrain"), "--set", "merge.worker=1")
    check(result, written, 2, "did you mean workers?")


def run_rl(toy_run, tmp_path, reward, *inputs):
    given = ["--config", str(toy_run.config), "--set", "rl.max_steps=1", "--output", str(tmp_path / "out")]
    given += ["--input", f"dataset={toy_run.dataset('rl')}", "--input", f"reward={reward}"]
    return python("-m", "components.rl", *given, *inputs)


def test_rl_refuses_a_reward_adapter_of_another_base_unless_it_gets_the_merged_model(toy_run, tmp_path):
    base = ["--input", f"model={toy_run.folder('merge-pretrain')}"]
    result = run_rl(toy_run, tmp_path, toy_run.folder("reward"), *base)
    assert result.returncode == 3
    assert "was trained on another base" in result.stderr
    merged = ["--input", f"reward_model={toy_run.folder('merge-reward')}"]
    result = run_rl(toy_run, tmp_path, toy_run.folder("reward"), *base, *merged)
    assert result.returncode == 0, result.stderr
    assert "as a separate model" in result.stdout


def test_rl_refuses_a_reward_model_that_lost_its_head(toy_run, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "reward"
    shutil.copytree(toy_run.folder("reward"), copy)
    (copy / "manifest.json").unlink()
    tensors = load_file(copy / "adapter_model.safetensors")
    name = "base_model.model.score.weight"
    save_file({**tensors, name: -tensors[name]}, copy / "adapter_model.safetensors")
    result = run_rl(toy_run, tmp_path, copy, "--input", f"model={toy_run.folder('merge-sft')}")
    assert result.returncode == 3
    assert "does not score as it did when it was trained" in result.stderr
    assert not list((tmp_path / "out").rglob("manifest.json"))


def test_a_dataset_of_another_stage(toy_run, tmp_path):
    given = ["--config", str(toy_run.config), "--output", str(tmp_path / "out")]
    inputs = ["--input", f"model={toy_run.folder('merge-sft')}", "--input", f"dataset={toy_run.dataset('sft')}"]
    result = python("-m", "components.reward", *given, *inputs)
    check(
        result,
        left_behind(tmp_path / "out"),
        3,
        "was made by data-sft, the input dataset takes what data-reward makes",
    )


def test_a_gate_makes_no_improvement_an_error(toy_run, tmp_path):
    settings = ["--set", "sft.require_improvement=true", "--set", "sft.learning_rate=1e-12", "--set", "sft.max_steps=1"]
    given = ["--config", str(toy_run.config), "--output", str(tmp_path / "out"), *settings]
    inputs = ["--input", f"model={toy_run.folder('merge-sft')}", "--input", f"dataset={toy_run.dataset('sft')}"]
    result = python("-m", "components.sft", *given, *inputs)
    assert result.returncode == 2
    assert "held-out loss is no better than before" in result.stderr


def test_the_termination_log_holds_the_same_words(toy_run, tmp_path):
    log = tmp_path / "termination.json"
    given = ["--config", str(toy_run.config), "--output", str(tmp_path / "out"), "--input", "base=/nowhere"]
    result = python("-m", "components.merge", *given, "--input", "adapter=/nowhere", RLHF_TERMINATION_LOG=str(log))
    fields = json.loads(log.read_text())
    assert result.returncode == fields["code"] == 3
    assert fields["where"] == "/nowhere"
