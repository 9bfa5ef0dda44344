"""How fast is a gapped k-mer SVM trained, and how fast does it score sequences and variants, on one core?

Made-up sequences of 236 bases, half of them with a motif, in LS-GKM's default kernel (l=11, k=7, d=3). Its own
figures, measured on one core with as many sequences of that length: 50 s to train 1,288, and 28 sequences/s to score.
Sequences are scored by the table of weights, and by the support vectors, which is what LS-GKM does; variants by
deltaSVM, 100,000 substitutions in windows of 21 bases.
"""

from functools import partial

import numpy as np
import torch
from _table import finish, interleave, print_rates, rates_of, read_options

from cisray.baselines.gkm_filters import GkmSpec
from cisray.baselines.gkm_kernel import kernel_matrix
from cisray.baselines.gkm_svm import GkmModel, SvmSpec, train_gkm
from cisray.baselines.gkm_table import DeltaSvm
from cisray.genome.sequence import encode

TRAINED = 1288
LENGTH_BP = 236
PREDICTED = 1000
VARIANTS = 100_000
LSGKM_TRAIN_S = 50.0
LSGKM_PREDICT_PER_S = 28.0
MOTIF = encode("TGCTGAGTCAGCA")


def make_sequences(num: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Draw sequences, every second with the motif, two of its bases drawn anew; and their labels."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 4, (num, LENGTH_BP)).astype(np.uint8)
    for row in codes[::2]:
        start = random.integers(0, LENGTH_BP - len(MOTIF))
        row[start : start + len(MOTIF)] = MOTIF
        row[start + random.integers(0, len(MOTIF), 2)] = random.integers(0, 4, 2)
    return list(codes), np.tile([1, -1], num // 2 + 1)[:num]


def make_variants(num: int, length_bp: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw windows and another base in the middle of each."""
    random = np.random.default_rng(2)
    reference = random.integers(0, 4, (num, length_bp)).astype(np.uint8)
    alternate = reference.copy()
    middle = length_bp // 2
    alternate[:, middle] = (alternate[:, middle] + random.integers(1, 4, num)) % 4
    return reference, alternate


def score_by_vectors(model: GkmModel, sequences: list[np.ndarray]) -> np.ndarray:
    """Score by the kernel with every support vector."""
    return kernel_matrix(sequences, model.sequences, spec=model.spec) @ model.coefficients - model.rho


def score_variants(delta_svm: DeltaSvm, reference: np.ndarray, alternate: np.ndarray) -> np.ndarray:
    """Score substitutions."""
    return delta_svm.delta(reference, alternate)


def main() -> None:
    """Run the benchmark."""
    options = read_options(__doc__, repeats=3)
    torch.set_num_threads(1)
    spec, svm = GkmSpec(), SvmSpec()
    num = options.scaled(TRAINED, at_least=40)
    sequences, labels = make_sequences(num, 0)
    train = partial(train_gkm, sequences, labels, spec=spec, svm=svm)
    trained = interleave({"train": train}, repeats=options.repeats, warm_up=False)
    train_rates = print_rates(
        f"train on {num} sequences, l={spec.l}", rates_of(trained, {"train": num}), unit="sequences", against="train"
    )
    model = train()
    table = model.table()
    delta_svm = table.delta_svm()

    fresh, _ = make_sequences(options.scaled(PREDICTED, at_least=20), 1)
    few = fresh[: max(10, len(fresh) // 10)]
    reference, alternate = make_variants(options.scaled(VARIANTS, at_least=1000), 2 * spec.l - 1)
    contenders = {
        "table": partial(table.score, fresh),
        "support vectors": partial(score_by_vectors, model, few),
        "deltaSVM": partial(score_variants, delta_svm, reference, alternate),
        "table, built": model.table,
    }
    seconds = interleave(contenders, repeats=options.repeats)
    amounts = {"table": len(fresh), "support vectors": len(few), "deltaSVM": len(reference), "table, built": 1}
    rates = rates_of(seconds, amounts)
    ways = {name: rates[name] for name in ("table", "support vectors")}
    title = f"score {LENGTH_BP} bases, {len(model.coefficients)} support vectors"
    predicted = print_rates(title, ways, unit="sequences", against="support vectors")
    variants = print_rates("deltaSVM", {"deltaSVM": rates["deltaSVM"]}, unit="variants", against="deltaSVM")
    built = print_rates("add up", {"table, built": rates["table, built"]}, unit="tables", against="table, built")
    figures = {
        "train.sequences_per_second_per_core": train_rates["train"],
        "train.seconds": num / train_rates["train"],
        "train.share_of_50_seconds": num / train_rates["train"] / LSGKM_TRAIN_S,
        "predict.sequences_per_second_per_core": predicted["table"],
        "predict.ratio_to_28_per_second": predicted["table"] / LSGKM_PREDICT_PER_S,
        "predict.ratio_to_support_vectors": predicted["table"] / predicted["support vectors"],
        "deltasvm.variants_per_second_per_core": variants["deltaSVM"],
        "table.seconds": 1 / built["table, built"],
    }
    finish("gkm", {f"gkm.{key}": value for key, value in figures.items()})


if __name__ == "__main__":
    main()
