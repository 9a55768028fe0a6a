"""What prepare brings into the store, and what it refuses to."""

import json
from pathlib import Path

import pytest
import yaml

from components.common.errors import InputError, UserError
from components.prepare.__main__ import main
from components.prepare.base import gguf_file, source_digest
from tests.stages.conftest import TOY
from tests.support.models import tiny_model


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
    assert prepare(tmp_path, "--data", str(tmp_path / "d"), "--pipeline", "dpo") == 2
    assert "no data for pretrain, dpo" in capsys.readouterr().err
    without = "pretrain.enabled=false"
    assert prepare(tmp_path, "--data", str(tmp_path / "d"), "--pipeline", "dpo", "--overrides", without) == 2
    assert "set data.reward.sources=[PATH], or dpo.enabled=false" in capsys.readouterr().err
    assert not (tmp_path / "store" / "artifacts").exists()


def test_a_model_with_missing_weights_is_refused(tmp_path, tokenizer, capsys):
    from safetensors.torch import load_file, save_file

    tiny_model("llama", tokenizer).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(weights).items() if "layers.1." not in name}
    save_file(tensors, weights, metadata={"format": "pt"})
    assert prepare(tmp_path, "--model", str(tmp_path / "m")) == 3
    assert "weights are missing" in capsys.readouterr().err
    weights.write_bytes(weights.read_bytes()[:-100])
    assert prepare(tmp_path, "--model", str(tmp_path / "m")) == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(tmp_path, tokenizer, capsys):
    tiny_model("llama", tokenizer).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "tokenizer.json").read_text())
    extra = {**config["added_tokens"][0], "id": len(tokenizer), "content": "<|new|>"}
    config["added_tokens"].append(extra)
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(config))
    assert prepare(tmp_path, "--model", str(tmp_path / "m")) == 3
    size = len(tokenizer)
    assert f"the tokenizer has {size + 1} tokens, the embedding {size} rows" in capsys.readouterr().err


def test_a_model_that_needs_its_own_code_is_refused_without_asking(tmp_path, tokenizer, capsys, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("the user was asked whether to run foreign code"))
    tokenizer.save_pretrained(tmp_path / "m")
    code = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
    (tmp_path / "m" / "modeling_own.py").write_text(code)
    names = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    (tmp_path / "m" / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": names}))
    assert prepare(tmp_path, "--model", str(tmp_path / "m")) == 3
    assert "needs Python code that comes with it, which is never run" in capsys.readouterr().err
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("tests.support.toy:exakt", "toy.py has no exakt; did you mean exact?"),
        ("tests.support.nowhere:exact", "no such module"),
    ],
)
def test_a_reward_function_that_is_not_there_is_found_before_anything_is_made(tmp_path, capsys, function, words):
    assert prepare(tmp_path, "--overrides", f"rl.reward_functions=[{{function: '{function}'}}]") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
    off = "rl.enabled=false\nevaluate.enabled=false\nsft.enabled=false\nreward.enabled=false\npretrain.enabled=false"
    model = str(tmp_path / "nowhere" / "x.gguf")
    assert (
        prepare(tmp_path, "--model", model, "--overrides", f"rl.reward_functions=[{{function: '{function}'}}]\n{off}")
        == 3
    )


def test_a_served_model_stops_at_end_of_turn(tmp_path, tokenizer):
    model = tiny_model("llama", tokenizer)
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|im_start|>"}))
    assert prepare(tmp_path, "--model", str(tmp_path / "m")) == 0
    base = Path(yaml.safe_load((tmp_path / "store/runs/r/config.yaml").read_text())["model"]["source"])
    stops = json.loads((base / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in stops


def test_a_missing_model_is_an_input_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="neither a local folder nor a model that the hub gives us"):
        source_digest("nobody/nothing")


def test_a_file_in_a_package_is_found_without_importing_it():
    assert gguf_file("package:tests/__init__.py").name == "__init__.py"
    with pytest.raises(InputError, match="no such file"):
        gguf_file("package:tests/x.gguf")
    with pytest.raises(InputError, match="no such file"):
        gguf_file("nowhere.gguf")
    assert gguf_file("owner/name") is None
    with pytest.raises(UserError, match="pip install --no-deps no-such-package"):
        gguf_file("package:no_such_package/x.gguf")


def test_a_builder_without_its_package_says_how_to_install_it(tmp_path, capsys):
    override = "data.builder={function: 'tests.support.toy:write_sources', packages: [no-such-package]}"
    assert prepare(tmp_path, "--overrides", override) == 2
    assert "no-such-package: is not installed" in capsys.readouterr().err
