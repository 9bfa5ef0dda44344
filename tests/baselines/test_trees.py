import pytest
from pydantic import ValidationError

from cisray.baselines.trees import GradientBoostingConfig, RandomForestConfig


def test_settings_come_the_most_restrained_first():
    assert RandomForestConfig(leaf_sizes=(1, 9, 4)).settings == (9.0, 4.0, 1.0)
    assert GradientBoostingConfig(rounds=(9, 1, 4)).settings == (1.0, 4.0, 9.0)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (RandomForestConfig, {"num_trees": 0}, "random_forest: num_trees=0, .*; wanted at least one of each"),
        (RandomForestConfig, {"leaf_sizes": ()}, r"leaf_sizes=\[\]; wanted at least one"),
        (RandomForestConfig, {"leaf_sizes": (0,)}, r"leaf_sizes=\[0\]; wanted at least one"),
        (RandomForestConfig, {"feature_share": 0.0}, "feature_share=0.0; wanted above 0 and up to 1"),
        (RandomForestConfig, {"features": ()}, "features: none"),
        (GradientBoostingConfig, {"rounds": ()}, r"gradient_boosting: rounds=\[\], .*; wanted at least 1 round"),
        (GradientBoostingConfig, {"max_leaves": 1}, "max_leaves=1, .*wanted at least 1 round, 2 leaves"),
        (GradientBoostingConfig, {"leaf_size": 0}, "leaf_size=0; wanted at least 1 round"),
        (GradientBoostingConfig, {"learning_rate": 0.0}, "learning_rate=0.0; wanted above 0 and up to 1"),
        (GradientBoostingConfig, {"features": ()}, "features: none"),
    ],
)
def test_settings_that_cannot_be_are_refused(kind, fields, message):
    with pytest.raises(ValidationError, match=message):
        kind(**fields)
