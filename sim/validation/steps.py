"""How a row is trained: batch, number formats, recomputation, overlap."""

from __future__ import annotations

import re
from typing import Any

from sim.validation.draft import Draft

MODULES = {
    "core attention": "core_attention", "layernorm": "norm", "rmsnorm": "norm", "moe_act": "activation",
    "mla_up": "mla_up_projection", "mla up": "mla_up_projection", r"\bmlp\b": "mlp", r"\bmoe\b(?!_)": "moe",
}  # fmt: skip
"""What a source calls a recomputed module -> its name here."""

RECIPES = {"mxfp8": "mxfp8", "nvfp4": "nvfp4", "block": "blockwise", "current|tensorwise": "current"}
"""Of `precision`, first match; delayed scaling for any other fp8 (Transformer Engine's default recipe)."""


def add_training(draft: Draft) -> None:
    """Put batch, formats and recomputation into the draft. Raises CannotSimulate where the batch is unknown."""
    run = draft.run
    micro_batch = draft.counted("micro_batch", 1, "micro-batch")
    training: dict[str, Any] = {
        "seq_len": draft.needed("seq_len", "the sequence length"),
        "global_batch": draft.needed("global_batch", "the batch"),
        "micro_batch": micro_batch,
        "recompute": "none",
    }
    draft.values["training"] = training
    _add_precision(draft, training)
    _add_recompute(draft, training)
    if re.search("no overlap|overlap all disabled", f"{run.text('shard')} {run.text('notes')} {run.text('schedule')}"):
        training["overlap"] = {"grad_reduce": False, "param_gather": False, "tensor": False}
    if run.text("schedule").startswith("zb-"):
        training["grad_norm"] = "post_validation"
    if re.search("(full|layer) cuda graph|full cg|cuda graphs", run.text("notes")):
        training["cuda_graphs"] = True
    if "offload" in run.text("recompute_detail"):
        draft.assume("activations are not offloaded")
    if re.search("mtp", f"{run.text('notes')} {run.case_id}"):
        draft.assume("multi-token prediction is left out")
    if re.search(r"(?<!no )ep(?: a2a)? overlap|ep overlap", run.text("notes")) and "no ep overlap" not in run.text(
        "notes"
    ):
        _overlap_experts(draft, training)


def _overlap_experts(draft: Draft, training: dict[str, Any]) -> None:
    """Megatron-Core's overlap of expert parallelism, where its conditions hold."""
    layout = draft.values["layout"]
    is_pipeline = layout["schedule"] == "interleaved_1f1b" or layout["pp"] == 1
    if layout["ep"] > 1 and is_pipeline and training["recompute"] == "none" and layout["zero"] < 3:
        training["overlap"] = {**training.get("overlap", {}), "expert": True}
    else:
        draft.assume("expert all-to-all does not overlap")


def _add_precision(draft: Draft, training: dict[str, Any]) -> None:
    text = draft.run.text("precision")
    if not text:
        text = "bf16"
        draft.assume("bf16 (number format not stated)")
    low = next((name for name in ("fp8", "fp4") if name in text), None)
    training["precision"] = low or ("fp16" if "fp16" in text else "bf16")
    if low is not None:
        named = next((recipe for pattern, recipe in RECIPES.items() if re.search(pattern, text)), None)
        training["recipe"] = named or ("nvfp4" if low == "fp4" else "delayed")
    if "fp8 params" in text or "fp8 all-gather" in text:
        training["low_precision_weights"] = True


def _add_recompute(draft: Draft, training: dict[str, Any]) -> None:
    run = draft.run
    kind, detail = run.text("recompute"), run.text("recompute_detail")
    if kind == "full":
        training["recompute"] = "full"
    elif kind == "selective":
        found = {name: None for pattern, name in MODULES.items() if re.search(pattern, detail)}
        if "mlp" in found and not run.count("first_dense_layers") and run.count("num_experts"):
            del found["mlp"]
        training |= {"recompute": "selective", "recompute_modules": list(found) or ["core_attention"]}
        if not found:
            draft.assume("recomputed is the core of attention")
