"""Sides of the attention of one rank: how many queries and keys, of which heads."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sim.cost.kernels import Attention
from sim.program.shapes import Shapes


@dataclass(frozen=True)
class AttentionShape:
    """Of a sequence: q_len queries on this rank, kv_len keys in all.  heads, kv_heads: on this rank."""

    q_len: int
    kv_len: int
    heads: int
    kv_heads: int
    qk_head_dim: int
    v_head_dim: int

    @classmethod
    def of_rank(cls, s: Shapes, kv_heads: int, qk_head_dim: int, v_head_dim: int) -> AttentionShape:
        """Of a rank's own tokens and all its heads."""
        return cls(s.q_len, s.kv_len, s.heads, kv_heads, qk_head_dim, v_head_dim)

    def of_heads(self, ranks: int) -> AttentionShape:
        """Of the tokens of `ranks` ranks, for their share of the heads. Missing key and value heads are replicated."""
        heads, kv_heads = self.heads // ranks, max(self.kv_heads // ranks, 1)
        return replace(self, q_len=self.q_len * ranks, heads=heads, kv_heads=kv_heads)

    @property
    def q_width(self) -> int:
        """Of the queries of a token."""
        return self.heads * self.qk_head_dim

    @property
    def kv_width(self) -> int:
        """Of the keys and values of a token."""
        return self.kv_heads * (self.qk_head_dim + self.v_head_dim)

    @property
    def out_width(self) -> int:
        """Of the output of a token."""
        return self.heads * self.v_head_dim

    def fused(self, s: Shapes, q_len: int, kv_len: int, work_frac: float, *, is_backward: bool) -> Attention:
        """The fused kernel for `q_len` queries and `kv_len` keys, of which `work_frac` of the scores is computed."""
        assert s.attention != "unfused", "attention is no fused kernel"
        return Attention(
            name="attention backward" if is_backward else "attention forward",
            batch=s.sequences,
            q_len=q_len,
            kv_len=kv_len,
            heads=self.heads,
            kv_heads=self.kv_heads,
            qk_head_dim=self.qk_head_dim,
            v_head_dim=self.v_head_dim,
            work_frac=work_frac,
            is_backward=is_backward,
            format=s.format_16,
            kernel=s.attention,
        )
