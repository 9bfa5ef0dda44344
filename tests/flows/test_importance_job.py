import pytest

from cisray.config import check_settings
from cisray.errors import InputError
from cisray.flows.importance_job import ImportanceJob

pytestmark = pytest.mark.ray
PLACES = {"model": "m", "dataset": "d", "out": "o"}


def test_a_job_measures_the_test_split_unless_told_otherwise():
    job = check_settings(PLACES | {"groups": {"cg": ["kmers:*CG*"]}}, ImportanceJob, source="test")
    assert (job.split, job.by, job.groups) == ("test", (), {"cg": ("kmers:*CG*",)})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"by": ["words", "words"]}, r"by=\['words', 'words'\].*wanted each once"),
        ({"by": ["guess"]}, "by.0 = 'guess'"),
        ({"resamples": 1}, "resamples=1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"words": ["NN"]}, "word 'NN'"),
        ({"split": "train"}, "split = 'train'"),
        ({"split": "valid", "by": ["removed"]}, "by=removed chooses the settings of its fits on the valid split"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, told):
    with pytest.raises(InputError, match=told):
        check_settings(PLACES | settings, ImportanceJob, source="test")
