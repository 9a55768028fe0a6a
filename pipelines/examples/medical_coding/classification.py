"""ICD-10-CM as typed entries, read from the package `simple-icd-10-cm` (about 3 s; then all is in memory)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cache

_SIDE = re.compile(r"\b(?:right|left)\b", re.IGNORECASE)
_OTHER_SIDE = {"right": "left", "left": "right", "Right": "Left", "Left": "Right"}
_CODE_RANGE = re.compile(r" \([A-Z0-9-]+\)$")


@dataclass(frozen=True)
class Entry:
    """One code at the end of a branch: the codes that are written on a record.

    Attributes:
        code: The code with its dot, such as `S52.521A`.
        text: What the code means, in full.
        chapter: Number of the chapter, 1 to 22.
        block_text: Title of the smallest block of categories that holds the code, without its range of codes.
        category_text: What the category means, that is the code's first three characters.
        parent: The code, or the block, one level up, such as `S52.521`.
        parent_text: What the parent means.
        extension: What the seventh character adds to the parent's text, or `None` where there is none.
        side: `right` or `left` where another code differs in nothing but the side, else `None`.
    """

    code: str
    text: str
    chapter: int
    block_text: str
    category_text: str
    parent: str
    parent_text: str
    extension: str | None = None
    side: str | None = None


@cache
def read_entries() -> tuple[Entry, ...]:
    """All ends of branches of the classification, in its own order."""
    import simple_icd_10_cm as icd

    # A block that holds a single category has that category's name (`B20`), so the package lists the name twice; blocks
    # of blocks (`T07-T88`) have no children there.
    names = dict.fromkeys(icd.get_all_codes())
    codes = [name for name in names if icd.is_category_or_subcategory(name) and icd.is_leaf(name)]
    return tuple(_with_sides(_read_entry(code) for code in codes))


def _read_entry(code: str) -> Entry:
    import simple_icd_10_cm as icd

    ancestors = icd.get_ancestors(code)
    *_, block, chapter = ancestors
    parent, text = ancestors[0], icd.get_description(code)
    parent_text = icd.get_description(parent, prioritize_blocks=len(ancestors) == 2)
    extension = None
    if icd.is_extended_subcategory(code):
        # The package joins the notes under a seventh character to its meaning with a slash: they are not its name.
        extension = text.removeprefix(f"{parent_text}, ").partition("/")[0]
        text = f"{parent_text}, {extension}"
    return Entry(
        code=code,
        text=text,
        chapter=int(chapter),
        block_text=_CODE_RANGE.sub("", icd.get_description(block, prioritize_blocks=True)),
        category_text=icd.get_description(code[:3]),
        parent=parent,
        parent_text=_CODE_RANGE.sub("", parent_text),
        extension=extension,
    )


def _with_sides(entries: Iterable[Entry]) -> list[Entry]:
    entries = list(entries)
    texts = {entry.text for entry in entries}
    return [replace(entry, side=_side(entry.text, texts)) for entry in entries]


def _side(text: str, texts: Collection[str]) -> str | None:
    """The side a text names, if there is also a code for the other side.

    The word alone would also find a foreign body accidentally left in the body.
    """
    sides = {word.lower() for word in _SIDE.findall(text)}
    mirrored = _SIDE.sub(lambda match: _OTHER_SIDE[match[0]], text)
    return sides.pop() if len(sides) == 1 and mirrored in texts else None
