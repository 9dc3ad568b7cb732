import pytest

from sim.errors import SimError
from sim.spec import find

pytestmark = pytest.mark.usefixtures("folders")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("scenarios", "topologies", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text(folder)
    return tmp_path


@pytest.mark.parametrize("name", ["mine", "mine.yaml", "scenarios/mine.yaml", "./scenarios/mine.yaml"])
def test_a_scenario_is_found_by_name_and_by_path(folders, name):
    assert find.find("scenarios", name).resolve() == folders / "scenarios" / "mine.yaml"


def test_an_absolute_path_is_taken_as_it_is(folders):
    assert find.find("scenarios", str(folders / "other" / "mine.yaml")) == folders / "other" / "mine.yaml"


def test_a_reference_means_the_file_beside_the_one_that_refers(folders):
    (folders / "mine.yaml").write_text("in the working folder")
    assert find.find("scenarios", "mine.yaml", folders / "other") == folders / "other" / "mine.yaml"


def test_a_reference_falls_back_to_the_working_folder(folders):
    (folders / "top.yaml").write_text("")
    assert find.find("scenarios", "top.yaml", folders / "other").resolve() == folders / "top.yaml"


def test_the_working_folder_shadows_what_is_shipped(folders):
    (folders / "topologies" / "dgx-h100.yaml").write_text("mine")
    assert find.find("topologies", "dgx-h100").read_text() == "mine"


def test_what_is_shipped_is_found_from_any_folder():
    assert find.find("topologies", "dgx-h100").name == "dgx-h100.yaml"
    assert find.find("models", "llama2-70b").name == "llama2-70b.yaml"
    assert find.find("gpus", "h100-sxm").parent.name == "gpus"


def test_a_wheel_ships_its_topologies_inside_the_package(folders, monkeypatch):
    shipped = folders / "sim" / "_shipped" / "topologies"
    shipped.mkdir(parents=True)
    (shipped / "in-wheel.yaml").write_text("")
    monkeypatch.setattr(find, "_PACKAGE", folders / "sim")
    assert find.find("topologies", "in-wheel") == shipped / "in-wheel.yaml"
    assert find.names("topologies") == ["in-wheel", "mine"]


def test_names_are_sorted_and_stand_once(folders):
    (folders / "topologies" / "dgx-h100.yaml").write_text("")
    names = find.names("topologies")
    assert names == sorted(set(names))
    assert {"mine", "dgx-h100"} <= set(names)


@pytest.mark.parametrize("name", ["h100-smx", "", "h100-sxm/", "nul\0", "x" * 5000])
def test_an_unknown_name_lists_what_exists(name):
    with pytest.raises(SimError, match=r"unknown gpu, no such file or name .*allowed .*h100-sxm"):
        find.find("gpus", name)


def test_a_misspelt_name_is_answered_with_what_was_meant():
    with pytest.raises(SimError, match="did you mean 'h100-sxm'"):
        find.find("gpus", "h100-smx")


def test_a_folder_with_the_name_of_a_file_is_no_scenario(folders):
    (folders / "scenarios" / "folder.yaml").mkdir()
    with pytest.raises(SimError, match="unknown scenario"):
        find.find("scenarios", "folder.yaml")


@pytest.mark.parametrize("name", ["other", "other/", ".", "..", "./other"])
def test_a_folder_is_called_one(name):
    with pytest.raises(SimError, match=r"a folder is no scenario \(got '.*', allowed one of its files, or a name\)"):
        find.find("scenarios", name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("here", "here.yaml"),
        ("./here", "here.yaml"),
        ("here.yml", "here.yaml"),
        ("other/mine", "other/mine.yaml"),
        ("other/mein.yaml", "other/mine.yaml"),
        ("scenarios/mine.yml", "scenarios/mine.yaml"),
    ],
)
def test_a_misspelt_path_is_answered_with_the_file_beside_it(folders, name, meant):
    (folders / "here.yaml").write_text("")
    with pytest.raises(SimError, match=f"did you mean '{meant}'"):
        find.find("scenarios", name)


def test_a_misspelt_reference_is_answered_as_it_would_be_written_in_its_file(folders):
    with pytest.raises(SimError, match=r"got 'mein.yaml', .*did you mean 'mine.yaml'"):
        find.find("scenarios", "mein.yaml", folders / "other")


def test_an_unknown_path_says_where_names_are_listed():
    with pytest.raises(SimError, match=r"got 'a/b.yaml', allowed a file, or a name that `sim list gpus` shows\)"):
        find.find("gpus", "a/b.yaml")
