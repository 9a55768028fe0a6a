"""A small model made from scratch, so that the example runs where no model can be downloaded.

LoRA on random weights learns nothing: the small model must really be trained before it can be a base. It is trained by
the pretrain stage itself, with all parameters and from random weights.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from components.common.artifacts import Artifact
from components.common.chat import Chat
from components.common.errors import UserError
from components.common.stage import Job, Plan, Result
from components.common.tokenizer import prepare_tokenizer
from components.data.model_facts import read_model_facts
from components.data.readers import read_rows
from components.data.records import Document
from components.data.split import Collection, Side
from components.data.table import build_table, in_rows, split_long
from components.data.tokenise import tokenise_documents
from components.prepare.config import ModelConfig, ScratchModel
from components.pretrain.config import SPEC as PRETRAIN

PAD, TURN, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(job: Job[ModelConfig]) -> Result:
    """Trains a tokenizer and a model on the documents in the sources' folder `base`.

    Raises:
        UserError: There are no such documents.
    """
    if not job.has("sources") or not (job.folder("sources") / "base").is_dir():
        raise UserError(
            "a model from scratch needs documents to learn from",
            where="model.source=scratch",
            hint="set data.builder to one that writes base/, or give model=FOLDER or a hub name",
        )
    documents = job.folder("sources") / "base"
    with tempfile.TemporaryDirectory(prefix="rlhf-scratch-") as folder:
        shape, dataset = Path(folder, "shape"), Path(folder, "dataset")
        tokenizer = make_tokenizer(_texts(documents), job.config.scratch.vocab_size)
        prepare_tokenizer(tokenizer, job.config.chat_template)
        tokenizer.save_pretrained(shape)
        make_config(job.config.scratch, tokenizer).save_pretrained(shape)
        can_pack = read_model_facts(shape).can_pack
        make_dataset(documents, tokenizer, job.config.scratch, dataset, can_pack=can_pack)
        return _train(job, shape, dataset)


def make_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """Trains a byte-level BPE in which every digit is a token of its own, as in llama."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, TURN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The words of the chat template must be cheap too.
    bpe.train_from_iterator([*texts, *["user\n", "assistant\n"] * 200], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=END)
    tokenizer.chat_template = CHATML
    return tokenizer


def make_config(scratch: ScratchModel, tokenizer: Any) -> Any:
    """The model's config.json, under its family's names."""
    from transformers import AutoConfig

    return AutoConfig.for_model(
        scratch.model_type,
        **_shape(scratch),
        dtype="float32",
        vocab_size=len(tokenizer),
        initializer_range=scratch.initializer_range,
        tie_word_embeddings=scratch.tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=Chat(tokenizer).end_of_turn_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _shape(scratch: ScratchModel) -> dict[str, Any]:
    if scratch.model_type == "bloom":  # its width follows from hidden_size, and ALiBi needs no positions
        return {
            "hidden_size": scratch.hidden_size,
            "n_layer": scratch.num_hidden_layers,
            "n_head": scratch.num_attention_heads,
        }
    shape = {
        "hidden_size": scratch.hidden_size,
        "intermediate_size": scratch.intermediate_size or 3 * scratch.hidden_size,
        "num_hidden_layers": scratch.num_hidden_layers,
        "num_attention_heads": scratch.num_attention_heads,
        "num_key_value_heads": scratch.num_attention_heads,
        "max_position_embeddings": scratch.max_position_embeddings,
    }
    if scratch.model_type == "qwen3":  # whose heads are 128 wide unless told otherwise
        shape["head_dim"] = scratch.hidden_size // scratch.num_attention_heads
    return shape


def make_dataset(documents: Path, tokenizer: Any, scratch: ScratchModel, folder: Path, *, can_pack: bool) -> None:
    """Writes training rows, packed if the model can tell the documents of a row apart, and held-out sequences."""
    collection = Collection([read_rows(str(documents))], "pretrain", scratch.heldout, scratch.split_by)
    sides: dict[Side, list[Document]] = {"train": [], "heldout": []}
    for placed in collection:
        assert isinstance(placed.record, Document)
        sides[placed.side].append(placed.record)
    for name, found in sides.items():
        table = build_table(tokenise_documents(tokenizer, found), len(tokenizer))
        table = split_long(table, scratch.max_length)
        in_rows(table, scratch.max_length if can_pack else None).save(folder / name)


def _train(job: Job[ModelConfig], shape: Path, dataset: Path) -> Result:
    from components.pretrain.stage import run

    train = job.config.scratch.train
    inputs = {"model": Artifact("shape", shape, "", "model"), "dataset": Artifact("dataset", dataset, "", "dataset")}
    spec = dataclasses.replace(PRETRAIN, name=job.name)
    plan = Plan(spec, train, job.seed, inputs, job.plan.store, job.plan.prefix, job.plan.key)
    return run(Job(plan, job.out, job.work))


def _texts(folder: Path) -> Iterable[str]:
    rows = [str(row.value) if isinstance(row.value, str) else str(row.value["text"]) for row in read_rows(str(folder))]
    # A sample is enough to find the frequent pieces, and BPE training is what takes time here.
    picked = np.random.default_rng(0).permutation(len(rows))[:20000]
    return [rows[i] for i in picked]
