"""Checkpoints and the storage that they go to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sim.spec.quantity import Bytes, BytesPerSecond, Count, Fraction, Seconds, Spec
from sim.spec.sourced import Sourced


class Storage(Sourced):
    """A storage system, as the job sees it.

    write, read: of the whole system.  node: of one node's path to it.  available_frac: what other jobs leave of the
    whole.  latency: of opening and committing a checkpoint.
    """

    title: str
    write_bytes_per_s: BytesPerSecond = Field(alias="write")
    read_bytes_per_s: BytesPerSecond = Field(alias="read")
    node_bytes_per_s: BytesPerSecond = Field(alias="node")
    available_frac: Fraction = 1.0
    latency_s: Seconds = Field(alias="latency")


class Checkpoint(Spec):
    """When and how the state is saved.

    sync: training waits for the write.  async: it waits for `snapshot`, a copy to host memory, and the write goes on
    beside it; until that ends, a failure falls back on the checkpoint before.  memory: beside async, every
    `memory_every_steps` a copy goes to the memory of `memory_copies` - 1 other nodes, for `memory_snapshot`.

    The interval is `every`, `every_steps`, or the optimum by a `rule`.  size: of all shards together; from the model
    and its optimizer by default.  persist, snapshot, load: measured times, instead of those of size and storage.
    keep: newest ones in storage that are kept; all by default.
    """

    mode: Literal["sync", "async", "memory"]
    rule: Literal["exact", "young", "daly", "meta"] | None = None
    every_s: Annotated[Seconds, Field(gt=0)] | None = Field(default=None, alias="every")
    every_steps: Count | None = None
    size_bytes: Bytes | None = Field(default=None, alias="size")
    storage: Storage | None = None
    snapshot_s: Seconds | None = Field(default=None, alias="snapshot")
    persist_s: Seconds | None = Field(default=None, alias="persist")
    load_s: Seconds | None = Field(default=None, alias="load")
    keep: Count | None = None
    memory_every_steps: Count | None = None
    memory_copies: Annotated[int, Field(ge=2, strict=True)] | None = None
    memory_snapshot_s: Seconds | None = Field(default=None, alias="memory_snapshot")
    memory_load_s: Seconds | None = Field(default=None, alias="memory_load")

    @property
    def is_timed(self) -> bool:
        """Whether no time follows from size and storage."""
        is_snapshot_known = self.mode == "sync" or self.snapshot_s is not None
        return self.persist_s is not None and self.load_s is not None and is_snapshot_known

    @model_validator(mode="after")
    def _fields_belong_together(self) -> Checkpoint:
        given = [key for key in ("rule", "every_s", "every_steps") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"an interval is one of rule, every and every_steps (got {len(given)} of them)")
        if self.mode == "sync" and self.snapshot_s is not None:
            raise ValueError(
                "snapshot with mode = sync, where training waits for the write (allowed with async, memory)"
            )
        if self.storage is None and (self.persist_s is None or self.load_s is None):
            raise ValueError("storage is missing (allowed without it where persist and load are given)")
        if self.storage is not None and self.persist_s is not None and self.load_s is not None:
            raise ValueError("storage has no effect beside persist and load (allowed with one of them at most)")
        if self.size_bytes is not None and self.is_timed:
            raise ValueError("size has no effect where every time is given")
        self._check_memory()
        return self

    def _check_memory(self) -> None:
        fields = ("memory_every_steps", "memory_copies", "memory_snapshot_s", "memory_load_s")
        missing = [name.removesuffix("_s") for name in fields if getattr(self, name) is None]
        if self.mode == "memory" and missing:
            raise ValueError(f"mode = memory needs {', '.join(missing)}")
        if self.mode != "memory" and len(missing) < len(fields):
            raise ValueError(f"memory_ fields with mode = {self.mode} (allowed with memory)")
