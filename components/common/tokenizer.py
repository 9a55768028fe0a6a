"""Tokenizers: loading them ready for all stages, and naming them. No torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from components.common.chat import Chat, Message
from components.common.errors import InputError, UserError
from components.common.manifest import canonical_json

# For a base that brings no template: only its own EOS token, nothing that it would have to learn an embedding for.
PLAIN_TEMPLATE = (
    "{% if bos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token + '\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n' }}"
    "{% else %}{{ message['content'] + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


GENERATION_CONFIG = "generation_config.json"


def load_tokenizer(folder: Path) -> Any:
    """Loads a fast tokenizer, ready for all stages (see `prepare_tokenizer`).

    Raises:
        InputError: The folder holds none.
    """
    return prepare_tokenizer(read_tokenizer(folder))


def read_tokenizer(folder: Path) -> Any:
    """Loads a fast tokenizer as it is.

    Raises:
        InputError: The folder holds none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"no tokenizer can be loaded: {error}", where=str(folder)) from error
    if not tokenizer.is_fast:
        raise InputError("the tokenizer has no fast (Rust) form", where=str(folder), hint="save it as tokenizer.json")
    return tokenizer


def prepare_tokenizer(tokenizer: Any, chat_template: str | None = None) -> Any:
    """Gives a tokenizer what all stages rely on: an EOS token, another pad token and a chat template.

    Args:
        tokenizer: A fast tokenizer; changed in place.
        chat_template: A jinja template that replaces the tokenizer's own.

    Returns:
        The same tokenizer.

    Raises:
        UserError: It has no EOS token, or no token that could pad.
    """
    if tokenizer.eos_token is None:
        raise UserError("the tokenizer has no EOS token", where="tokenizer", hint="set eos_token in its config")
    if chat_template or not tokenizer.chat_template:
        tokenizer.chat_template = chat_template or PLAIN_TEMPLATE
    chat = Chat(tokenizer)
    stops = {tokenizer.eos_token, chat.end_of_turn}
    if tokenizer.pad_token is None or tokenizer.pad_token in stops:
        tokenizer.pad_token = _pad_token(tokenizer, stops)
    return tokenizer


def _pad_token(tokenizer: Any, stops: set[str]) -> str:
    """A token that never ends a turn. Padding is masked everywhere, so any such token of the vocabulary will do."""
    used = Chat(tokenizer).render((Message("user", "a"), Message("assistant", "b")))
    added = sorted(tokenizer.get_added_vocab(), key=tokenizer.convert_tokens_to_ids)
    candidates = [tokenizer.unk_token, *added, tokenizer.bos_token]
    for token in candidates:
        if token and token not in stops and token not in used:
            return str(token)
    if tokenizer.bos_token and tokenizer.bos_token not in stops:
        return str(tokenizer.bos_token)  # begins sequences, never ends them
    raise UserError(
        "no token can serve as padding: every special token ends a turn or is used by the template",
        where="tokenizer",
        hint="add a pad token to the base's tokenizer and resize its embedding",
    )


def stop_token_ids(tokenizer: Any) -> list[int]:
    """Ids of the tokens that end an answer: the EOS token and, if it is another, the template's end-of-turn token.

    Args:
        tokenizer: As `prepare_tokenizer` leaves it.
    """
    return list(dict.fromkeys((int(tokenizer.eos_token_id), Chat(tokenizer).end_of_turn_id)))


def save_generation_config(tokenizer: Any, folder: Path) -> None:
    """Writes where an answer ends and what pads into generation_config.json, by which `generate` and servers go.

    Args:
        tokenizer: As `prepare_tokenizer` leaves it.
        folder: Where to; other fields of a file that is there are kept.
    """
    path = folder / GENERATION_CONFIG
    fields = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    fields |= {"eos_token_id": stop_token_ids(tokenizer), "pad_token_id": int(tokenizer.pad_token_id)}
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def tokenizer_identity(tokenizer: Any) -> dict[str, str]:
    """Hashes of a tokenizer's vocabulary and chat template, for the manifest."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return {
        "vocabulary": hashlib.sha256(canonical_json(vocabulary)).hexdigest()[:16],
        "chat_template": hashlib.sha256((tokenizer.chat_template or "").encode()).hexdigest()[:16],
    }
