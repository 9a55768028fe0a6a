"""What a forward pass keeps for the backward pass, and what comes and goes meanwhile, counted tensor by tensor.

Autograd keeps what a gradient will need: the inputs of what is trained, and both sides of every product of two things
that depend on it. A frozen linear layer needs only its weight; an adapter beside it needs the layer's input.
`tests/stages/test_memory_model.py` compares with what torch counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.plan.architecture import NORMED, Architecture, Linear

FLOAT32 = 4


@dataclass(frozen=True)
class Numerics:
    """How a stage computes.

    Attributes:
        bytes: Of a number in the layers' arithmetic: 2 in float16, 4 in float32.
        quantised: Whether the frozen linear layers are kept in four bits.
        r: Rank of the adapters; 0 trains all parameters.
        target_modules: Names of the adapted layers, or `all-linear`.
        checkpointing: Whether layers are computed anew in the backward pass.
        shards: Processes among which the parameters are split; 1: each has all of them.
    """

    bytes: int = 2
    quantised: bool = False
    r: int = 16
    target_modules: str | tuple[str, ...] = "all-linear"
    checkpointing: bool = False
    shards: int = 1

    @property
    def mixed(self) -> bool:
        """Whether autocast makes copies in half precision."""
        return self.bytes < FLOAT32

    @property
    def full(self) -> bool:
        """Whether all parameters are trained; they are float32 then."""
        return self.r == 0

    @property
    def master(self) -> bool:
        """Whether layers compute with trained float32 weights; split ones are gathered in half precision."""
        return self.full and self.shards == 1

    @property
    def stream(self) -> int:
        """Bytes of a number in the residual stream."""
        return FLOAT32 if self.master else self.bytes


@dataclass(frozen=True)
class Batch:
    """Rows of one width that are computed at once; the width counts padding."""

    rows: int
    length: int

    @property
    def tokens(self) -> int:
        """All positions."""
        return self.rows * self.length


def kept(model: Architecture, numerics: Numerics, batch: Batch) -> int:
    """Bytes that live from the forward to the backward pass of a model without its head."""
    hidden = model.hidden_size
    final = hidden * numerics.bytes + (FLOAT32 * hidden if numerics.full else 0)
    mask = batch.rows * batch.length**2 if not model.alibi else 0  # boolean, shared by all layers
    if numerics.checkpointing:
        first = FLOAT32 * hidden  # the last norm's input; without checkpoints the first layer's makes up for it
        inputs = model.layers * hidden * numerics.stream
        return batch.tokens * (inputs + final + first) + mask
    return batch.tokens * final + model.layers * layer_kept(model, numerics, batch) + mask + _casts(model, numerics)


def layer_kept(model: Architecture, numerics: Numerics, batch: Batch) -> int:
    """Bytes that one block keeps, its float16 copies of trained weights aside."""
    return batch.tokens * (
        _norms(model, numerics)
        + _attention(model, numerics, batch.length)
        + _feed_forward(model, numerics)
        + _inputs(model, numerics)
    )


def backward_transient(model: Architecture, numerics: Numerics, batch: Batch) -> int:
    """Bytes that come beside what was kept: gradients of activations where a block is widest, and a block anew."""
    copies = FLOAT32 + numerics.bytes if numerics.mixed and not numerics.quantised else 0  # on the way through casts
    wide = model.intermediate_size * (2 * numerics.bytes + copies)
    scores = model.heads * batch.length * (2 * FLOAT32 + numerics.bytes) if model.alibi else 0
    anew = layer_kept(model, numerics, batch) + _casts(model, numerics) // model.layers
    block = anew if numerics.checkpointing else 0
    return batch.tokens * max(wide, scores) + block + dequantised(model, numerics)


def forward_transient(model: Architecture, numerics: Numerics, batch: Batch, *, adapters: bool = True) -> int:
    """Bytes that a forward pass without gradients needs at its widest.

    Args:
        model: The model.
        numerics: How it computes.
        batch: Rows computed at once.
        adapters: Whether adapters are on, which copy their layers' inputs.
    """
    width, inner = numerics.bytes, model.intermediate_size
    copies = FLOAT32 + width if adapters and numerics.mixed and not numerics.quantised else 0
    # Activation, product and either factor or, with an adapter, its output before and after scaling.
    product = inner * max((4 if adapters else 3) * width, width + copies)
    stream = (3 * model.hidden_size + 2 * model.head_dim) * numerics.stream
    scores = model.heads * batch.length * (2 * FLOAT32 + width) if model.alibi else 0
    mask = batch.rows * batch.length**2 * (1 + width) if not model.alibi else 0
    casts = _casts(model, numerics) if adapters or numerics.full else 0
    return batch.tokens * (stream + max(product, scores)) + mask + casts + dequantised(model, numerics)


def dequantised(model: Architecture, numerics: Numerics) -> int:
    """A four-bit layer's weights are written out for each product, one layer at a time."""
    widest = max(linear.width * linear.out for linear in model.linears)
    return widest * numerics.bytes if numerics.quantised else 0


def _norms(model: Architecture, numerics: Numerics) -> int:
    """Each norm keeps its input in float32; one with a trained weight, unless it is bloom's, what it weighs as well."""
    each = FLOAT32 * (2 if numerics.full and not model.alibi else 1)
    heads = model.query_size + model.key_size if model.model_type in NORMED else 0
    return each * (2 * model.hidden_size + heads)


def _attention(model: Architecture, numerics: Numerics, length: int) -> int:
    width = numerics.bytes
    if model.alibi:  # queries, keys, values; probabilities in float32 and, where it computes in half, that too
        return 3 * model.hidden_size * width + model.heads * length * (FLOAT32 + (width if numerics.mixed else 0))
    # Queries, keys and values for every head, the output, a sum for each head; a row of the mask as numbers.
    return 4 * model.query_size * width + model.heads * FLOAT32 + length * width


def _feed_forward(model: Architecture, numerics: Numerics) -> int:
    """A gated one keeps gate, activation and what it is multiplied by; bloom's, what goes into the activation."""
    return (1 if model.alibi else 3) * model.intermediate_size * numerics.bytes


def _inputs(model: Architecture, numerics: Numerics) -> int:
    """What trained layers and adapters keep of their inputs, and adapters inside themselves."""
    targets = model.linears if numerics.full else model.lora_targets(numerics.target_modules)
    by_input: dict[str, list[Linear]] = {}
    for linear in targets:
        by_input.setdefault(linear.reads, []).append(linear)
    kept_inputs = sum(_input(model, numerics, name, readers) for name, readers in by_input.items())
    return kept_inputs + len(targets) * numerics.r * numerics.bytes


def _input(model: Architecture, numerics: Numerics, name: str, readers: list[Linear]) -> int:
    width = readers[0].width
    # PEFT casts an input to the adapter's float32, and autocast back again, for every adapter anew; a trained layer
    # reads what a norm gives in float32 through a copy of its own.
    after_norm = name in ("attention input", "feed-forward input")
    casts = not numerics.full or (numerics.master and after_norm)
    if numerics.mixed and not numerics.quantised and casts:
        return len(readers) * width * numerics.bytes
    held = name == "attention output" and not model.alibi  # attention itself keeps its output
    return 0 if held else width * numerics.bytes


def _casts(model: Architecture, numerics: Numerics) -> int:
    """Copies in half precision of trained weights, which autocast keeps until the backward pass has used them."""
    if not numerics.mixed or (numerics.full and not numerics.master):
        return 0
    trained = model.linear_parameters if numerics.full else model.lora_parameters(numerics.r, numerics.target_modules)
    return trained * numerics.bytes


def kv_cache(model: Architecture, numerics: Numerics, rows: int, positions: int) -> int:
    """Keys and values of all layers for so many rows and positions."""
    return 2 * model.layers * model.key_size * numerics.bytes * rows * positions
