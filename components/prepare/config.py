"""The whole configuration of a run, and the contracts of what prepare makes: sources and a base model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from components.common.config import Config, Neutral
from components.common.stage import InputSpec, StageSpec
from components.data.config import Builder, DataConfig
from components.dpo.config import DpoConfig
from components.evaluate.config import EvaluateConfig
from components.launcher.config import LauncherConfig
from components.merge.config import MergeConfig
from components.pretrain.config import SPEC as PRETRAIN
from components.pretrain.config import PretrainConfig
from components.reward.config import RewardConfig
from components.rl.config import RlConfig
from components.sft.config import SftConfig


class ScratchModel(Config):
    """A small model with its own tokenizer, trained on the example's base documents."""

    model_type: Literal["llama", "qwen2", "qwen3", "bloom"] = Field(
        "llama", description="family, under transformers' name; bloom cannot share rows, so it trains on one at a time"
    )
    vocab_size: int = Field(1024, ge=300)
    hidden_size: int = Field(128, ge=8)
    intermediate_size: int | None = Field(
        None, ge=8, description="null: 3 × hidden_size; bloom is always 4 × hidden_size wide"
    )
    num_hidden_layers: int = Field(4, ge=1)
    num_attention_heads: int = Field(4, ge=1)
    max_position_embeddings: int = Field(512, ge=16, description="longest sequence; bloom has no such limit")
    tie_word_embeddings: bool = Field(True, description="one tensor for the input and the output embedding")
    initializer_range: float = Field(
        0.1, gt=0, description="large: LoRA cannot make up for embeddings that stay too short to tell tokens apart"
    )
    max_length: int = Field(256, ge=8, description="tokens in a packed row of its training")
    heldout: float = Field(0.02, gt=0, lt=1, description="share of the base documents that is held out")
    split_by: str | None = Field(None, description="column whose equal values keep documents on one side of the split")
    train: PretrainConfig = PretrainConfig(lora=None, init="scratch", learning_rate=2e-3)

    @model_validator(mode="after")
    def _check(self) -> ScratchModel:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads")
        if self.model_type == "bloom" and self.intermediate_size not in (None, 4 * self.hidden_size):
            raise ValueError("bloom is 4 × hidden_size wide: set intermediate_size: null")
        if self.train.lora is not None or self.train.init != "scratch":
            raise ValueError("train needs lora: null and init: scratch")
        return self


class ModelConfig(Config):
    """The base model."""

    source: Annotated[str, Neutral()] = Field(
        "scratch",
        description="scratch, a folder, an artifact URI, a hub name, a .gguf file, or package:NAME/FILE.gguf",
    )
    digest: str = Field("", description="hash of the source's content; filled in when the configuration is resolved")
    chat_template: str | None = Field(None, description="jinja text that replaces the tokenizer's own template")
    dtype: Literal["keep", "float16", "float32"] = Field("keep", description="type in which the base is stored")
    scratch: ScratchModel = ScratchModel()

    def for_key(self) -> dict[str, Any]:
        """Leaves out how a model from scratch would be made when none is."""
        fields = super().for_key()
        if self.source != "scratch":
            return {name: value for name, value in fields.items() if name != "scratch"}
        return {**fields, "pretrain_version": PRETRAIN.result_version}


class RunConfig(Config):
    """Everything a run is told. Each step reads its own section."""

    seed: int = Field(0, ge=0, lt=2**32)
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    pretrain: PretrainConfig = PretrainConfig()
    sft: SftConfig = SftConfig()
    reward: RewardConfig = RewardConfig()
    rl: RlConfig = RlConfig()
    dpo: DpoConfig = DpoConfig()
    merge: MergeConfig = MergeConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    launcher: LauncherConfig = LauncherConfig()

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if self.rl.enabled and not self.reward.enabled:
            raise ValueError("rl needs a reward model: set reward.enabled=true or rl.enabled=false")
        return self


SOURCES = StageSpec(name="source", result_version=1, config=Builder, inputs={}, section="data.builder")
BASE = StageSpec(
    name="base",
    result_version=1,
    config=ModelConfig,
    inputs={"sources": InputSpec(("source",), required=False)},
    section="model",
)
