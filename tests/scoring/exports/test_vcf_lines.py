import gzip

import pytest

from cisray.errors import InputError
from cisray.scoring.exports.vcf_lines import SortWatch, drop_indexes, to_bytes, vcf_lines


@pytest.mark.parametrize(
    ("records", "disorder"),
    [
        ([], None),
        ([("2", 5), ("2", 5), ("1", 1)], None),
        ([("2", 5), ("2", 4), ("2", 3)], "2:4 comes after 2:5"),
        ([("2", 5), ("1", 6), ("2", 7)], "2:7 comes after 1:6, and records of 2 before that"),
    ],
)
def test_sort_watch(records, disorder):
    watch = SortWatch()
    for record in records:
        watch.see(*record)
    assert watch.is_sorted is (disorder is None)
    assert watch.disorder == disorder
    assert watch.largest_pos == max((pos for _, pos in records), default=0)


def test_any_bytes_pass_through(tmp_path):
    data = b"##x\n#CHROM\n1\t\xff\xfe\xc3\xa9\r\n"
    for name, content in (("plain.vcf", data), ("packed.vcf.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(content)
        assert b"".join(map(to_bytes, vcf_lines(tmp_path / name))) == data


def test_a_missing_and_a_cut_file_are_told(tmp_path):
    with pytest.raises(InputError, match=r"none\.vcf: no such file, but the VCF that was scored"):
        next(vcf_lines(tmp_path / "none.vcf"))
    (tmp_path / "cut.vcf.gz").write_bytes(gzip.compress(b"##x\n" * 1000)[:-10])
    with pytest.raises(InputError, match=r"cut\.vcf\.gz: not readable to its end"):
        list(vcf_lines(tmp_path / "cut.vcf.gz"))


def test_indexes_of_an_older_file_go(tmp_path):
    for name in ("a.vcf.gz", "a.vcf.gz.tbi", "a.vcf.gz.csi", "b.vcf.gz.tbi"):
        (tmp_path / name).touch()
    drop_indexes(tmp_path / "a.vcf.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.vcf.gz", "b.vcf.gz.tbi"]
