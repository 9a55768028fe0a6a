"""Mistakes in data."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.mistake_kit import Kit, Mistake

QUESTION = '{"question": "What did the cow say?", "answer": "moo"}\n'
# Shows what the assistant said only in its last turn, as templates do that leave out earlier thoughts.
LAST_TURN_ONLY = (
    "{% for message in messages %}{% if loop.last or message['role'] == 'user' %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _no_mask(kit: Kit) -> int:
    """A conversation under a template by which the assistant's turns cannot be told from what was given."""
    copy = kit.copy(kit.model)
    (copy / "chat_template.jinja").write_text(LAST_TURN_ONLY)
    rows = [[{"role": role, "content": f"moo {i}"} for role in ("user", "assistant") * 2] for i in range(40)]
    return kit.data("".join(json.dumps({"messages": turns}) + "\n" for turns in rows), model=copy, heldout=0.3)


DATA = (
    Mistake(
        "no data for a stage that is on",
        2,
        lambda kit: kit.prepare("--data", str(Path(kit.write("d/sft.jsonl", QUESTION)).parent)),
    ),
    Mistake(
        "a data folder whose files have other names",
        2,
        lambda kit: kit.prepare("--data", str(Path(kit.write("d/train.jsonl", QUESTION)).parent)),
    ),
    Mistake("a missing file", 2, lambda kit: kit.data(sources=str(kit.folder / "sft.jsonl"))),
    Mistake("a name on the hub, offline", 2, lambda kit: kit.data(sources="owner/name")),
    Mistake("an empty file", 2, lambda kit: kit.data("")),
    Mistake("a format that cannot be read", 2, lambda kit: kit.data("x", name="sft.docx")),
    Mistake("broken JSON", 2, lambda kit: kit.data(QUESTION + '{"question": "b", \n')),
    Mistake("text that is not UTF-8", 2, lambda kit: kit.data(QUESTION.encode() + b'{"question": "\xe9"}\n')),
    Mistake("columns of no known form", 2, lambda kit: kit.data('{"qestion": "a", "answr": "b"}\n')),
    Mistake("conversations for pre-training", 2, lambda kit: kit.data(QUESTION, task="pretrain")),
    Mistake("all rows unusable", 2, lambda kit: kit.data('{"question": "a", "answer": ""}\n' * 3)),
    Mistake(
        "chosen and rejected are equal in all rows",
        2,
        lambda kit: kit.data(
            '{"prompt": "a", "chosen": "b", "rejected": "b"}\n' * 3, name="reward.jsonl", task="reward"
        ),
    ),
    Mistake("a template that does not keep the assistant's turns apart", 2, _no_mask),
    Mistake("too few rows to hold some out", 2, lambda kit: kit.data(QUESTION)),
    Mistake(
        "answers longer than a row",
        2,
        lambda kit: kit.data(
            "".join(json.dumps({"question": f"{i}?", "answer": "house " * 200}) + "\n" for i in range(40)),
            max_length=64,
            heldout=0.3,
        ),
    ),
    Mistake("rows longer than the model's positions", 2, lambda kit: kit.data(QUESTION, max_length=4096)),
    Mistake("a column to split by that rows lack", 2, lambda kit: kit.data(QUESTION, split_by="topic")),
    Mistake(
        "a weight for one source only",
        2,
        lambda kit: kit.data(sources=[{"path": "a.jsonl", "weight": 1}, "b.jsonl"]),
    ),
    Mistake(
        "a weight for a source without usable rows",
        2,
        lambda kit: kit.data(sources=[{"path": str(kit.shared / "sources" / "sft"), "weight": 1}] * 2),
    ),
    Mistake(
        "data that changed after the run was prepared",
        2,
        lambda kit: kit.data(sources=[{"path": str(kit.shared / "sources" / "sft"), "digest": "sha256:0"}]),
    ),
)
