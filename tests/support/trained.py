"""A store with a base, a policy and a reward model as the stages leave them, made in a second from random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model

from components.common.artifacts import Artifact, commit
from components.common.chat import Chat
from components.common.device import device_policy
from components.common.directory_store import DirectoryStore
from components.common.forward_pass import last_token_scores, pad
from components.common.heldout import PairScores
from components.common.inputs import find_input
from components.common.manifest import Kind, Manifest, Parent, list_files
from components.common.models import load_causal_lm, load_reward_base
from components.common.saving import save_adapter, save_tokenizer
from components.common.stage import Job, Plan
from components.common.trainables import lora_config
from components.common.training import LoraSettings
from components.data.records import Message, Preference
from components.data.table import build_table
from components.data.tokenise import tokenise_preferences
from components.merge.config import SPEC, MergeConfig
from components.merge.stage import run as merge
from components.reward.parity import save_parity
from components.reward.stage import Pairs, score_head
from tests.support.models import randomise_lora, tiny_model

POLICY = device_policy()


@dataclass(frozen=True)
class Trained:
    """URIs of artifacts in one store, and the reward model's scores of `pairs`, shape (pairs,)."""

    store: DirectoryStore
    base: str
    policy_adapter: str
    policy: str
    reward_adapter: str
    reward: str
    pairs: list[dict[str, str]]
    chosen: Any
    rejected: Any


def make_trained(root: Path, tokenizer: Any, pairs: list[dict[str, str]], **config: Any) -> Trained:
    """Makes the store; `config` changes the models' configuration."""
    store = DirectoryStore(root)
    scratch = store.scratch()
    model = tiny_model("llama", tokenizer, **config)
    with torch.no_grad():  # so that some answers end by themselves
        model.lm_head.weight[tokenizer.eos_token_id] *= 3
    model.save_pretrained(scratch)
    save_tokenizer(tokenizer, scratch)
    base = _commit(store, scratch, "model", "base")
    policy_adapter = _policy(store, tokenizer, base)
    reward_adapter, scores = _reward(store, tokenizer, base, pairs)
    policy, reward = (_merge(store, base, adapter) for adapter in (policy_adapter, reward_adapter))
    uris = [artifact.uri for artifact in (base, policy_adapter, policy, reward_adapter, reward)]
    return Trained(store, *uris, pairs, scores.chosen, scores.rejected)


def _policy(store: DirectoryStore, tokenizer: Any, base: Artifact) -> Artifact:
    model = load_causal_lm(base.folder, POLICY)
    model = get_peft_model(model, lora_config(model, LoraSettings(r=4), "CAUSAL_LM"))
    randomise_lora(model, "default", seed=3, scale=0.3)
    scratch = store.scratch()
    save_adapter(model, scratch, base="base")
    save_tokenizer(tokenizer, scratch)
    return _commit(store, scratch, "adapter", "sft", {"model": base})


def _reward(
    store: DirectoryStore, tokenizer: Any, base: Artifact, pairs: list[dict[str, str]]
) -> tuple[Artifact, PairScores]:
    model = load_reward_base(base.folder, POLICY, tokenizer.pad_token_id)
    model = get_peft_model(model, lora_config(model, LoraSettings(r=4), "SEQ_CLS"))
    randomise_lora(model, "default", seed=4, scale=0.3)
    head = score_head(model)
    with torch.no_grad():
        head.normal_(generator=torch.manual_seed(5))
    preferences = [Preference((Message("user", p["prompt"]),), p["chosen"], p["rejected"]) for p in pairs]
    rows = tokenise_preferences(Chat(tokenizer), preferences, 128)
    tables = {
        name: build_table([getattr(row, name) for row in rows], len(tokenizer)) for name in ("chosen", "rejected")
    }
    scores = {}
    with torch.inference_mode():
        for name, table in tables.items():
            ids, mask = pad([table.ids(i) for i in range(len(table))], 0, POLICY.device)
            scores[name] = last_token_scores(model.eval(), ids, mask, head).double().numpy()
    lengths = np.zeros(len(pairs), np.int64)
    scored = PairScores(scores["chosen"], scores["rejected"], lengths, lengths)
    scratch = store.scratch()
    save_adapter(model, scratch, base="base")
    save_tokenizer(tokenizer, scratch)
    save_parity(scratch, Pairs(tables["chosen"], tables["rejected"]), scored, len(pairs))
    return _commit(store, scratch, "adapter", "reward", {"model": base}), scored


def _merge(store: DirectoryStore, base: Artifact, adapter: Artifact) -> Artifact:
    inputs = {"base": base, "adapter": adapter}
    scratch = store.scratch()
    result = merge(Job(Plan(SPEC, MergeConfig(workers=1), 0, inputs, store, "", ""), scratch, scratch))
    return _commit(store, scratch, result.kind, f"merge-{adapter.manifest.stage}", inputs)


def _commit(
    store: DirectoryStore, folder: Path, kind: Kind, stage: str, parents: Mapping[str, Artifact] | None = None
) -> Artifact:
    prefix = f"artifacts/{stage}/k"
    made_of = {
        name: Parent(uri=parent.uri.removeprefix(f"{store.root}/"), digest=parent.digest)
        for name, parent in (parents or {}).items()
    }
    manifest = Manifest(kind=kind, stage=stage, key="k", files=list_files(folder), parents=made_of)
    commit(store, prefix, folder, manifest)
    return find_input("model", f"{store.root}/{prefix}", (kind,))
