"""A model's shape, read from its config.json: enough to count its parameters and what its layers keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from components.common.errors import InputError, UserError

# Named like llama: gated feed-forward, rotary positions, RMSNorm, four projections in attention.
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "granite", "olmo2", "internlm3")
BIASED = ("qwen2",)  # biases on queries, keys and values that config.json does not mention
NORMED = ("qwen3",)  # a norm over each head's queries and keys
ALIBI = ("bloom",)


@dataclass(frozen=True)
class Linear:
    """A linear layer: its last name, its input and output width, the tensor it reads, whether it has a bias."""

    name: str
    width: int
    out: int
    reads: str
    bias: bool = False

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.width * self.out + self.out * self.bias


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer.

    Attributes:
        model_type: transformers' name of the family.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the feed-forward layer.
        layers: Number of blocks.
        heads: Attention heads.
        kv_heads: Heads of keys and values; fewer than `heads` with grouped-query attention.
        head_dim: Width of a head.
        vocab_size: Rows of the embedding.
        tied: Whether the head's weight is the embedding's.
        biases: Which linear layers have one: none, `qkv` or `all`.
        known: Whether the family is one whose layers were counted; if not, it is reckoned as a llama.
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    tied: bool
    biases: str = "none"
    known: bool = True

    @property
    def alibi(self) -> bool:
        """Built like bloom: attention is not fused and keeps a score for each pair of positions."""
        return self.model_type in ALIBI

    @property
    def query_size(self) -> int:
        """Width of all queries together."""
        return self.heads * self.head_dim

    @property
    def key_size(self) -> int:
        """Width of all keys together."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The linear layers of one block."""
        hidden, inner, query, key = self.hidden_size, self.intermediate_size, self.query_size, self.key_size
        if self.alibi:
            return (
                Linear("query_key_value", hidden, 3 * hidden, "attention input", bias=True),
                Linear("dense", hidden, hidden, "attention output", bias=True),
                Linear("dense_h_to_4h", hidden, inner, "feed-forward input", bias=True),
                Linear("dense_4h_to_h", inner, hidden, "feed-forward inside", bias=True),
            )
        qkv, rest = self.biases in ("qkv", "all"), self.biases == "all"
        return (
            Linear("q_proj", hidden, query, "attention input", qkv),
            Linear("k_proj", hidden, key, "attention input", qkv),
            Linear("v_proj", hidden, key, "attention input", qkv),
            Linear("o_proj", query, hidden, "attention output", rest),
            Linear("gate_proj", hidden, inner, "feed-forward input"),
            Linear("up_proj", hidden, inner, "feed-forward input"),
            Linear("down_proj", inner, hidden, "feed-forward inside"),
        )

    @property
    def linear_parameters(self) -> int:
        """Of all blocks' linear layers: what LoRA stands on and what four bits shrink."""
        return self.layers * sum(linear.parameters for linear in self.linears)

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding, or of an untied head."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All of them."""
        hidden = self.hidden_size
        norm = 2 * hidden if self.alibi else hidden
        head_norms = 2 * self.head_dim if self.model_type in NORMED else 0
        norms = self.layers * (2 * norm + head_norms) + norm + (norm if self.alibi else 0)
        return self.linear_parameters + (1 if self.tied else 2) * self.embedding_parameters + norms

    def lora_targets(self, wanted: str | Iterable[str] = "all-linear") -> tuple[Linear, ...]:
        """The layers of a block that get an adapter: as `components.common.trainables.lora_targets` finds them.

        Raises:
            UserError: A name matches no layer.
        """
        if wanted == "all-linear":
            return self.linears
        names = {linear.name for linear in self.linears}
        unmatched = sorted(set(wanted) - names)
        if unmatched and self.known:
            raise UserError(
                f"{', '.join(unmatched)} matches no linear layer",
                where="lora.target_modules",
                hint=f"there are {', '.join(sorted(names))}",
            )
        return tuple(linear for linear in self.linears if linear.name in wanted)

    def lora_parameters(self, r: int, wanted: str | Iterable[str] = "all-linear") -> int:
        """Parameters of an adapter of rank r."""
        return self.layers * sum(r * (linear.width + linear.out) for linear in self.lora_targets(wanted))


def read_architecture(fields: Mapping[str, Any], where: str) -> Architecture:
    """Reads the fields of a config.json.

    Raises:
        InputError: Something is missing.
        UserError: It is a mixture of experts, whose layers this does not count.
    """
    text: Mapping[str, Any] = fields.get("text_config") or fields
    model_type = str(fields.get("model_type", ""))
    if any(name in text for name in ("num_local_experts", "num_experts", "n_routed_experts")):
        raise UserError("a mixture of experts cannot be planned", where=where, hint="take a dense model")
    try:
        hidden = int(text.get("hidden_size") or text["n_embd"])
        heads = int(text.get("num_attention_heads") or text["n_head"])
        layers = int(text.get("num_hidden_layers") or text["n_layer"])
        vocab = int(text["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"is no configuration of a causal language model: {error}", where=where, hint="give its config.json"
        ) from error
    inner = int(text.get("intermediate_size") or 4 * hidden)
    return Architecture(
        model_type=model_type,
        hidden_size=hidden,
        intermediate_size=4 * hidden if model_type in ALIBI else inner,
        layers=layers,
        heads=heads,
        kv_heads=heads if model_type in ALIBI else int(text.get("num_key_value_heads") or heads),
        head_dim=int(text.get("head_dim") or hidden // heads),
        vocab_size=vocab,
        tied=bool(text.get("tie_word_embeddings", model_type in ALIBI)),
        biases="qkv" if model_type in BIASED else ("all" if text.get("attention_bias") else "none"),
        known=model_type in (*LLAMA_LIKE, *ALIBI),
    )
