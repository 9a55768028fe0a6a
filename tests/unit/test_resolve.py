"""A run's configuration: presets, layers over them, and what is refused before anything is made."""

import pytest

from components.common.errors import UserError
from components.common.flows import TRAINING_STAGES
from components.data.config import wanted_parts
from components.prepare.resolve import Request, presets, resolve


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


def test_a_pipeline_has_the_stages_that_it_has(tmp_path):
    def on(pipeline):
        config = resolve(Request("tiny-cpu", config="dpo: {beta: 0.2}", pipeline=pipeline))
        stages = [name for name in TRAINING_STAGES if getattr(config, name).enabled]
        return stages, wanted_parts(config.model_dump())

    assert on("rlhf") == (["pretrain", "sft", "reward", "rl"], ["pretrain", "sft", "reward", "rl"])
    assert on("dpo") == (["pretrain", "sft", "dpo"], ["pretrain", "sft", "reward", "rl"])
    request = Request("tiny-cpu", overrides="evaluate.enabled=false\nsft.enabled=false", pipeline="dpo")
    assert wanted_parts(resolve(request).model_dump()) == ["pretrain", "reward"]


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
        (Request("tiny-cpu", overrides="dpo.beta=0.2"), "dpo: the pipeline rlhf has no stage dpo"),
        (Request("tiny-cpu", overrides="rl.beta=1", pipeline="dpo"), "has no stage rl; its stages: pretrain, sft, dpo"),
        (Request("tiny-cpu", pipeline="ppo"), "there is no pipeline 'ppo'; pipelines: rlhf, dpo"),
        (Request("tiny-cpu", overrides="dpo.label_smoothing=0.1", pipeline="dpo"), "has no part in loss_type sigmoid"),
    ],
)
def test_mistakes_are_told(request_, words):
    with pytest.raises(UserError, match=words):
        resolve(request_)


def test_a_folder_without_data_by_name_is_told(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(UserError, match="name its files or folders pretrain, sft, reward, rl"):
        resolve(Request("tiny-cpu", data=str(tmp_path)))


@pytest.mark.parametrize(("text", "seed"), [("seed: 7", -1), ("seed: 3", 7)])
def test_a_configurations_seed_counts_unless_another_is_given(text, seed):
    assert resolve(Request("tiny-cpu", config=text, seed=seed)).seed == 7


def test_rl_without_reward_is_refused_before_anything_runs():
    with pytest.raises(UserError, match="rl needs a reward model"):
        resolve(Request("tiny-cpu", overrides="reward.enabled=false"))
    assert not resolve(Request("tiny-cpu", overrides="reward.enabled=false\nrl.enabled=false")).rl.enabled


def test_another_code_of_a_function_is_another_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "judge_a.py").write_text("def judge(**_): return []\n")
    override = "rl.reward_functions=[{function: 'judge_a:judge'}]"

    def key():
        return resolve(Request("tiny-cpu", overrides=override)).rl.for_key()

    before = key()
    assert key() == before
    (tmp_path / "judge_a.py").write_text("def judge(**_): return [1]\n")
    assert key() != before


@pytest.mark.parametrize("names", [["a:reward"], ["a:same", "b:same"]])
def test_reward_functions_need_names_of_their_own(names):
    functions = ", ".join(f"{{function: '{name}'}}" for name in names)
    with pytest.raises(UserError, match="names of their own"):
        resolve(Request("tiny-cpu", overrides=f"rl.reward_functions=[{functions}]"))


def test_a_default_and_the_same_value_written_out_give_one_key():
    written = resolve(Request("tiny-cpu", overrides="sft.lora.lora_alpha=32.0")).sft.for_key()
    assert str(written) == str(resolve(Request("tiny-cpu")).sft.for_key())
