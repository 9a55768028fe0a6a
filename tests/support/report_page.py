"""The report's page, read strictly."""

from __future__ import annotations

from html.parser import HTMLParser

from components.report.collect import collect
from components.report.page import render
from tests.support.report_store import NOW, Made

VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Page(HTMLParser):
    """A strict reading of a page: every element is closed in order; collects elements, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> out of order at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))

    @property
    def text(self) -> str:
        shown = " ".join(data for tag, data in self.texts if tag not in ("style", "script"))
        return " ".join(shown.split())

    def all(self, tag: str, cls: str = "") -> list[dict[str, str | None]]:
        wanted = set(cls.split())
        return [a for name, a in self.elements if name == tag and wanted <= set((a.get("class") or "").split())]

    def ids(self) -> list[str]:
        return [str(attrs["id"]) for _, attrs in self.elements if "id" in attrs]


def page_of(made: Made) -> Page:
    return Page(render(collect(made.config_uri), NOW))
