import copy
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.ray
PATH = Path(__file__).parents[2] / "infra" / "cloud" / "aws.yaml"


@pytest.fixture(scope="module")
def autoscaler():
    """What `ray up` does first: fill in the provider's defaults, then check."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    def check(config):
        prepared = prepare_config(copy.deepcopy(config))
        validate_config(prepared)
        return prepared

    return check


@pytest.fixture
def config():
    return yaml.safe_load(PATH.read_text(encoding="utf-8"))


def test_the_installed_ray_accepts_it(config, autoscaler):
    prepared = autoscaler(config)
    assert prepared["head_node_type"] == "head"
    types = prepared["available_node_types"]
    assert types["head"]["max_workers"] == 0
    assert sum(types[name]["max_workers"] for name in ("cpu", "gpu")) >= prepared["max_workers"]
    # Ray's own defaults, which install a development version, are not mixed in
    assert prepared["setup_commands"] == prepared["head_setup_commands"] == []


WRONG = {
    "an unknown key": (lambda config: config.update(max_worker=3), "max_worker"),
    "text where a number is wanted": (lambda config: config.update(idle_timeout_minutes="ten"), "ten"),
    "a head that is no node type": (lambda config: config.update(head_node_type="hed"), "head_node_type"),
    "more workers than allowed": (
        lambda config: config["available_node_types"]["cpu"].update(min_workers=20, max_workers=20),
        "max_workers",
    ),
}


@pytest.mark.parametrize(("change", "told"), WRONG.values(), ids=WRONG)
def test_the_installed_ray_refuses_what_is_wrong(config, autoscaler, change, told):
    from jsonschema import ValidationError

    change(config)
    with pytest.raises((ValidationError, ValueError), match=told):
        autoscaler(config)


def test_workers_are_spot_machines_and_the_head_is_not(config):
    spot = {
        name: one["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        for name, one in config["available_node_types"].items()
    }
    assert spot == {"head": False, "cpu": True, "gpu": True}
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_only_those_with_the_token_get_in(config):
    assert config["file_mounts"] == {"/home/cisray/.ray/auth_token": "~/.ray/auth_token"}
    dockerfile = (PATH.parents[1] / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert "HOME=/home/cisray" in dockerfile
    assert "RAY_AUTH_MODE=token" in dockerfile
    (start,) = [line for line in config["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in start
    for one in config["available_node_types"].values():  # or Ray would make a group that lets in SSH from anywhere
        assert one["node_config"]["SecurityGroupIds"]
        assert one["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}
