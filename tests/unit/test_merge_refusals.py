"""What the merge step refuses: exit codes, one line that says what is wrong, and nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from components.common.artifacts import Artifact, commit
from components.common.directory_store import DirectoryStore
from components.common.entry import stage_main
from components.common.inputs import find_input
from components.common.manifest import Manifest, Parent, list_files
from components.merge.__main__ import load_run
from components.merge.config import SPEC
from tests.support.commands import left_behind
from tests.support.little_pair import (
    SCORE,
    WEIGHTS,
    A,
    B,
    Change,
    Q,
    adapter,
    arguments,
    base,
    both,
    config,
    cut,
    edit,
    remove,
    write,
)


def zeros(*shape: int, dtype: Any = np.float32) -> NDArray[Any]:
    return np.zeros(shape, dtype)


def with_value(shape: tuple[int, ...], value: float, dtype: Any = np.float32) -> NDArray[Any]:
    array = np.ones(shape, dtype)
    array.flat[-1] = value
    return array


REWARD = config(task_type="SEQ_CLS", modules_to_save=["score"])
INDEX = "base/model.safetensors.index.json"
CASES: dict[str, tuple[Change, int, str]] = {
    "other method": (config(peft_type="IA3"), 2, "peft_type is IA3"),
    "DoRA": (config(use_dora=True), 2, "use_dora=True"),
    "Conv1D": (config(fan_in_fan_out=True), 2, "fan_in_fan_out=True"),
    "LoRA bias": (config(lora_bias=True), 2, "lora_bias=True"),
    "trained bias": (config(bias="all"), 2, "bias='all'"),
    "token rows": (config(trainable_token_indices=[1, 2]), 2, "trainable_token_indices=[1, 2]"),
    "unknown field": (config(new_mathematics={"on": True}), 2, "new_mathematics={'on': True}"),
    "changed base": (config(init_lora_weights="pissa_niter_4"), 2, "init_lora_weights='pissa_niter_4'"),
    "other task": (config(task_type="SEQ_2_SEQ_LM"), 2, "task_type is SEQ_2_SEQ_LM"),
    "no rank": (write("adapter/adapter_config.json", b'{"peft_type": "LORA"}'), 3, "has no r, lora_alpha"),
    "no JSON": (write("adapter/adapter_config.json", b"{"), 3, "adapter_config.json: cannot be read"),
    "no object": (write("adapter/adapter_config.json", b"[]"), 3, "holds list, not an object"),
    "pickled adapter": (remove("adapter/adapter_model.safetensors"), 3, "has no adapter_model.safetensors"),
    "embedding": (
        adapter({"base_model.model.model.embed_tokens.lora_embedding_A": zeros(2, 8)}),
        2,
        "LoRA on an embedding?",
    ),
    "no prefix": (adapter({f"{Q}.lora_A.weight": zeros(2, 4)}), 3, "does not begin with base_model.model."),
    "nothing": (adapter({A: None, B: None}), 3, "adapter_model.safetensors: holds no tensors"),
    "half a pair": (adapter({B: None}), 3, f"base_model.model.{Q} has only lora_A"),
    "rank": (config(r=4), 3, "A [2, 4] and B [4, 2] are not factors of rank 4"),
    "three dimensions": (adapter({A: zeros(2, 4, 1)}), 3, "A [2, 4, 1] and B [4, 2] are not factors"),
    "type": (adapter({A: zeros(2, 4, dtype=np.float64)}), 2, f"{A} is of type F64"),
    "NaN": (adapter({A: with_value((2, 4), np.nan)}), 3, f"{A} holds NaN or infinity"),
    "infinity": (adapter({B: with_value((4, 2), -np.inf, np.float16)}), 3, f"{B} holds NaN or infinity"),
    "no such module": (
        adapter({A.replace("0", "7"): zeros(2, 4), B.replace("0", "7"): zeros(4, 2)}),
        3,
        f"{A.replace('0', '7')} matches no tensor of the base",
    ),
    "no such tensor": (
        adapter({"base_model.model.model.extra.weight": zeros(4)}),
        3,
        "base_model.model.model.extra.weight matches no tensor of the base",
    ),
    "update's shape": (adapter({B: zeros(6, 2)}), 3, f"{A} and lora_B make [6, 4], {Q}.weight is [4, 4]"),
    "replacement's shape": (
        adapter({"base_model.model.lm_head.weight": zeros(9, 4)}),
        3,
        "base_model.model.lm_head.weight is [9, 4], lm_head.weight is [8, 4]",
    ),
    "tied head": (
        both(
            base({"lm_head.weight": None}),
            adapter({name.replace(Q, "lm_head"): zeros(*shape) for name, shape in ((A, (2, 4)), (B, (8, 2)))}),
        ),
        3,
        "the base's output embedding is tied",
    ),
    "no score": (REWARD, 2, f"has no {SCORE}"),
    "renamed score": (
        both(REWARD, adapter({SCORE: zeros(1, 4), "base_model.model.score.0.weight": zeros(1, 4)})),
        3,
        "base_model.model.score.0.weight matches no tensor",
    ),
    "two labels": (both(REWARD, adapter({SCORE: zeros(2, 4)})), 3, f"{SCORE} is [2, 4]"),
    "narrow score": (both(REWARD, adapter({SCORE: zeros(1, 3)})), 3, f"{SCORE} is [1, 3]"),
    "not causal": (
        both(REWARD, adapter({SCORE: zeros(1, 4)}), edit("base/config.json", architectures=["LlamaModel"])),
        2,
        "architectures is ['LlamaModel']",
    ),
    "quantised": (edit("base/config.json", quantization_config={"bits": 4}), 2, "a quantised base cannot be merged"),
    "integers": (base({f"{Q}.weight": zeros(4, 4, dtype=np.int8)}), 2, f"{Q}.weight is of type I8"),
    "pickled base": (remove(WEIGHTS), 3, "has neither model.safetensors nor model.safetensors.index.json"),
    "cut": (cut(WEIGHTS, 700), 3, "model.safetensors: cannot be read: it has 700 bytes"),
    "cut in header": (cut(WEIGHTS, 20), 3, "its header is cut"),
    "empty": (cut(WEIGHTS, 0), 3, "its header is cut"),
    "text": (write(WEIGHTS, b"\x02\0\0\0\0\0\0\0[]"), 3, "its header is not that of a safetensors file"),
    "gap": (
        write(WEIGHTS, b'\x3a\0\0\0\0\0\0\0{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}    ' + bytes(8)),
        3,
        "the data of w is not where it should be",
    ),
    "size": (
        write(WEIGHTS, b'\x3a\0\0\0\0\0\0\0{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,8]}}    ' + bytes(8)),
        3,
        "its header is not that of a safetensors file",
    ),
    "index": (
        write(INDEX, b'{"weight_map": {"model.norm.weight": "model.safetensors"}}'),
        3,
        "does not agree with the shards",
    ),
    "missing shard": (
        write(INDEX, b'{"weight_map": {"w": "model-00002.safetensors"}}'),
        3,
        "model-00002.safetensors: is listed",
    ),
    "no map": (write(INDEX, b"{}"), 3, "has no weight_map"),
    "NaN in the base": (base({f"{Q}.weight": with_value((4, 4), np.nan)}), 3, f"{Q}.weight holds NaN or infinity"),
    "sum too large": (
        both(
            base({f"{Q}.weight": np.full((4, 4), 65504, np.float16)}), adapter({A: zeros(2, 4) + 9, B: zeros(4, 2) + 9})
        ),
        2,
        f"{Q}.weight has a value that is too large for F16",
    ),
    "update too large": (
        adapter({A: with_value((2, 4), 1e30), B: np.full((4, 2), 1e30, np.float32)}),
        2,
        f"{Q}.weight has a value that is too large for F32",
    ),
    "value too large": (
        both(write("run.yaml", b"merge: {dtype: float16}"), base({"model.norm.weight": with_value((4,), 7e4)})),
        2,
        "model.norm.weight has a value that is too large for F16",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refusal(case: str, pair: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change, code, text = CASES[case]
    change(pair)
    assert stage_main(SPEC, load_run, arguments(pair)) == code
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert text in lines[0]
    assert left_behind(pair / "store") == []


def publish(pair: Path, name: str, stage: str, kind: Any, parents: dict[str, Parent]) -> Artifact:
    """Makes a stage's artifact of a folder and reads it back."""
    store = DirectoryStore(pair / "store")
    files = list_files(pair / name)
    tokenizer = {"vocabulary": "that of base"}
    manifest = Manifest(kind=kind, stage=stage, key="k", files=files, parents=parents, tokenizer=tokenizer)
    commit(store, f"artifacts/{stage}/k", pair / name, manifest)
    return find_input(name, f"{pair / 'store'}/artifacts/{stage}/k", (kind,))


@pytest.mark.parametrize(
    ("digest", "code", "text"),
    [
        (None, 0, "finished"),
        ("sha256:" + "0" * 64, 3, "was trained on artifacts/other/k (sha256:000"),
        ("", 3, "its manifest names no model"),
    ],
    ids=["parent", "other", "none"],
)
def test_parent(digest: str | None, code: int, text: str, pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An adapter with a manifest goes into the model it was trained on and into no other."""
    model = publish(pair, "base", "base", "model", {})
    parents = {"model": Parent(uri="artifacts/other/k", digest=model.digest if digest is None else digest)}
    publish(pair, "adapter", "pretrain", "adapter", parents if digest != "" else {})
    assert stage_main(SPEC, load_run, arguments(pair, "store/artifacts/base/k", "store/artifacts/pretrain/k")) == code
    printed = capsys.readouterr()
    assert text in printed.out + printed.err
    assert "warning" not in printed.out
    merged = list((pair / "store" / "artifacts" / "merge").glob("*/manifest.json"))
    assert len(merged) == (1 if code == 0 else 0)
    for path in merged:
        manifest = Manifest.model_validate_json(path.read_bytes())
        assert (manifest.kind, manifest.tokenizer) == ("model", {"vocabulary": "that of base"})
        assert manifest.metrics == {
            "tensors_merged": 1,
            "tensors_replaced": 0,
            "tensors_copied": 3,
            "bytes": 336,
            "parameters": 84,
        }
