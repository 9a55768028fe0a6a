"""What is put into a store by hand is taken for what it was: a plain folder or file."""

import json

import pytest
from click.testing import CliRunner

from components.common.artifacts import commit, read_manifest
from components.common.errors import InputError, UserError
from components.common.inputs import find_input
from components.common.manifest import Manifest, list_files
from components.common.store import open_store
from components.common.uploads import put, put_plain
from components.data.config import Source
from components.data.sources import names_below, readable, source_digest
from components.prepare.resolve import Request, resolve
from pipelines.cli import main


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def mine(tmp_path):
    for name in ("sft.jsonl", "rl.jsonl", "pretrain/a.txt", "pretrain/.hidden"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(name)
    return tmp_path / "mine"


def test_a_model_keeps_its_digest(store, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "adapter_config.json").write_text("{}")
    uri = put(store, [model])
    found = find_input("adapter", uri, ("adapter",))
    assert found.digest == find_input("adapter", str(model), ("adapter",)).digest
    assert found.manifest is None
    (found.folder / "adapter_config.json").write_text("[]")
    with pytest.raises(InputError, match="was altered"):
        assert find_input("adapter", uri, ("adapter",)).folder
    assert (model / "adapter_config.json").read_text() == "{}"


def test_data_is_found_by_name_and_keeps_its_digest(store, mine):
    whole, together = put(store, [mine]), put(store, [mine / "rl.jsonl", mine / "sft.jsonl", mine / "pretrain"])
    for place in (whole, together):
        assert names_below(place) == ["pretrain", "rl.jsonl", "sft.jsonl"]
        data = resolve(Request("tiny-cpu", data=place)).data
        assert [source.path for source in data.rl.sources] == [f"{place}/rl.jsonl"]
        assert source_digest(f"{place}/sft.jsonl") == source_digest(str(mine / "sft.jsonl"))
        (mine / "pretrain" / ".hidden").unlink(missing_ok=True)
        assert source_digest(f"{place}/pretrain") == source_digest(str(mine / "pretrain"))
        with open(readable(Source(path=f"{place}/sft.jsonl"))) as file:
            assert file.read() == "sft.jsonl"
    one = put(store, [mine / "sft.jsonl"])
    assert one.endswith("/sft.jsonl")
    assert source_digest(one) == source_digest(str(mine / "sft.jsonl"))


def test_near_names_are_not_mixed_up(store, mine):
    (mine / "sft.jsonl.old").write_text("other")
    place = put(store, [mine])
    assert source_digest(f"{place}/sft.jsonl") == source_digest(str(mine / "sft.jsonl"))


def test_what_cannot_be_put(store, mine, tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        put(store, [tmp_path / "nothing"])
    (tmp_path / "sft.jsonl").write_text("")
    with pytest.raises(UserError, match=r"two are called sft.jsonl"):
        put(store, [mine / "sft.jsonl", tmp_path / "sft.jsonl"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no files"):
        put(store, [tmp_path / "empty"])
    assert not [path for path in store.files("") if "artifacts" in path]
    assert not list((tmp_path / "store" / ".scratch").glob("*"))


def test_a_place_of_ones_own(mine, tmp_path):
    assert put_plain(str(tmp_path / "there"), [mine]) == str(tmp_path / "there")
    assert (tmp_path / "there" / "pretrain" / "a.txt").exists()
    assert put_plain(f"{tmp_path}/there/", [mine / "sft.jsonl"]) == str(tmp_path / "there")
    assert put_plain(str(tmp_path / "other.jsonl"), [mine / "sft.jsonl"]) == str(tmp_path / "other.jsonl")
    assert (tmp_path / "other.jsonl").read_text() == "sft.jsonl"


def test_commands(tmp_path, mine):
    def rlhf(*arguments, code=0):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == code, result.output
        return result.output

    uri = rlhf("put", str(mine), "--store", str(tmp_path / "s")).strip()
    assert rlhf("get", uri, str(tmp_path / "out")) == f"3 files in {tmp_path / 'out'}\n"
    assert list_files(tmp_path / "out") == list_files(tmp_path / "s" / uri.split("/s/")[1])
    assert "nothing is named" in rlhf("put", "--store", str(tmp_path / "s"), code=2)
    assert "has no bucket" in rlhf("put", "--create-bucket", "--store", str(tmp_path / "s"), code=2)
    assert "no such file or folder" in rlhf("get", str(tmp_path / "nothing"), str(tmp_path / "x"), code=3)
    (tmp_path / "s" / uri.split("/s/")[1] / "sft.jsonl").write_text("altered")
    assert "sft.jsonl" in rlhf("get", uri, str(tmp_path / "out"), code=3)


def test_an_upload_knows_its_maker(store, mine):
    uri = put(store, [mine])
    prefix = uri.removeprefix(f"{store.root}/").rpartition("/")[0]
    manifest = json.loads(store.read(f"{prefix}/manifest.json"))
    assert (manifest["stage"], manifest["kind"]) == ("upload", "source")


def test_an_artifact_that_is_put_as_a_folder_keeps_its_own_manifest(store, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "adapter_config.json").write_text("{}")
    (model / "manifest.json").write_text("mine")
    uri = put(store, [model])
    assert (model / "manifest.json").read_text() == "mine"
    assert [entry.path for entry in read_manifest(store, uri.removeprefix(f"{store.root}/")).files] == [
        "adapter_config.json"
    ]


def test_a_manifest_is_not_written_through_a_link(store, tmp_path):
    mine = tmp_path / "manifest.json"
    mine.write_text("mine")
    scratch = store.scratch()
    (scratch / "manifest.json").symlink_to(mine)
    commit(store, "artifacts/upload/k", scratch, Manifest(kind="source", stage="upload", key="k", files=()))
    assert mine.read_text() == "mine"
