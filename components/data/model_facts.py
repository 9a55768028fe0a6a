"""What the data step must know of the base model, beside its tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelFacts:
    """What the data step must know of the base.

    Attributes:
        vocab_size: Rows of its embedding.
        max_positions: Longest sequence it has positions for, None if it has no such limit.
        can_pack: Whether attention can stop at a sequence's border inside a row. ALiBi (Press et al. 2021,
            arXiv:2108.12409) counts distances from the row's beginning and ignores position ids.
    """

    vocab_size: int
    max_positions: int | None
    can_pack: bool


def read_model_facts(folder: Path) -> ModelFacts:
    """Reads a model's config.json."""
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = fields.get("text_config", fields)
    alibi = fields["model_type"] in ("bloom", "mpt") or bool(text.get("alibi"))
    positions = None if alibi else text.get("max_position_embeddings")
    return ModelFacts(int(text["vocab_size"]), positions, not alibi)
