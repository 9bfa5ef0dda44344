"""Say what the scores are: their formulas, the names they have elsewhere, and the targets they suit.

In a formula, r is the prediction for the reference and a that for the alternate, on the tracks' natural scale; sum,
mean, max and norm2 run over the bins that a mask keeps (see scoring.masks). SpliceAI's delta scores are the gain and
the loss of two tracks: DS_AG is max_gain of the acceptor's, DS_DL max_loss of the donor's, within the D bases on each
side that the mask center(2 D + 1) keeps, and DP_AG and DP_DL are their offsets.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from cisray.datasets.card import Kind
from cisray.scoring import formulas
from cisray.scoring.formulas import KeptBins


class Score(NamedTuple):
    """One number per track made of two predictions."""

    of_bins: Callable[[KeptBins], Tensor]
    """Gives [R, T] in float64."""
    formula: str
    """What the manifest quotes, at the usual pseudocount; see the module's docstring for its words."""
    signed: bool
    """Whether the sign says which allele is higher."""
    aliases: tuple[str, ...]
    """The names the same number has elsewhere."""
    source: str
    """Where it was defined, as a DOI or the name of the program."""
    kinds: tuple[Kind, ...]
    """The targets whose predictions it suits."""
    compares: bool = True
    """Whether two equal predictions give 0; one that does not has no noise floor."""
    of_genes: bool = False
    """Whether it is read over a gene."""
    of_probabilities: bool = False
    one_way: bool = False
    """Whether exchanging the alleles gives neither the same number nor its opposite."""
    is_place: bool = False
    """Whether it says which of the kept bins, from 0 on: a place has no mean over passes, and no noise floor. In a
    score table it is a distance from the variant."""
    jumps: bool = False
    """Whether rounding may turn its sign, where a rise and a fall are equally large."""
    function: Callable[[Tensor, Tensor], Tensor] = torch.sub
    """From reference and alternate [B, N, T] to [B, T] in float32, over all bins."""

    @property
    def alias(self) -> str:
        """The aliases, for a person."""
        return ", ".join(self.aliases) or "–"


_ANY: tuple[Kind, ...] = get_args(Kind)
_COVERAGE: tuple[Kind, ...] = ("coverage",)
_LABELS: tuple[Kind, ...] = ("labels",)
_NOT_NEGATIVE: tuple[Kind, ...] = ("coverage", "labels")
_BASENJI, _BORZOI, _ENFORMER = (
    "doi:10.1101/gr.227819.117",
    "doi:10.1038/s41588-024-02053-6",
    "doi:10.1038/s41592-021-01252-x",
)
_ALPHAGENOME, _CHROMBPNET = "doi:10.1038/s41586-025-10014-0", "doi:10.1101/2024.12.25.630221"
_DEEPSEA, _BASKERVILLE = "doi:10.1038/nmeth.3547", "baskerville"
_SPLICEAI = "doi:10.1016/j.cell.2018.12.015"
_BASES = "bases from norm_pos to the first of the bin with the largest"
_LOG2FC = "log2(1 + sum(max(a, 0))) - log2(1 + sum(max(r, 0)))"
_SHARES = "p = (max(r, 0) + k) / sum(max(r, 0) + k), q the same of a"
_LEVEL = "k = 1e-9 + the 25th percentile of max(r, 0)"
_LOGIT = "mean(logit(a) - logit(r))"
_WITHIN = "logit(x) = ln(x / (1 - x)), with x no nearer than 1e-6 to 0 and 1"

DEFINED: Mapping[str, Score] = {
    "delta_sum": Score(
        formulas.delta_sum,
        "sum(a) - sum(r)",
        signed=True,
        aliases=("SAD", "SUM", "SED", "DIFF_SUM"),
        source=_BASENJI,
        kinds=_ANY,
    ),
    "delta_mean": Score(
        formulas.delta_mean, "mean(a) - mean(r)", signed=True, aliases=("DIFF_MEAN",), source=_ENFORMER, kinds=_ANY
    ),
    "log2fc": Score(
        formulas.log2fc, _LOG2FC, signed=True, aliases=("logSED", "DIFF_LOG2_SUM"), source=_BORZOI, kinds=_NOT_NEGATIVE
    ),
    "sum_log2": Score(
        formulas.sum_log2,
        "sum(log2(1 + max(a, 0)) - log2(1 + max(r, 0)))",
        signed=True,
        aliases=("logSUM", "logSAD", "DIFF_SUM_LOG2"),
        source=_BORZOI,
        kinds=_NOT_NEGATIVE,
    ),
    "max_signed": Score(
        formulas.max_signed,
        "a - r in the bin of the largest |a - r|, the first of equals",
        signed=True,
        aliases=("SAX",),
        source=_BASENJI,
        kinds=_ANY,
        jumps=True,
    ),
    "max_gain": Score(
        formulas.max_gain,
        "max(max(a - r), 0)",
        signed=False,
        aliases=("DS_AG", "DS_DG"),
        source=_SPLICEAI,
        kinds=_ANY,
        one_way=True,
    ),
    "max_loss": Score(
        formulas.max_loss,
        "max(max(r - a), 0)",
        signed=False,
        aliases=("DS_AL", "DS_DL"),
        source=_SPLICEAI,
        kinds=_ANY,
        one_way=True,
    ),
    "gain_offset": Score(
        formulas.gain_place,
        f"{_BASES} a - r, the first of equals",
        signed=False,
        aliases=("DP_AG", "DP_DG"),
        source=_SPLICEAI,
        kinds=_ANY,
        compares=False,
        one_way=True,
        is_place=True,
    ),
    "loss_offset": Score(
        formulas.loss_place,
        f"{_BASES} r - a, the first of equals",
        signed=False,
        aliases=("DP_AL", "DP_DL"),
        source=_SPLICEAI,
        kinds=_ANY,
        compares=False,
        one_way=True,
        is_place=True,
    ),
    "l1": Score(formulas.l1, "sum(|a - r|)", signed=False, aliases=("D1",), source=_BASKERVILLE, kinds=_ANY),
    "l2": Score(formulas.l2, "norm2(a - r)", signed=False, aliases=("D2", "L2_DIFF"), source=_BASKERVILLE, kinds=_ANY),
    "l2_log2": Score(
        formulas.l2_log2,
        "norm2(log2(1 + max(a, 0)) - log2(1 + max(r, 0)))",
        signed=False,
        aliases=("logD2",),
        source=_BORZOI,
        kinds=_NOT_NEGATIVE,
    ),
    "jsd": Score(
        formulas.jsd,
        f"sqrt(sum(p log2(p / m) + q log2(q / m)) / 2), m = (p + q) / 2, {_SHARES}, k = 1e-9",
        signed=False,
        aliases=(),
        source=_CHROMBPNET,
        kinds=_COVERAGE,
    ),
    "jeffreys_half": Score(
        formulas.jeffreys_half,
        f"sum((p - q) ln(p / q)) / 2, {_SHARES}, {_LEVEL}",
        signed=False,
        aliases=("JS",),
        source=_BASKERVILLE,
        kinds=_COVERAGE,
        one_way=True,
    ),
    "ndi": Score(
        formulas.ndi,
        f"max(|p - q|), {_SHARES}, {_LEVEL}",
        signed=False,
        aliases=("nDi",),
        source=_BORZOI,
        kinds=_COVERAGE,
        one_way=True,
    ),
    "active_sum": Score(
        formulas.active_sum,
        "max(sum(a), sum(r))",
        signed=False,
        aliases=("ACTIVE_SUM",),
        source=_ALPHAGENOME,
        kinds=_NOT_NEGATIVE,
        compares=False,
    ),
    "active_mean": Score(
        formulas.active_mean,
        "max(mean(a), mean(r))",
        signed=False,
        aliases=("ACTIVE_MEAN",),
        source=_ALPHAGENOME,
        kinds=_NOT_NEGATIVE,
        compares=False,
    ),
    "logit_diff": Score(
        formulas.logit_diff,
        f"{_LOGIT}, {_WITHIN}",
        signed=True,
        aliases=("logit",),
        source=_DEEPSEA,
        kinds=_LABELS,
        of_probabilities=True,
    ),
    "prob_diff": Score(
        formulas.delta_mean,
        "mean(a) - mean(r)",
        signed=True,
        aliases=("diff",),
        source=_DEEPSEA,
        kinds=_LABELS,
        of_probabilities=True,
    ),
    "deepsea_e": Score(
        formulas.deepsea_e,
        f"|{_LOGIT}| * |mean(a) - mean(r)|, {_WITHIN}",
        signed=False,
        aliases=("deepsea_effect",),
        source=_DEEPSEA,
        kinds=_LABELS,
        of_probabilities=True,
    ),
    "gene_log2fc": Score(
        formulas.log2fc, _LOG2FC, signed=True, aliases=(), source=_BORZOI, kinds=_NOT_NEGATIVE, of_genes=True
    ),
    "gene_ln_mean": Score(
        formulas.ln_of_means,
        "ln(mean(max(a, 0)) + 0.001) - ln(mean(max(r, 0)) + 0.001)",
        signed=True,
        aliases=("GeneMaskLFC",),
        source=_ALPHAGENOME,
        kinds=_NOT_NEGATIVE,
        of_genes=True,
    ),
    "ies": Score(
        formulas.ies,
        f"|{_LOG2FC}| * jsd, jsd of {_SHARES}, k = 1e-9",
        signed=False,
        aliases=("abs_logfc_x_jsd",),
        source=_CHROMBPNET,
        kinds=_COVERAGE,
    ),
}
