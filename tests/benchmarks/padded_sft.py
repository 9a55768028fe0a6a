"""transformers' Trainer with every row padded to the full length: a peer of bench_sft.

    python -m tests.benchmarks.padded_sft FOLDER BASE OUT BATCH EPOCHS SEED

A process of its own: FOLDER has the conversations, OUT gets the adapter.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_sft import ALPHA, MAX_LENGTH, RANK, RATE, TARGETS


def train(folder: str, base: str, out: str, batch: str, epochs: str, seed: str) -> None:
    """Trains on rows padded to `MAX_LENGTH`, with labels on the answers."""
    import transformers
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model

    transformers.set_seed(int(seed))
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    adapter = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    model = get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32"), adapter)

    def encode(row: dict[str, Any]) -> dict[str, list[int]]:
        turns = row["prompt"] + row["completion"]
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        answer = tokenizer.apply_chat_template(turns, tokenize=False)[len(prompt) :].rstrip("\n")
        given, learnt = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer))
        ids, rest = given + learnt, MAX_LENGTH - len(given) - len(learnt)
        return {
            "input_ids": ids + [tokenizer.pad_token_id] * rest,
            "attention_mask": [1] * len(ids) + [0] * rest,
            "labels": [-100] * len(given) + learnt + [-100] * rest,
        }

    with Path(folder, "conversations", "train.jsonl").open() as file:
        rows = Dataset.from_list([json.loads(line) for line in file])
    arguments = transformers.TrainingArguments(
        output_dir=out,
        per_device_train_batch_size=int(batch),
        num_train_epochs=int(epochs),
        learning_rate=RATE,
        lr_scheduler_type="linear",
        seed=int(seed),
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    rows = rows.map(encode, remove_columns=["prompt", "completion"])
    collate = transformers.default_data_collator
    transformers.Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate).train()
    model.save_pretrained(out)


if __name__ == "__main__":
    train(*sys.argv[1:])
