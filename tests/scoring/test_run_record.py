import json

import pytest

from cisray.errors import InputError
from cisray.scoring.run_record import RunRecord, library_versions, machine_name, read_run, write_run
from cisray.scoring.schema import verify

RUN = {
    "seconds": 12.5,
    "rows_per_s": 80.0,
    "engine_s": 11.0,
    "engine_share": 0.93,
    "device": "cpu",
    "machine": "x",
    "libraries": {},
}


def test_a_run_stands_beside_the_table_and_is_no_part_of_it(make_scores):
    scores_dir = make_scores(range(7))
    before = (scores_dir / "manifest.json").read_bytes()
    assert read_run(scores_dir) is None
    run = RunRecord(**RUN | {"machine": machine_name(), "libraries": library_versions()})
    write_run(scores_dir, run)
    assert read_run(scores_dir) == run
    assert {"python", "torch", "pyarrow", "numpy"} <= run.libraries.keys()
    verify(scores_dir)
    assert (scores_dir / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine_share": 1.5}, "engine_share=1.5, seconds=12.5; wanted 0 to 1"),
        ({"seconds": -1.0}, "seconds=-1.0"),
        ({"colour": 1}, "not a valid record of a run: colour"),
    ],
)
def test_a_wrong_record_is_told_with_its_file(tmp_path, changes, message):
    (tmp_path / "run.json").write_text(json.dumps(RUN | changes))
    with pytest.raises(InputError, match=rf"run\.json: not a valid record.*{message}|run\.json: {message}"):
        read_run(tmp_path)
