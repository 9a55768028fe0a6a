"""Exact de-duplication: a hash of what a record says, and a set for very many of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from hashlib import blake2b

from components.data.records import Conversation, Document, Message, Preference, Prompt, Record


def fingerprint(record: Record) -> bytes:
    """Hashes a record's text: equal for records of one kind that say the same, whatever their other columns.

    Whitespace around a document makes no difference, nor around a turn, where `normalise` has removed it.

    Returns:
        16 bytes, the same on every machine and in every version of Python.
    """
    prompt, answer = said(record)
    return blake2b(_encode(f"{len(prompt)}:{prompt}{answer}"), digest_size=16).digest()


def hash_share(text: str) -> float:
    """A number from 0 to below 1 that a text decides and that is unrelated to fingerprints."""
    return int.from_bytes(blake2b(_encode(text), digest_size=6, person=b"share").digest(), "big") / 2**48


def said(record: Record) -> tuple[str, str]:
    """What a record's prompt says and what its answers say, each so that different turns give different texts."""
    match record:
        case Conversation():
            return _transcript(record.messages[:-1]), record.messages[-1].content
        case Preference():
            return _transcript(record.prompt), f"{len(record.chosen)}:{record.chosen}{record.rejected}"
        case Prompt():
            return _transcript(record.messages), ""
        case Document():
            return record.text.strip(), ""


def asked(record: Record) -> str:
    """What a record's prompt says without its system prompt: the same question under another one is the same."""
    match record:
        case Conversation():
            messages = record.messages[:-1]
        case Preference():
            messages = record.prompt
        case Prompt():
            messages = record.messages
        case Document():
            return record.text.strip()
    return _transcript([message for message in messages if message.role != "system"])


def _transcript(messages: Iterable[Message]) -> str:
    return "".join([f"{message.role}:{len(message.content)}:{message.content}" for message in messages])


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class FingerprintSet:
    """A set of fingerprints in one array: 11 to 21 bytes for each, where a `set` of them needs about a hundred.

    It keeps 64 bits of each, so that of n different ones about n²/2⁶⁵ are taken for repeated: of a hundred million
    one record in 3700 runs. Open addressing with linear probing, at most three quarters full.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))  # 0 is a free slot; the size is a power of two
        self._used = 0

    def add(self, value: bytes) -> bool:
        """Adds a fingerprint.

        Returns:
            Whether it is new.
        """
        key = int.from_bytes(value[:8], "little") or 1
        slots = self._slots
        at = _slot(slots, key)
        if slots[at]:
            return False
        slots[at] = key
        self._used += 1
        if self._used * 4 > len(slots) * 3:
            self._grow()
        return True

    def __len__(self) -> int:
        return self._used

    def _grow(self) -> None:
        grown = array("Q", bytes(16 * len(self._slots)))
        for key in self._slots:
            if key:
                grown[_slot(grown, key)] = key
        self._slots = grown


def _slot(slots: array[int], key: int) -> int:
    """Where the key is or would be."""
    mask = len(slots) - 1
    at = key & mask
    while slots[at] and slots[at] != key:
        at = (at + 1) & mask
    return at
