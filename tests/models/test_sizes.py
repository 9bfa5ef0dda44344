import pytest

from cisray.errors import InputError
from cisray.models.sizes import check_sizes


class Config:
    architecture = "toy"
    width = 3
    channels = (4, 0)
    dropout = (0.0, 0.99)
    share = 1.0


def test_fields_are_checked_part_by_part():
    check_sizes(Config(), positive=("width",), shares=("dropout",))
    with pytest.raises(InputError, match=r"toy: channels=\(4, 0\); wanted a positive number"):
        check_sizes(Config(), positive=("width", "channels"))
    with pytest.raises(InputError, match=r"toy: share=1\.0; wanted a share, at least 0 and below 1"):
        check_sizes(Config(), shares=("share",))
