import pytest
import yaml

from sim.errors import SimError
from sim.spec import source
from sim.spec.source import MAX_DEPTH, Node, Place, locate, merge, parse, plain, read, scalar


@pytest.fixture(params=sorted({source._LOADER, yaml.SafeLoader}, key=str), autouse=True)
def _with_and_without_libyaml(request, monkeypatch):
    monkeypatch.setattr(source, "_LOADER", request.param)


def value_of(text, path=""):
    return plain(parse(text.encode(), "f.yaml", path))


def complaint(content):
    with pytest.raises(SimError) as caught:
        parse(content if isinstance(content, bytes) else content.encode(), "f.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1e9),
        ("1.5E-3", 0.0015),
        (".5", 0.5),
        ("8", 8),
        ("-3", -3),
        ("1_024", 1024),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("12:30", "12:30"),
        ("010", "010"),
        ("0x10", "0x10"),
        (".nan", ".nan"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("1.2.3", "1.2.3"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_plain_scalar_is_what_a_reader_takes_it_for(text, value):
    read_back = scalar(text)
    assert read_back == value
    assert type(read_back) is type(value)


def test_a_quoted_scalar_is_text():
    assert value_of("a: '8'\nb: \"true\"") == {"a": "8", "b": "true"}


def test_a_value_remembers_the_place_of_its_key_and_an_item_its_own():
    node = parse(b"a:\n  b: 1\n  c: [10, 20]\n", "f.yaml")
    assert locate(node, ["a", "b"]) == Place("f.yaml", 2, 3)
    assert locate(node, ["a", "c", 1]) == Place("f.yaml", 3, 11)


def test_what_is_missing_is_located_at_its_parent():
    node = parse(b"x: 1\na:\n  b: 1\n", "f.yaml")
    assert locate(node, ["a", "z", "q"]) == Place("f.yaml", 2, 1)


def test_an_anchor_is_read_where_its_alias_stands():
    assert value_of("a: &x {b: 1}\nc: *x") == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: key 'a' stands twice"),
        ("a: 1\n2: 3\n", "f.yaml:2:1: a key must be a string (got 2, allowed it in quotes)"),
        ("on: 1\n? [x]\n: 3\n", "f.yaml:2:3: a key must be a string (got a list, allowed it in quotes)"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document (allowed one in a file)"),
        ("", "f.yaml:1:1: empty (allowed a mapping of keys to values)"),
        ("# only a comment\n", "f.yaml:1:1: empty (allowed a mapping of keys to values)"),
        ("a: &x [*x]\n", "f.yaml:1:8: alias *x lies inside what it names"),
        ("a: *x\n", "f.yaml:1:4: alias *x names no anchor above it"),
        (
            "a: &x {b: 1}\nc:\n  <<: *x\n",
            "f.yaml:3:3: merge keys are not read (allowed `extends`, or the keys themselves)",
        ),
        ("a: !!python/object:os.system x\n", "f.yaml:1:4: a tag (got 'tag:yaml.org,2002:python/object:os.system'"),
        (b"a: 1\nb: \xff\n", "f.yaml:2:4: no text in UTF-8 (byte 0xff)"),
        ("a: 1\n\tb: 2\n", "f.yaml:2:1: no valid YAML: "),
        ("a: [1, 2\n", "f.yaml:2:1: no valid YAML: "),
        ("a: 1\nb: \x01\n", "f.yaml:2:4: no valid YAML: "),
    ],
)
def test_a_broken_file_is_refused_at_its_place(content, message):
    assert complaint(content).startswith(message)


def test_all_bad_keys_are_told_at_once():
    assert complaint("a: 1\na: 2\n3: 4\n").splitlines() == [
        "f.yaml:2:1: key 'a' stands twice",
        "f.yaml:3:1: a key must be a string (got 3, allowed it in quotes)",
    ]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("conditions: {gpus: {3: x, -1: y}}", ""),
        ("variants: {a: {conditions: {gpus: {3: x, -1: y}}}}", ""),
        ("sweep: {product: {conditions.gpus: [{3: x, -1: y}]}}", ""),
        ("sweep: {points: [{conditions: {gpus: {3: x, -1: y}}}]}", ""),
        ("{gpus: {3: x, -1: y}}", "conditions"),
        ("{3: x, -1: y}", "conditions.gpus"),
    ],
)
def test_the_keys_of_gpus_may_be_whole_numbers(text, path):
    assert "{'3': 'x', '-1': 'y'}" in str(value_of(text, path))


@pytest.mark.parametrize(
    "text", ["gpus: {3: x}", "my_conditions: {gpus: {3: x}}", "conditions: {3: x}", "conditions: {gpus: {a: {3: x}}}"]
)
def test_elsewhere_a_key_is_no_number(text):
    assert "a key must be a string (got 3, allowed it in quotes)" in complaint(text)


@pytest.mark.parametrize("key", ["3.0", "true", "null"])
def test_the_keys_of_gpus_are_nothing_but_whole_numbers_or_text(key):
    message = f"f.yaml:2:10: a key must be a whole number (got {scalar(key)!r}, allowed such as 3)"
    assert complaint(f"conditions:\n  gpus: {{{key}: 1}}\n") == message


def test_a_gpu_stands_once_however_its_number_is_written():
    assert complaint("conditions: {gpus: {3: 1, '3': 1}}") == "f.yaml:1:27: key '3' stands twice"


def test_very_deep_nesting_is_refused():
    assert complaint("[" * 100_000) == f"f.yaml:1:{MAX_DEPTH + 1}: too deep (allowed up to {MAX_DEPTH} levels)"


def test_an_alias_bomb_is_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    assert "too many values, aliases counted" in complaint("\n".join(lines))


def test_a_json_file_is_read_with_its_escapes():
    assert value_of('{"a": [1, 1e-05, null, true],\n  "b": "x\\/y\\u00e9"}') == {
        "a": (1, 1e-5, None, True),
        "b": "x/y\u00e9",
    }


@pytest.mark.parametrize("name", ["missing.yaml", "folder", "nul\0.yaml"])
def test_a_file_that_cannot_be_read_is_a_users_mistake(name, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(SimError, match="cannot be read"):
        read(tmp_path / name)


def test_a_file_below_the_working_folder_is_named_from_there(tmp_path, monkeypatch):
    (tmp_path / "x.yaml").write_text("a: 1")
    monkeypatch.chdir(tmp_path)
    assert read(tmp_path / "x.yaml").place.file == "x.yaml"


def test_merging_goes_key_by_key_and_replaces_lists():
    base = parse(b"a: {x: 1, y: [1, 2, 3]}\nb: 2\n", "base.yaml")
    over = parse(b"a: {y: [4], z: 5}\n", "over.yaml")
    merged = merge(base, over)
    assert plain(merged) == {"a": {"x": 1, "y": (4,), "z": 5}, "b": 2}
    assert locate(merged, ["a", "x"]).file == "base.yaml"
    assert locate(merged, ["a", "z"]).file == "over.yaml"


def test_merging_leaves_its_arguments_alone():
    base = parse(b"a: {x: 1}", "base.yaml")
    merge(base, parse(b"a: {x: 2}", "over.yaml"))
    assert plain(base) == {"a": {"x": 1}}


def test_a_mistake_on_the_command_line_names_the_option():
    node = Node(3, Place("--set"))
    assert str(node.place.problem("layout.tp", "wrong")) == "--set layout.tp: wrong"
