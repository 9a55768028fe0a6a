"""The merge step: base model + LoRA adapter → a model for plain `from_pretrained`."""

from __future__ import annotations

from components.common.artifacts import Artifact, check_stands_on
from components.common.errors import InputError
from components.common.logs import say
from components.common.stage import Job, Result
from components.merge.adapter import read_adapter
from components.merge.base_model import INDEX, index_json, read_base
from components.merge.config import MergeConfig
from components.merge.engine import Engine
from components.merge.model_folder import write_model_files
from components.merge.plan import Plan, Write, plan_merge
from components.merge.safetensors_file import Tensor, create


def run(job: Job[MergeConfig]) -> Result:
    """Merges; on an error `job.out` may hold unfinished files, which its owner removes.

    Raises:
        UserError: The adapter is of a kind that cannot be merged, or a value does not fit the wanted type.
        InputError: The adapter does not belong to the base, or one of the two is damaged.
    """
    check_parent(job.plan.inputs["base"], job.plan.inputs["adapter"])
    base, adapter = read_base(job.folder("base")), read_adapter(job.folder("adapter"))
    plan, owner = plan_merge(base, adapter, job.config.dtype), tokenizer_owner(job)
    write_model_files(job.out, base, adapter, plan, job.config.dtype, tokenizer=job.folder(owner))
    if adapter.task_type == "SEQ_CLS" and base.config.get("pad_token_id") is None:
        say(
            "merge",
            "warning: config.json has no pad_token_id, so the reward model can score one sequence at a time only",
        )
    with Engine(job.config.thread_count()) as engine:
        engine.check_finite(adapter.tensors)
        written = _write_shards(job, plan, engine)
    if base.indexed:
        (job.out / INDEX).write_text(index_json(written), encoding="utf-8")
    tensors = [tensor for held in written.values() for tensor in held]
    manifest = job.plan.inputs[owner].manifest
    return Result(
        kind="reward_model" if adapter.task_type == "SEQ_CLS" else "model",
        metrics={
            **plan.counts(),
            "bytes": sum(tensor.size for tensor in tensors),
            "parameters": sum(tensor.count for tensor in tensors),
        },
        tokenizer=manifest.tokenizer if manifest else {},
    )


def check_parent(base: Artifact, adapter: Artifact) -> None:
    """Compares the model an adapter was trained on with the base it is to be merged into.

    Raises:
        InputError: They differ, or the adapter's manifest names no model.
    """
    if adapter.manifest is None:
        say("merge", "warning: the adapter is a plain folder without a manifest: only its shapes can be checked")
        return
    if adapter.parent_digest("model") is None:
        raise InputError("its manifest names no model that it was trained on", where=adapter.uri)
    check_stands_on(adapter, base)


def tokenizer_owner(job: Job[MergeConfig]) -> str:
    """Whose tokenizer the merged model gets: the base's, which `prepare` has seen to.

    A plain folder may lack chat template and pad token; the stages then worked with ones of their own, which they left
    beside the adapter.
    """
    plain = job.plan.inputs["base"].manifest is None
    return "adapter" if plain and (job.folder("adapter") / "tokenizer.json").is_file() else "base"


def _write_shards(job: Job[MergeConfig], plan: Plan, engine: Engine) -> dict[str, tuple[Tensor, ...]]:
    """Writes one shard after the other; returns the tensors of each by file name."""
    written = {}
    for number, planned in enumerate(plan.shards, 1):
        name = planned.shard.path.name
        targets = create(job.out / name, planned.shard.metadata, [output.layout for output in planned.outputs])
        engine.write(
            [Write(output.source, target, output.lora) for output, target in zip(planned.outputs, targets, strict=True)]
        )
        written[name] = targets
        say(
            "merge",
            f"shard {number}/{len(plan.shards)} {name} {sum(tensor.size for tensor in targets) / 2**20:.0f} MiB",
        )
    return written
