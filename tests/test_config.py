import dataclasses
from typing import Annotated

import pytest
from pydantic import Discriminator, Tag
from pydantic.dataclasses import dataclass

from cisray.config import STRICT, data_path, flatten, load_job
from cisray.errors import InputError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Oven:
    degrees: int = 180
    fan: bool = False

    def __post_init__(self) -> None:
        if self.degrees > 300:
            raise InputError(f"degrees={self.degrees}; wanted at most 300")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Layer:
    name: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Cake:
    name: str
    grams: float = 500.0
    oven: Oven = Oven()
    layers: tuple[Layer, ...] = ()


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "cake.toml"
    path.write_text('name = "plain"\ngrams = 250\n[oven]\ndegrees = 200\n[[layers]]\nname = "base"\n')
    return path


def test_default_gives_way_to_the_file_and_the_file_to_an_override(job):
    assert load_job(job, Cake) == Cake(name="plain", grams=250.0, oven=Oven(degrees=200), layers=(Layer(name="base"),))
    changed = load_job(job, Cake, ["oven.degrees=150", "oven.fan=true"])
    assert changed.oven == Oven(degrees=150, fan=True)
    assert changed.grams == 250.0
    job.write_text('name = "plain"')
    assert load_job(job, Cake) == Cake(name="plain")
    assert load_job(job, Cake, ["oven.fan=true"]).oven == Oven(degrees=180, fan=True)


@pytest.mark.parametrize(
    ("text", "value"),
    [("lemon", "lemon"), ('"lemon"', "lemon"), ("runs/my-cake", "runs/my-cake"), ("a=b", "a=b")],
)
def test_an_override_is_toml_or_a_bare_word(job, text, value):
    assert load_job(job, Cake, [f"name={text}"]).name == value


def test_later_overrides_win_and_can_replace_a_list(job):
    changed = load_job(job, Cake, ["grams=1", "grams=2.5", 'layers=[{name="a"}, {name="b"}]'])
    assert changed.grams == 2.5
    assert [layer.name for layer in changed.layers] == ["a", "b"]


def test_an_override_reaches_into_a_list_by_number(job):
    both = 'layers=[{name="a"}, {name="b"}]'
    changed = load_job(job, Cake, [both, "layers.1.name=fruit"])
    assert [layer.name for layer in changed.layers] == ["a", "fruit"]
    changed = load_job(job, Cake, [both, 'layers.0={name="cream"}'])
    assert [layer.name for layer in changed.layers] == ["cream", "b"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gram=3", "unknown key gram; did you mean grams"),
        ("oven.degree=3", r"unknown key oven\.degree; did you mean oven\.degrees"),
        ("zzz=3", "unknown key zzz$"),
        ("oven.degrees=hot", r"oven\.degrees = 'hot': Input should be a valid integer"),
        ("oven.degrees=1.5", r"oven\.degrees = 1\.5"),
        ("oven=3", "oven = 3"),
        ("oven.degrees=301", "degrees=301; wanted at most 300"),
    ],
)
def test_a_bad_setting_is_told_with_the_file_and_the_key(job, override, message):
    with pytest.raises(InputError, match=message) as caught:
        load_job(job, Cake, [override])
    assert str(caught.value).startswith(f"{job}: ")


Dessert = Annotated[
    Annotated[Cake, Tag("cake")] | Annotated[Oven, Tag("oven")],
    Discriminator(lambda values: values.get("source", "cake") if isinstance(values, dict) else "cake"),
]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("source=pie", r"cake\.toml: source = 'pie'; wanted one of 'cake', 'oven'"),
        ("gram=3", r"unknown key gram; did you mean grams\?"),
        ("degrees=3", r"unknown key degrees; did you mean oven\.degrees\?"),
        ("oven.degrees=301", r"oven = .*degrees=301; wanted at most 300"),
        ("layers=3", r"layers = 3: wanted a list"),
        ("oven=3", r"oven = 3: wanted a section of keys and values"),
    ],
)
def test_a_union_tells_of_the_member_that_was_meant(job, override, message):
    assert isinstance(load_job(job, Dessert), Cake)
    with pytest.raises(InputError, match=message):
        load_job(job, Dessert, [override])


def test_every_bad_setting_is_told_at_once(job):
    with pytest.raises(InputError, match=r"oven\.degrees = 'hot'.*\n.*unknown key gram;") as caught:
        load_job(job, Cake, ["oven.degrees=hot", "gram=1"])
    assert str(caught.value).count(str(job)) == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grams", r"'grams': wanted key=value"),
        ("=3", "wanted key=value"),
        ("grams.unit=kg", "grams is a value, not a section"),
        ("layers.name=top", "name stands where a list of 1 has its numbers, from 0; name one of them"),
        ("layers.1.name=top", "1 stands where a list of 1 has its numbers, from 0"),
        ("layers.-1=top", "-1 stands where a list of 1 has its numbers, from 0"),
        ("layers.0.name.first=top", r"layers\.0\.name is a value, not a section"),
    ],
)
def test_an_unusable_override_is_refused(job, override, message):
    with pytest.raises(InputError, match=message):
        load_job(job, Cake, [override])


def test_a_missing_key_is_named(job):
    job.write_text("grams = 3")
    with pytest.raises(InputError, match=r"cake\.toml: name is missing and has no default"):
        load_job(job, Cake)


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml: no such job file"):
        load_job(tmp_path / "none.toml", Cake)
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(InputError, match=r"broken\.toml: not valid TOML"):
        load_job(broken, Cake)
    broken.write_bytes(b"name = '\xff'")
    with pytest.raises(InputError, match=r"broken\.toml: not valid TOML"):
        load_job(broken, Cake)


def test_a_made_job_does_not_change(job):
    with pytest.raises(dataclasses.FrozenInstanceError, match="grams"):
        load_job(job, Cake).grams = 3.0  # type: ignore[misc]


def test_data_is_sought_below_data_dir_then_below_the_environment_then_here(tmp_path, monkeypatch):
    for folder in ("given", "environment", "here"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.fa").touch()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("CISRAY_DATA", raising=False)
    assert data_path("a.fa", None) == tmp_path / "here/a.fa"
    with pytest.raises(InputError, match=r"b\.fa: no such input file \(neither data_dir nor"):
        data_path("b.fa", None)
    monkeypatch.setenv("CISRAY_DATA", str(tmp_path / "environment"))
    assert data_path("a.fa", None) == tmp_path / "environment/a.fa"
    assert data_path("a.fa", str(tmp_path / "given")) == tmp_path / "given/a.fa"
    assert data_path(str(tmp_path / "here/a.fa"), str(tmp_path / "given")) == tmp_path / "here/a.fa"
    with pytest.raises(InputError, match=r"environment/b\.fa: no such input file; check"):
        data_path("b.fa", None)


def test_flatten_joins_keys_with_dots():
    assert flatten({"a": 1, "b": {"c": [2], "d": {"e": None}}}) == {"a": 1, "b.c": [2], "b.d.e": None}


def test_a_job_that_holds_a_password_is_refused_and_does_not_show_it(job):
    with pytest.raises(InputError, match=r"cake\.toml: name is an address that holds a password") as told:
        load_job(job, Cake, ["name=s3://me:hunter2@bucket/genome.fa"])
    assert "hunter2" not in str(told.value)
