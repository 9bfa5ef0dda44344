"""The verb that shows what any other made."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="What build, evaluate, score, sweep, swap or importance made."),
    ],
    truth: Annotated[
        Path | None,
        typer.Option(
            help="For a score table: the truth.tsv of cisray simulate, to measure how well |score| tells classes apart."
        ),
    ] = None,
) -> None:
    """Make one HTML page of a dataset, an evaluation, a score table, a sweep, a swap or a table of importance."""
    from cisray.baselines.importance_table import IMPORTANCE_NAME
    from cisray.baselines.swap_table import SWAP_NAME
    from cisray.bundle import MODEL_NAME
    from cisray.datasets.card import CARD_NAME
    from cisray.datasets.predictions import EVALUATION_NAME
    from cisray.errors import InputError
    from cisray.reports.dataset_page import write_dataset_page
    from cisray.reports.importance_page import write_importance_page
    from cisray.reports.run_page import write_run_page
    from cisray.reports.score_page import write_score_page
    from cisray.reports.swap_page import write_swap_page
    from cisray.reports.sweep_page import write_sweep_page
    from cisray.scoring.manifest import MANIFEST_NAME, read_manifest
    from cisray.sweeps.leaderboard import SWEEP_NAME

    if (folder / MODEL_NAME).exists():
        raise InputError(f"{folder}: a model; measure it with cisray evaluate, and make the page of what that leaves")
    if (folder / MANIFEST_NAME).exists():
        held_out = read_manifest(folder).model.held_out_contigs
        page, lines = write_score_page(folder, truth_path=truth, held_out=held_out)
        for line in lines:
            print(line)
        print(f"report: {page}")
        return
    pages = {
        EVALUATION_NAME: write_run_page,
        SWEEP_NAME: write_sweep_page,
        SWAP_NAME: write_swap_page,
        IMPORTANCE_NAME: write_importance_page,
        CARD_NAME: write_dataset_page,
    }
    for name, write_page in pages.items():
        if (folder / name).exists():
            print(f"report: {write_page(folder)}")
            return
    raise InputError(
        f"{folder}: holds none of {', '.join([MANIFEST_NAME, *pages])}; give a folder that build, evaluate, score, "
        "sweep, swap or importance made"
    )
