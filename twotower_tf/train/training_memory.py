"""Estimates the memory of a training before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from twotower_tf.config import ExperimentConfig, Mined
from twotower_tf.config.checks import list_causal_histories
from twotower_tf.config.features import SideName
from twotower_tf.errors import ConfigError
from twotower_tf.features.layout import Layout
from twotower_tf.model import embeddings, history
from twotower_tf.model.losses.blockwise_logits import BLOCK_ELEMENTS
from twotower_tf.model.optimizers import slot_numbers
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.resources import format_bytes
from twotower_tf.sampling import negatives_plan

FLOAT = 4
BYTES = {"float32": 4, "bfloat16": 2}
MOMENTS = 2  # Adam keeps two numbers per weight
# Bytes per training row that stay in memory: the keys (33), the epoch's order and the rows it is made from (16), and
# the user's positives (12). Encoded features are mapped from disk: they are the page cache's, not the process's.
POSITIVE_BYTES = 12
ROW_BYTES = 49 + POSITIVE_BYTES
# Further bytes per training row that kinds of negatives keep: the log's rejections; lists and places.
KIND_ROW_BYTES = {"Rejections": 12, "SkipAbove": 36}  # SkipAbove: list, position; first, last place; item
THINNING_ROW_BYTES = 44  # while an epoch's positives are chosen
# TensorFlow and the other libraries once loaded, the compiled step, TensorBoard's writers.
RUNTIME_BYTES = 900 << 20
# Copies of an activation that live at once: forward, backward, and an operation's scratch.
COPIES = 6


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by use.

    Attributes:
        tables: of each physical embedding table.
        optimizer: state of all weights.
        table_optimizer: the optimizer's state of each table; included in `optimizer`.
        dense: the towers' weights and their gradients.
        activations: of one step, at most.
        data: the training rows' keys, and what samplers keep of them and of earlier runs.
        catalogue: the part of `activations` that is there because every row is compared with the whole catalogue.
        runtime: of an empty process.
        served: of all tables and their optimizer state where they are on parameter servers, not in this process.
        servers: their number.
        copied: the weights of tables on parameter servers, of which the chief has a copy that it validates.
    """

    tables: Mapping[str, int]
    table_optimizer: Mapping[str, int]
    optimizer: int
    dense: int
    activations: int
    data: int
    catalogue: int = 0
    runtime: int = RUNTIME_BYTES
    served: int = 0
    servers: int = 0
    copied: int = 0

    @property
    def total(self) -> int:
        working = self.optimizer + self.dense + self.activations + self.data + self.copied
        return sum(self.tables.values()) + working + self.runtime

    @property
    def per_server(self) -> int:
        """Bytes of a parameter server: its share of the tables, and all towers, which are on few servers."""
        return -(-self.served // max(1, self.servers)) + self.optimizer + self.dense + self.runtime

    def serve(self, servers: int) -> MemoryPlan:
        """Returns the estimate of a worker or the chief of a training with so many parameter servers."""
        states = sum(self.table_optimizer.values())
        return replace(
            self,
            tables={},
            table_optimizer={},
            optimizer=self.optimizer - states,
            served=sum(self.tables.values()) + states,
            servers=servers,
        )

    def lines(self) -> list[str]:
        """Formats the estimate as lines of text."""
        parts = {f"table {name}": size for name, size in self.tables.items()}
        parts |= {"optimizer state": self.optimizer, "towers": self.dense, "activations": self.activations}
        parts["training rows"] = self.data
        if self.copied:
            parts["copy of the tables"] = self.copied
        parts |= {"runtime": self.runtime, "total": self.total}
        if self.servers:
            parts["total of each of the servers"] = self.per_server
        return [f"memory: {name:<28} {format_bytes(size):>9}" for name, size in parts.items()]


def estimate_memory(
    config: ExperimentConfig, train_rows: int, users: int = 0, past: int = 0, items: int = 0
) -> MemoryPlan:
    """Estimates the memory of a training from its configuration.

    Args:
        config: the experiment.
        train_rows: rows of the training split.
        users: of the log, for whom negatives may be mined.
        past: positives of earlier runs that the preparation continues, which are never a negative.
        items: of the catalogue, which `Catalogue` compares with.
    """
    placed = embeddings.plan_tables(config)
    rows: dict[str, int] = {}
    dims: dict[str, int] = {}
    for place in placed.values():
        rows[place.table] = max(rows.get(place.table, 0), place.offset + place.buckets)
        dims[place.table] = place.dim
    size = BYTES[config.model.table_dtype]
    tables = {name: count * dims[name] * size for name, count in sorted(rows.items())}
    rule = config.train.table_optimizer
    states = {name: count * slot_numbers(rule, dims[name]) * FLOAT for name, count in sorted(rows.items())}
    per_user = -(-train_rows // max(1, users))
    activations = _activations(config, placed, items, per_user)
    sides: tuple[SideName, ...] = ("user", "item")
    weights = sum(_weights(_widths(config, side, placed)) for side in sides)
    return MemoryPlan(
        tables=tables,
        table_optimizer=states,
        optimizer=sum(states.values()) + MOMENTS * weights * FLOAT,
        dense=2 * weights * FLOAT,
        activations=COPIES * FLOAT * activations,
        catalogue=COPIES * FLOAT * (activations - _activations(config, placed, 0, per_user)),
        data=_row_bytes(config) * train_rows
        + sum(_pool_bytes(each) for each in config.sampling.negatives or ()) * users
        + POSITIVE_BYTES * past,
    )


def plan_memory(config: ExperimentConfig, prepared: Prepared, servers: int) -> MemoryPlan:
    """Estimates the memory of training a prepared run, with its tables on so many servers; 0 for this process."""
    past = len(prepared.sequence("train")) - prepared.num_positives("train")
    needed = estimate_memory(config, prepared.num_rows("train"), prepared.num_users, past, prepared.num_items)
    return needed.serve(servers) if servers else needed


def plan_chief(
    config: ExperimentConfig, prepared: Prepared, servers: int, validates: bool, available: int
) -> MemoryPlan:
    """Estimates the memory of the process that writes checkpoints.

    With servers, one that validates has a copy of the tables for it where that takes at most half of the available
    memory; the servers may be on the same machine.
    """
    needed = plan_memory(config, prepared, servers)
    if not servers or not validates:
        return needed
    copying = replace(needed, copied=sum(plan_memory(config, prepared, 0).tables.values()))
    return copying if 2 * copying.total <= available else needed


def _row_bytes(config: ExperimentConfig) -> int:
    sampling = config.sampling
    kinds = sum(KIND_ROW_BYTES.get(each.type, 0) for each in sampling.negatives or ())
    thinning = THINNING_ROW_BYTES if sampling.downsample is not None or sampling.per_user else 0
    return ROW_BYTES + kinds + thinning + FLOAT * bool(config.data.weight or sampling.recency_half_life)


def _pool_bytes(kind: Any) -> int:
    """Returns the bytes of a user's mined items, twice, as they are replaced by a new ranking."""
    return 2 * FLOAT * (kind.ranks[1] - kind.ranks[0] + 1) if isinstance(kind, Mined) else 0


def require(needed: MemoryPlan, available: int) -> None:
    """Checks that a training fits into memory.

    Raises:
        ConfigError: with the estimated and the available memory, and the catalogue or the largest table.
    """
    if needed.total <= available:
        return
    lacks = f"training needs about {format_bytes(needed.total)} of memory and {format_bytes(available)} is available; "
    if needed.total - needed.catalogue <= available:
        raise ConfigError(
            f"{lacks}sampling.negatives: Catalogue() compares with all items of the catalogue, which takes "
            f"{format_bytes(needed.catalogue)}: use loss=SampledSoftmax() with its own negatives, or lower the widths "
            "of the item tower"
        )
    if not needed.tables:
        raise ConfigError(f"{lacks}lower train.batch_size, or the widths of the towers")
    largest = max(needed.tables, key=lambda name: needed.tables[name])
    raise ConfigError(
        f"{lacks}the largest table, {largest}, takes {format_bytes(needed.tables[largest])} and its optimizer state "
        f"{format_bytes(needed.table_optimizer[largest])}: lower buckets= or embedding_dim= of its features, or "
        "train.batch_size, or --set model.table_dtype=bfloat16"
    )


def require_server(needed: MemoryPlan, available: int) -> None:
    """Checks that a parameter server has the memory for its part.

    Raises:
        ConfigError: with the estimated and the available memory.
    """
    if needed.per_server > available:
        raise ConfigError(
            f"a parameter server needs about {format_bytes(needed.per_server)} of memory and {format_bytes(available)} "
            f"is available: start more than {needed.servers} of them, or lower buckets= or embedding_dim= of features"
        )


def _widths(
    config: ExperimentConfig, side: SideName, placed: Mapping[embeddings.Key, embeddings.Placement]
) -> list[int]:
    """Returns the widths of the tower's layers: features, hidden layers, vector."""
    layout = Layout(config, side)
    embedded = sum(place.dim for (owner, _), place in placed.items() if owner == side)
    numbers = sum(each.embedding_dim or 1 for each in layout.numeric)
    hidden = config.model.user_hidden if side == "user" else config.model.item_hidden
    return [embedded + numbers, *hidden, config.model.vector_dim]


def _weights(widths: list[int]) -> int:
    return sum((before + 1) * after for before, after in zip(widths, widths[1:], strict=False))


def _activations(
    config: ExperimentConfig, placed: Mapping[embeddings.Key, embeddings.Placement], catalogue: int, per_user: int
) -> int:
    """Numbers that one step's batch makes: each side's layers, and one block of the rows' scores."""
    drawn, rows = negatives_plan.plan_negatives(config), config.batch_size
    sequences = list_causal_histories(config.user_features) if config.train.sequences else []
    batch = rows * max([1, *(each.length for each in sequences)])  # of sequences at most so many events
    batch *= per_user if config.train.by_user else 1
    lists = [each for each in Layout(config, "user").multivalued if each not in sequences]
    users = batch * (sum(_widths(config, "user", placed)) + sum(history.count_numbers(config, each) for each in lists))
    users += rows * sum(history.count_numbers(config, each) for each in sequences)
    read = catalogue if drawn.whole else batch * (1 + drawn.per_row) + drawn.for_all
    items = read * sum(_widths(config, "item", placed))
    columns = drawn.columns(batch, catalogue)
    return users + items + columns * config.model.vector_dim + min(batch * columns, max(columns, BLOCK_ELEMENTS))
