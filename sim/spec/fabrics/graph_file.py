"""Graphs of clusters as users draw them: nodes and edges in GraphML or node-link JSON, or in the topology itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, GetJsonSchemaHandler, ValidationError, ValidationInfo, model_validator
from pydantic_core import CoreSchema

from sim.spec.quantity import BytesPerSecond, Fraction, Seconds, Spec
from sim.spec.source import MAX_BYTES

SUFFIXES = (".graphml", ".json")
GPU = "gpu"

T = TypeVar("T", bound=Spec)


class Vertex(Spec):
    """A node of the graph. kind: `gpu`, or a word of small letters for what it is (`nvswitch`, `nic`, `leaf`)."""

    id: str
    kind: Annotated[str, Field(pattern=r"^[a-z]+$")]


class Edge(Spec):
    """A cable, or one direction of it in a directed graph.

    efficiency: share of the bandwidth that transfers achieve.  tier: what reports call links of this sort; the kinds of
    both ends where it is left out.
    """

    source: str
    target: str
    bytes_per_s: BytesPerSecond = Field(alias="bandwidth")
    latency_s: Seconds = Field(alias="latency")
    efficiency: Fraction = 1.0
    tier: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] | None = None


class Graph(Spec):
    """Nodes and edges; or, in a topology file, the path of a GraphML or JSON file with them.

    A relative path counts from the working folder. GPUs are numbered in the order of `nodes`.
    """

    nodes: Annotated[tuple[Vertex, ...], Field(strict=False, min_length=1)]
    edges: Annotated[tuple[Edge, ...], Field(strict=False)]
    directed: bool = False

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any, info: ValidationInfo) -> Any:
        return _from_file(given, info.context) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _is_one_graph(self) -> Self:
        for problem in _mistakes(self):
            raise ValueError(problem)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """A path, or the mapping."""
        path = {"type": "string", "description": f"path of a graph ({', '.join(SUFFIXES)})"}
        return {"anyOf": [path, handler(schema)]}


def _mistakes(graph: Graph) -> Iterator[str]:
    ids = [node.id for node in graph.nodes]
    known = set(ids)
    if len(known) < len(ids):
        twice = next(each for number, each in enumerate(ids) if each in ids[:number])
        yield f"node {twice!r} stands twice"
    if not any(node.kind == GPU for node in graph.nodes):
        yield f"no node is a GPU (got kinds {', '.join(sorted({n.kind for n in graph.nodes}))}, allowed kind {GPU!r})"
    seen: set[tuple[str, str]] = set()
    for edge in graph.edges:
        named = f"edge {edge.source!r} to {edge.target!r}"
        for key, end in (("source", edge.source), ("target", edge.target)):
            if end not in known:
                yield f"{named}: {key} is no node (got {end!r})"
        if edge.source == edge.target:
            yield f"{named}: joins a node to itself"
        ways = [(edge.source, edge.target), *([] if graph.directed else [(edge.target, edge.source)])]
        if seen & set(ways):
            yield f"{named}: stands twice (parallel cables are one edge with the sum of their bandwidths)"
        seen.update(ways)


def _from_file(name: str, context: Mapping[str, Any] | None) -> dict[str, Any]:
    """Nodes, edges and `directed` of the file. Raises ValueError that names file, node or edge, and attribute."""
    suffix = Path(name).suffix
    if suffix not in SUFFIXES:
        raise ValueError(f"wrong file of a graph (got {name!r}, allowed a path that ends with {' or '.join(SUFFIXES)})")
    content = _content(name)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{name}: too large (got more than {MAX_BYTES} bytes, allowed up to that)")
    nodes, edges, is_directed = (_graphml if suffix == ".graphml" else _node_link)(name, content)
    return {
        "nodes": tuple(_read(Vertex, node, f"{name}: node {node.get('id')!r}", context) for node in nodes),
        "edges": tuple(
            _read(Edge, edge, f"{name}: edge {edge.get('source')!r} to {edge.get('target')!r}", context)
            for edge in edges
        ),
        "directed": is_directed,
    }


def _content(name: str) -> bytes:
    """At most one byte more than is allowed."""
    try:
        with Path(name).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError):
        message = f"no such file (got {name!r}, allowed a path, which counts from the working folder)"
        raise ValueError(message) from None


Columns = tuple[list[dict[str, Any]], list[dict[str, Any]], bool]


def _graphml(name: str, content: bytes) -> Columns:
    import networkx as nx  # noqa: PLC0415 - slow to import, and only a graph of the user's needs it

    try:
        graph = nx.parse_graphml(content.decode("utf-8"))
    except Exception as error:  # noqa: BLE001 - the XML parser and NetworkX raise what they like on a broken file
        raise ValueError(f"{name}: no GraphML ({error})") from None
    nodes = [{"id": str(node), **attributes} for node, attributes in graph.nodes(data=True)]
    edges = [
        {"source": str(source), "target": str(target), **{k: v for k, v in attributes.items() if k != "id"}}
        for source, target, attributes in graph.edges(data=True)
    ]
    return nodes, edges, graph.is_directed()


def _node_link(name: str, content: bytes) -> Columns:
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: no JSON ({error})") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{name}: wrong type (got {type(tree).__name__}, allowed an object with nodes and edges)")  # noqa: TRY004
    unknown = [key for key in tree if key not in ("nodes", "edges", "links", "directed", "multigraph", "graph")]
    if unknown or tree.get("graph"):
        allowed = "nodes, edges or links, directed"
        raise ValueError(f"{name}: unknown attribute (got {(unknown or ['graph'])[0]!r}, allowed {allowed})")
    edges_key = "links" if "links" in tree else "edges"
    found = []
    for key in ("nodes", edges_key):
        rows = tree.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{name}: {key}: missing or of a wrong type (allowed a list of objects)")
        found.append([{k: str(v) if k in ("id", "source", "target") else v for k, v in row.items()} for row in rows])
    is_directed = tree.get("directed", False)
    if not isinstance(is_directed, bool):
        raise ValueError(f"{name}: directed: wrong type (got {is_directed!r}, allowed true, false)")  # noqa: TRY004
    return found[0], found[1], is_directed


def _read(spec: type[T], row: dict[str, Any], place: str, context: Mapping[str, Any] | None) -> T:
    try:
        return spec.model_validate(row, context=None if context is None else dict(context))
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in details["loc"])
        fields = [field.alias or name for name, field in spec.model_fields.items()]
        match details["type"]:
            case "missing":
                message = f"missing (allowed {', '.join(fields)})"
            case "extra_forbidden":
                message = f"unknown attribute (got {key!r}, allowed {', '.join(fields)})"
            case "value_error":
                message = str(details["ctx"]["error"])
            case _:
                message = f"{details['msg']} (got {details['input']!r})"
        raise ValueError(f"{place}: {key}: {message}") from None
