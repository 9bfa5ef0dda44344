import io

from rich.console import Console

from cisray.datasets.card import CARD_NAME, card_to_dict
from cisray.files import write_json
from cisray.reports.dataset_text import print_dataset


def printed(folder, card):
    write_json(folder / CARD_NAME, card_to_dict(card))
    console = Console(file=io.StringIO(), width=140)
    print_dataset(console, folder)
    return console.file.getvalue()


def test_what_looks_wrong_stands_first_and_what_was_left_out_last(tmp_path, make_card):
    names = {f"t{number}": {"1": "chr1", "2": "chr2"} for number in range(12)} | {"other": {"I": "chr1"}}
    text = printed(tmp_path, make_card(contig_names=names, dropped={"windows with too many N": 4, "bases": 0}))
    lines = text.splitlines()
    assert any(line.startswith(("warning: ", "note: ")) for line in lines[:3])
    assert "t0 and 11 more: contigs renamed: 1 is chr1, 2 is chr2" in lines
    assert "other: contigs renamed: I is chr1" in lines
    assert lines[-1] == "left out: 4 windows with too many N"
    assert "its mean and the share of bins with data" in text
    assert "0 bases" not in text


def test_alike_rows_of_a_table_are_counted(tmp_path, make_card):
    facts = {"duplicates": {"search": {"found": 1.0}, "rows of near-duplicates": 14_193, "rows of equal sequences": 0}}
    text = printed(tmp_path, make_card(facts=facts, genome=None, folds=None, kind="measurements"))
    assert "14,193 rows of near-duplicates" in text
    assert "equal" not in text
