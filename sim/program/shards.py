"""Parameters that a rank holds of each part of the model: dense ones and experts, by stage."""

from __future__ import annotations

from dataclasses import dataclass

from sim.program.schedule_file import schedule_of
from sim.program.shapes import padded_vocab
from sim.program.table import stages_of
from sim.spec.layout import Layout, num_stages
from sim.spec.parameters import layer_parameters, mtp_dense_parameters, norm_parameters
from sim.spec.scenario import Scenario


@dataclass(frozen=True)
class Shard:
    """Parameters on one rank: `dense` ones are replicated over dp x cp, `expert` ones over edp."""

    dense: float
    expert: float = 0.0

    def __add__(self, other: Shard) -> Shard:
        return Shard(self.dense + other.dense, self.expert + other.expert)

    @property
    def total(self) -> float:
        """Both."""
        return self.dense + self.expert


def layer_shard(scenario: Scenario, index: int) -> Shard:
    """Layer `index`: matrices split over tp (key and value heads no finer than one a rank), what every rank of a
    tensor-parallel group holds whole, and this rank's experts (1 / (ep x etp) of their matrices)."""
    layout = scenario.layout
    layer = layer_parameters(scenario.model, index)
    dense = layer.tensor_sharded / layout.tp
    dense += layer.attention_kv / min(layout.tp, scenario.model.num_kv_heads)
    dense += layer.replicated
    expert = layer.experts_sharded / (layout.ep * layout.etp) + layer.experts_replicated / layout.ep
    return Shard(dense, expert)


def vocabulary_shard(scenario: Scenario) -> Shard:
    """One matrix over this rank's part of the padded vocabulary."""
    model, tp = scenario.model, scenario.layout.tp
    return Shard(padded_vocab(model.vocab, tp, scenario.stack.vocab_multiple) // tp * model.hidden)


def embedding_shard(scenario: Scenario) -> Shard:
    """The embedding and the learned positions, which are replicated over tp."""
    model = scenario.model
    positions = model.max_seq_len * model.hidden if model.learned_positions else 0
    return vocabulary_shard(scenario) + Shard(positions)


def head_shard(scenario: Scenario) -> Shard:
    """The final norm and the head. A tied head is a copy where the pipeline parts it from the embedding, else none."""
    model = scenario.model
    norm = Shard(norm_parameters(model, model.hidden))
    is_own = not model.tied_embeddings or not ends_meet(scenario.layout)
    return norm + (vocabulary_shard(scenario) if is_own else Shard(0))


def mtp_embedding_shard(scenario: Scenario) -> Shard:
    """What multi-token prediction reads of the embedding: a copy where the pipeline parts it from the first stage, of
    which a tied head is the matrix."""
    if ends_meet(scenario.layout):
        return Shard(0)
    copied = embedding_shard(scenario).total
    return Shard(copied - vocabulary_shard(scenario).total if scenario.model.tied_embeddings else copied)


def mtp_shard(scenario: Scenario) -> Shard:
    """A module of multi-token prediction without what it shares: its layer, its norms, and the projection, which is
    split over tp."""
    model = scenario.model
    projection = 2 * model.hidden**2
    norms = mtp_dense_parameters(model) - projection
    return layer_shard(scenario, model.num_layers - 1) + Shard(norms + projection / scenario.layout.tp)


def ends_meet(layout: Layout) -> bool:
    """Whether the first and the last virtual stage lie on the same pipeline rank."""
    placement = schedule_of(layout.schedule).placement
    return num_stages(layout) - 1 in stages_of(0, layout.pp, layout.vpp, placement)
