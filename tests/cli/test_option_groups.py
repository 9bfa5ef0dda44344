import inspect
from dataclasses import dataclass, field
from typing import Annotated

import pytest

from cisray.cli.option_groups import with_options


@dataclass(frozen=True, kw_only=True)
class Options:
    names: Annotated[list[str], "which"] = field(default_factory=lambda: ["all"])
    fast: Annotated[bool, "how"] = False


seen = []


@with_options
def verb(place: Annotated[str, "where"], options: Options) -> None:
    """Do something."""
    seen.append((place, options))


def test_the_fields_of_a_group_stand_in_its_place():
    parameters = inspect.signature(verb).parameters
    assert list(parameters) == ["place", "names", "fast"]
    assert parameters["place"].default is inspect.Parameter.empty
    assert parameters["names"].default == ["all"]
    assert parameters["fast"].default is False
    assert parameters["fast"].annotation == Annotated[bool, "how"]
    assert (verb.__name__, verb.__doc__) == ("verb", "Do something.")


def test_the_verb_gets_the_group_made_of_them():
    seen.clear()
    verb(place="here", names=["a", "b"], fast=True)
    assert seen == [("here", Options(names=["a", "b"], fast=True))]
    with pytest.raises(KeyError, match="fast"):
        verb(place="here", names=[])
