"""Models and data that people put into a bucket, and what they get out of one."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from components.common.errors import InputError
from components.common.inputs import find_input
from components.common.manifest import list_files
from components.common.uploads import get, put, put_plain
from components.data.config import Source
from components.data.sources import names_below, readable, source_digest
from components.prepare.resolve import Request, resolve
from tests.support.stored import PREFIX, make

pytest_plugins = ("tests.support.store_fixtures",)


def test_an_uploaded_model_is_the_local_folder(store, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (model / "model.safetensors").write_bytes(os.urandom(1000))
    (model / ".cache").mkdir()
    (model / ".cache" / "x").write_text("nobody's")
    uri = put(store, [model])
    assert put(store, [model]) == uri
    uploaded, local = (find_input("model", place, ("model",)) for place in (uri, str(model)))
    shutil.rmtree(model / ".cache")
    assert uploaded.digest == find_input("model", str(model), ("model",)).digest != local.digest
    assert list_files(uploaded.folder) == list_files(model)
    (model / "config.json").write_text("{}")  # the person goes on working on it
    assert "Llama" in (find_input("model", uri, ("model",)).folder / "config.json").read_text()


def test_data_by_name_uploaded_or_where_people_keep_it(store, root, tmp_path):
    for name in ("sft.jsonl", "rl.jsonl.gz", "pretrain/a.txt"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(name.encode())
    uploaded = put(store, [tmp_path / "mine"])
    together = put(store, sorted((tmp_path / "mine").iterdir()))
    plain = put_plain(f"{root}/shared/data", [tmp_path / "mine"])
    assert plain == f"{root}/shared/data"
    for place in (uploaded, together, plain):
        assert names_below(place) == ["pretrain", "rl.jsonl.gz", "sft.jsonl"]
        data = resolve(Request("tiny-cpu", data=place)).data
        assert [source.path for source in data.sft.sources] == [f"{place}/sft.jsonl"]
        assert [source.path for source in data.pretrain.sources] == [f"{place}/pretrain"]
        for name in ("sft.jsonl", "pretrain"):
            source = f"{place}/{name}"
            path = readable(Source(path=source))
            assert path.endswith(f"/{name}") or place == plain
            local = source_digest(str(tmp_path / "mine" / name))
            assert (source_digest(source) == local) == (place != plain)
    first = source_digest(f"{plain}/sft.jsonl")
    store.write("shared/data/sft.jsonl", b"other")
    assert source_digest(f"{plain}/sft.jsonl") != first
    with open(readable(Source(path=f"{plain}/sft.jsonl"))) as file:
        assert file.read() == "other"
    assert names_below(f"{root}/nothing") == []


def test_get_copies_goes_on_and_compares(store, root, tmp_path):
    make(store)
    out = tmp_path / "out"
    assert get(f"{root}/{PREFIX}", out) == 3
    (out / "a.bin").write_bytes(b"9876543210")
    assert get(f"{root}/{PREFIX}", out) == 3
    assert (out / "a.bin").read_bytes() == b"0123456789"
    assert sorted(path.name for path in out.iterdir()) == ["a.bin", "empty", "sub"]
    store.write("runs/r/report/index.html", b"<html>")
    assert get(f"{root}/runs/r/report", tmp_path / "report") == 1
    assert get(f"{root}/runs/r/report/index.html", tmp_path / "page") == 1
    assert (tmp_path / "page" / "index.html").read_bytes() == b"<html>"
    with pytest.raises(InputError, match="no such file or folder"):
        get(f"{root}/runs/q", tmp_path / "q")
