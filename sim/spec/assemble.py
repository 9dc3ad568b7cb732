"""From a scenario file to a `Scenario`: inheritance, named parts, overrides, and every mistake at its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from sim.errors import Problem, SimError
from sim.registry import unknown
from sim.spec.check import check, derive_dp
from sim.spec.conditions import Conditions
from sim.spec.expenses import Cost
from sim.spec.find import Kind, find
from sim.spec.gpu import Gpu
from sim.spec.huggingface import model_from_config
from sim.spec.layout import Layout
from sim.spec.mistakes import joined, shown, validated
from sim.spec.model import Model
from sim.spec.quantity import Spec
from sim.spec.scenario import Scenario, Setting
from sim.spec.source import COMMAND_LINE, Node, Place, locate, merge, nested, parse, plain, planted, read, scalar
from sim.spec.stack import Stack
from sim.spec.topology import FABRICS, FabricSpec
from sim.spec.training import Training

T = TypeVar("T")
Overrides: TypeAlias = Mapping[str, object] | Sequence[str]
Check: TypeAlias = Callable[[Scenario], Iterable[tuple[str, str]]]

PARTS = ("model", "gpu", "topology", "stack", "layout", "training")
DEFAULT_STACK = "megatron-core"
STRUCTURE = ("extends", "variants", "sweep")
KEYS = ("name", "extends", *PARTS, "network", "conditions", "cost", "seed", "variants", "sweep", "measured")

_OWN_KEYS = frozenset(KEYS) - frozenset(STRUCTURE)
_KINDS: dict[str, Kind] = {"model": "models", "gpu": "gpus", "topology": "topologies", "stack": "stacks"}
_SPECS: dict[str, type[Spec]] = {"model": Model, "gpu": Gpu, "stack": Stack, "layout": Layout, "training": Training}
_HOLDERS: dict[str, type[Spec]] = {
    "layout": Layout,
    "training": Training,
    "conditions": Conditions,
    "cost": Cost,
}
_OF_ONE_FILE = ("name", "measured")
_IDENTITY = {"use", "fabric", "model_type"}


@dataclass
class Files:
    """Files read so far, so that the variants of a scenario share what they name."""

    _nodes: dict[Path, Node] = field(default_factory=dict)
    _made: dict[tuple[str, object], tuple[Node, Any]] = field(default_factory=dict)

    def mapping(self, path: Path) -> Node:
        """The mapping that the file holds. Raises SimError where it holds none."""
        if path not in self._nodes:
            self._nodes[path] = read(path)
        node = self._nodes[path]
        if not isinstance(node.value, dict):
            raise SimError(node.place.problem("", _not_a_mapping(node)))
        return node

    def once(self, what: str, given: Node, make: Callable[[], T]) -> T:
        """What `make` makes of the node `given`, made once for all scenarios that share it.

        A name is the same wherever it was written in one place; anything else is only itself.
        """
        key = (what, given if isinstance(given.value, str) else id(given))
        if key not in self._made:
            # The node is kept, as another one could get its id.
            self._made[key] = (given, make())
        made: T = self._made[key][1]
        return made


def _not_a_mapping(node: Node) -> str:
    return f"wrong type (got {shown(plain(node))}, allowed a mapping of keys to values)"


def keys(node: Node) -> dict[str, Node]:
    """The entries of a node that is known to be a mapping."""
    assert isinstance(node.value, dict)
    return node.value


def without(node: Node, *dropped: str) -> Node:
    """The mapping without some of its keys."""
    return Node({key: item for key, item in keys(node).items() if key not in dropped}, node.place)


def scenario_tree(path: Path, files: Files) -> Node:
    """What the file says once all that it extends is merged; a name and a measurement belong to their own file."""
    return _extended(path, files, ())


def _extended(path: Path, files: Files, above: tuple[Path, ...]) -> Node:
    root = files.mapping(path)
    extends = keys(root).get("extends")
    if extends is None:
        return root
    if not isinstance(extends.value, str):
        message = f"wrong type (got {shown(plain(extends))}, allowed the name of a scenario file)"
        raise SimError(extends.place.problem("extends", message))
    base_path = _found("scenarios", extends.value, extends.place, "extends")
    chain = (*above, path.resolve())
    if base_path.resolve() in chain:
        names = " -> ".join(each.name for each in (*chain, base_path))
        raise SimError(extends.place.problem("extends", f"comes back to itself ({names})"))
    base = _extended(base_path, files, chain)
    return overlaid(without(base, *_OF_ONE_FILE), without(root, "extends"))


def _found(kind: Kind, name: str, place: Place, path: str) -> Path:
    """`find` near the file of `place`, with a mistake that stands there."""
    near = None if place == COMMAND_LINE else Path(place.file).parent
    try:
        return find(kind, name, near)
    except SimError as error:
        raise SimError([place.problem(path, problem.message) for problem in error.problems]) from None


def overlaid(base: Node, over: Node) -> Node:
    """One scenario laid on another.

    Where `base` gives a part by name and `over` some of its fields, the fields override those of the name. Where `over`
    says itself what the part is (by name, `use`, `fabric` or `model_type`), nothing of the part in `base` stays.
    """
    if isinstance(base.value, dict) and isinstance(over.value, dict):
        kept = dict(base.value)
        for part in _KINDS.keys() & base.value.keys() & over.value.keys():
            below, above = base.value[part], over.value[part]
            if isinstance(above.value, dict) and above.value.keys() & _IDENTITY:
                del kept[part]
            elif isinstance(below.value, str):
                kept[part] = Node({"use": below}, below.place)
        base = Node(kept, base.place)
    return merge(base, over)


def overridden(root: Node, overrides: Overrides) -> Node:
    """The scenario with `--set` values laid on it. Raises SimError for what is no KEY=VALUE."""
    pairs = overrides.items() if isinstance(overrides, Mapping) else [_pair(text) for text in overrides]
    for path, value in pairs:
        if path.split(".")[0] in STRUCTURE:
            message = f"cannot be set (allowed paths below {', '.join(key for key in KEYS if key not in STRUCTURE)})"
            raise SimError(COMMAND_LINE.problem(path, message))
        leaf = _value(path, value) if isinstance(value, str) else planted(value, COMMAND_LINE)
        root = overlaid(root, nested(path, leaf))
    return root


def _pair(text: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not all(path.split(".")):
        raise SimError(Problem(f"--set needs a path and a value (got {text!r}, allowed such as layout.tp=4)"))
    return path, value.strip()


def _value(path: str, text: str) -> Node:
    """A scalar, or a list, mapping or quoted text as YAML writes it on one line."""
    if not text.startswith(("[", "{", "'", '"')):
        return Node(scalar(text), COMMAND_LINE)
    try:
        return planted(plain(parse(text.encode("utf-8", "replace"), COMMAND_LINE.file, path)), COMMAND_LINE)
    except SimError as error:
        raise SimError([COMMAND_LINE.problem(path, problem.message) for problem in error.problems]) from None


def build(root: Node, name: str, variant: str | None, files: Files, checks: Sequence[Check] = ()) -> Scenario:
    """The scenario that a merged tree describes; `name` is for a file that states none.

    `checks` run after those of this package, on a scenario that passed them. Raises SimError with every mistake.
    """
    given = {"name": Node(name, root.place)} | keys(root) | {"stack": _stack(keys(root).get("stack"), root.place)}
    problems = [root.place.problem(part, _missing(part)) for part in PARTS if part not in given]
    problems += [
        node.place.problem(key, _misplaced(key, node.place)) for key, node in keys(root).items() if key not in _OWN_KEYS
    ]
    tree = dict(given)
    values: dict[str, Any] = {}
    for part in (*PARTS, "setting"):
        try:
            values |= _setting(tree, root.place) if part == "setting" else _part(part, tree, files)
        except SimError as error:
            problems += error.problems
    mistakes = _derive(values)
    known = frozenset(values) - ({"topology"} if mistakes else set())
    mistakes += check(Scenario.model_construct(None, **values), known)
    resolved = Node(tree, root.place)
    problems += [_placed(resolved, *mistake) for mistake in mistakes]
    if problems:
        raise SimError(sorted(problems, key=_in_reading_order))
    scenario = Scenario.model_validate(values | {"variant": variant})
    if problems := [_placed(resolved, *mistake) for each in checks for mistake in each(scenario)]:
        raise SimError(problems)
    return scenario


def parts_of(root: Node, names: Sequence[str], files: Files) -> dict[str, Any]:
    """Some parts of a scenario, resolved and checked each by itself: for files that describe no whole scenario.

    `stack` is the default one where `root` has none; another part that it lacks is left out. Raises SimError with every
    mistake.
    """
    tree = dict(keys(root)) | {"stack": _stack(keys(root).get("stack"), root.place)}
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name in names:
        try:
            values |= _part(name, tree, files)
        except SimError as error:
            problems += error.problems
    if problems:
        raise SimError(problems)
    return values


def _missing(part: str) -> str:
    allowed = f"a name of `sim list {_KINDS[part]}`, or a mapping" if part in _KINDS else "a mapping"
    return f"missing (allowed {allowed})"


def _misplaced(key: str, place: Place) -> str:
    if key in STRUCTURE:
        return "cannot stand inside a variant or a sweep (allowed at the top of a file)"
    holder = next((part for part, spec in _HOLDERS.items() if key in spec.model_fields), "")
    if holder:
        return f"unknown key (got {key!r}, did you mean '{holder}.{key}'?)"
    return unknown("key", key, [name for name in KEYS if place != COMMAND_LINE or name not in STRUCTURE])


def _in_reading_order(problem: Problem) -> tuple[str, int, int]:
    return problem.file, problem.line or 0, problem.column or 0


def _placed(root: Node, path: str, message: str) -> Problem:
    return locate(root, path.split(".")).problem(path, message)


def _setting(tree: Mapping[str, Node], place: Place) -> dict[str, Any]:
    given = {key: tree[key] for key in Setting.model_fields if key in tree and key in KEYS}
    setting = validated(Setting, Node(given, place), "")
    return {key: getattr(setting, key) for key in given}


def _part(part: str, tree: dict[str, Node], files: Files) -> dict[str, Any]:
    """The part by its name, if the file has it; in `tree` its named file takes the place of the name."""
    if part not in tree:
        return {}
    if part not in _KINDS:
        node = _with_schedule_file(tree[part]) if part == "layout" else tree[part]
        return {part: validated(_SPECS[part], node, part)}

    given = tree[part]
    node = tree[part] = files.once(f"{part} resolved", given, lambda: _resolved(part, given, files))
    if part == "stack":
        _fill(tree, "training", keys(node).get("training"))
    if part == "topology":
        return {part: files.once(part, node, lambda: _topology(node))}
    return {part: files.once(part, node, lambda: validated(_SPECS[part], node, part))}


def _with_schedule_file(layout: Node) -> Node:
    """The layout where a schedule in a file counts from the folder of the file that names it, as other paths do."""
    schedule = layout.value.get("schedule") if isinstance(layout.value, dict) else None
    if schedule is None or schedule.place == COMMAND_LINE or not str(schedule.value).endswith(".csv"):
        return layout
    path = Path(schedule.place.file).parent / str(schedule.value)
    return (
        Node(keys(layout) | {"schedule": Node(str(path), schedule.place)}, layout.place) if path.is_file() else layout
    )


def _stack(given: Node | None, place: Place) -> Node:
    """The stack, by default Megatron-Core; fields without a name, and without their sources, are laid on that."""
    if given is None:
        return Node(DEFAULT_STACK, place)
    if isinstance(given.value, dict) and not given.value.keys() & {"use", "sources"}:
        return Node({"use": Node(DEFAULT_STACK, given.place)} | given.value, given.place)
    return given


def _fill(tree: dict[str, Node], part: str, defaults: Node | None) -> None:
    """Put values under those that the scenario states itself."""
    if defaults is not None and part in tree and isinstance(tree[part].value, dict):
        tree[part] = merge(defaults, tree[part])


def _derive(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Put `dp` into the layout where it is left out."""
    if "layout" in values and "topology" in values:
        try:
            values["layout"] = derive_dp(values["layout"], values["topology"])
        except ValueError as error:
            return [("layout", str(error))]
    return []


def _topology(node: Node) -> FabricSpec:
    """An instance of the family that the key `fabric` names."""
    fabric = keys(node).get("fabric")
    if fabric is None:
        raise SimError(node.place.problem("topology.fabric", f"missing (allowed {', '.join(FABRICS)})"))
    if not isinstance(fabric.value, str):
        message = f"wrong type (got {shown(plain(fabric))}, allowed {', '.join(FABRICS)})"
        raise SimError(fabric.place.problem("topology.fabric", message))
    if fabric.value not in list(FABRICS):
        message = unknown("fabric family", fabric.value, list(FABRICS))
        raise SimError(fabric.place.problem("topology.fabric", message))
    return validated(FABRICS[fabric.value], without(node, "fabric"), "topology")


def _resolved(part: str, node: Node, files: Files) -> Node:
    """The fields of a part that is given by name, by name with overrides (`use:`), or in full."""
    use = node if isinstance(node.value, str) else None
    if isinstance(node.value, dict):
        use = node.value.get("use")
        if use is None:
            return _in_our_terms(node, "model", part) if part == "model" else node
    if use is None or not isinstance(use.value, str):
        place, got = (use or node).place, shown(plain(use or node))
        path = f"{part}.use" if use is not None else part
        raise SimError(place.problem(path, f"wrong type (got {got}, allowed a name, or a mapping of keys to values)"))
    named = _named(part, use.value, use.place, files)
    return named if use is node else merge(named, without(node, "use"))


def _named(part: str, name: str, place: Place, files: Files) -> Node:
    """The fields in the file that `name` means; a file that states no name is called as it is."""
    path = _found(_KINDS[part], name, place, part)
    node = files.mapping(path)
    own_name = path.parent.name if path.stem == "config" and path.parent.name else path.stem
    if part == "model":
        node = _in_our_terms(node, own_name, part, is_config=path.suffix == ".json")
    return Node({"name": Node(own_name, node.place)} | keys(node), node.place)


def _in_our_terms(node: Node, name: str, path: str, *, is_config: bool = False) -> Node:
    """The model, translated where it is a Hugging Face configuration: that has a `model_type` or is a JSON file."""
    if "model_type" not in keys(node) and (not is_config or "num_layers" in keys(node)):
        return node
    config = _as_json(node)
    for holder, holder_path in ((config, ()), (config.get("text_config"), ("text_config",))):
        found = holder.get("model_type") if isinstance(holder, dict) else None
        if found is not None and not isinstance(found, str):
            where = (*holder_path, "model_type")
            message = f"wrong type (got {shown(found)}, allowed the name of a model type)"
            raise SimError(locate(node, where).problem(joined(path, where), message))
    try:
        model = model_from_config(config, name)
    except SimError as error:
        parts = [(problem.path.split(".") if problem.path else [], problem.message) for problem in error.problems]
        raise SimError(
            [locate(node, where).problem(joined(path, where), message) for where, message in parts]
        ) from None
    return planted(model.model_dump(by_alias=True), node.place)


def _as_json(node: Node) -> Any:
    """The plain value with lists, as a JSON reader gives it."""
    match node.value:
        case dict() as mapping:
            return {key: _as_json(item) for key, item in mapping.items()}
        case tuple() as items:
            return [_as_json(item) for item in items]
        case value:
            return value
