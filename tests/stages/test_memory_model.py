"""What `rlhf plan` predicts for a stage against the peak that torch's memory tracker counts while the stage trains."""

from __future__ import annotations

import pytest
import transformers

from components.prepare.config import RunConfig
from pipelines.plan.architecture import read_architecture
from pipelines.plan.stages import Machine, stage_memory
from tests.support import memory

HERE = Machine(processes=1, half=False)
VOCAB, LENGTH = 32000, 128
SHAPE = {"vocab_size": VOCAB, "pad_token_id": 0, "tie_word_embeddings": True, "max_position_embeddings": 512}
SIZES = {
    "llama, 54 million": transformers.LlamaConfig(
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        **SHAPE,
    ),
    "qwen3, 87 million": transformers.Qwen3Config(
        hidden_size=640,
        intermediate_size=1920,
        num_hidden_layers=12,
        num_attention_heads=10,
        num_key_value_heads=5,
        head_dim=64,
        **SHAPE,
    ),
    "bloom, 78 million": transformers.BloomConfig(hidden_size=576, n_layer=15, n_head=9, **SHAPE),
}
MEASURE = {
    "pretrain": memory.peak_packed,
    "sft": memory.peak_packed,
    "reward": memory.peak_reward,
    "dpo": memory.peak_dpo,
    "rl": memory.peak_rl,
    "evaluate": memory.peak_evaluate,
}
# Two optimizer steps of two micro-batches: gradients and the optimizer's moments are there at the peak.
TRAINING = {"max_steps": 2, "train_batch_size": 4, "per_device_train_batch_size": 2, "eval_tokens": LENGTH}
RUN = {
    "data": {
        **{part: {"max_length": LENGTH} for part in ("pretrain", "sft", "reward")},
        "rl": {"max_prompt_length": 64},
    },
    "pretrain": TRAINING,
    "sft": {**TRAINING, "num_eval_prompts": 0, "activation_checkpointing": True},
    "reward": TRAINING,
    "dpo": {**TRAINING, "num_eval_prompts": 0},
    "rl": {
        "max_steps": 1,
        "rollout_batch_size": 16,
        "num_mini_batches": 2,
        "num_ppo_epochs": 1,
        "per_device_train_batch_size": 8,
        "max_completion_length": 16,
        "eval_tokens": 512,
    },
    "evaluate": {"num_eval_prompts": 8, "max_completion_length": 8, "eval_tokens": 600},
}
STATIC = ("weights", "adapters", "optimizer")


def check(stage, size, tokenizer, tmp_path, **changes):
    config = SIZES[size]
    run = RunConfig.model_validate({**RUN, stage: {**RUN[stage], **changes}})
    model = read_architecture(config.to_dict(), size)
    base = memory.save_base(config, tokenizer, tmp_path / "base")
    work = tmp_path / "work"
    work.mkdir()
    measured = MEASURE[stage](memory.StubJob(getattr(run, stage), stage, work, base), run, LENGTH, VOCAB)
    predicted = stage_memory(stage, model, run, HERE).peak
    assert predicted.total / measured == pytest.approx(1, abs=0.15), (predicted, measured)
    # Weights are easily counted: what comes and goes must be right as well.
    static = sum(predicted.parts.get(name, 0) for name in STATIC)
    assert (predicted.total - static) / (measured - static) == pytest.approx(1, abs=0.3), (predicted, measured)


@pytest.mark.parametrize("stage", MEASURE)
def test_the_peak_is_foreseen(stage, tokenizer, tmp_path):
    check(stage, "llama, 54 million", tokenizer, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("size", list(SIZES)[1:])
@pytest.mark.parametrize("stage", MEASURE)
def test_the_peak_of_other_families_is_foreseen(stage, size, tokenizer, tmp_path):
    check(stage, size, tokenizer, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("size", SIZES)
def test_the_peak_of_training_everything_is_foreseen(size, tokenizer, tmp_path):
    check("sft", size, tokenizer, tmp_path, lora=None, activation_checkpointing=False)
