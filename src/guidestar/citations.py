"""What to cite: the BibTeX of the papers that a class or a strategy comes from, behind `guidestar cite`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from guidestar.errors import UserError

#: Public class or strategy -> the keys of its papers in references.bib.
SOURCES: dict[str, tuple[str, ...]] = {
    "ABSGDLoss": ("qi2023attentional",),
    "ALDRLoss": ("zhu2023label",),
    "ALEXRLoss": ("wang2023alexr",),
    "AUCMarginLoss": ("yuan2021large",),
    "AveragePrecisionLoss": ("qi2021stochastic",),
    "CLIPDistillationLoss": ("vasu2024mobileclip",),
    "CLIPLoss": ("radford2021learning",),
    "CVaR": ("rockafellar2000optimization", "chen2025stochastic"),
    "ChiSquare": ("namkoong2017variance",),
    "ClassBalancedLoss": ("cui2019class",),
    "ClassWeights": ("wei2026geometry",),
    "CompositionalStep": ("yuan2022compositional",),
    "Cosine": ("wei2024fastclip",),
    "DRRho": ("wei2025model",),
    "DRRhoCLIPLoss": ("wei2025model",),
    "DRRhoContrastiveLoss": ("wei2025model", "yuan2022provable"),
    "DRRhoCrossEntropyLoss": ("wei2025model", "qi2023attentional"),
    "DistillationLoss": ("hinton2015distilling",),
    "Dual": ("qi2023stochastic", "chen2025stochastic"),
    "ExtremeClassificationLoss": ("wei2026geometry",),
    "FastCLIPLoss": ("wei2024fastclip",),
    "FeatureDistillationLoss": ("yang2024clip",),
    "FocalLoss": ("lin2017focal",),
    "GroupDROLoss": ("sagawa2020distributionally", "xie2023doremi"),
    "GroupMean": ("sagawa2020distributionally", "chen2025stochastic"),
    "ISogCLRLoss": ("qiu2023not",),
    "InfoNCELoss": ("chen2020simple",),
    "KL": ("qi2023attentional",),
    "KLBall": ("qi2023stochastic", "qiu2023not"),
    "LDRLoss": ("zhu2023label",),
    "ListwiseCrossEntropyLoss": ("cao2007learning", "qiu2022large"),
    "LogitAdjustedLoss": ("menon2021long",),
    "Mean": ("vapnik1991principles",),
    "NDCGLoss": ("qiu2022large",),
    "OnlineGroupDROLoss": ("sagawa2020distributionally",),
    "PairwiseAUCLoss": ("gao2015consistency",),
    "PartialAUCLoss": ("zhu2022when",),
    "PrimalDualGroupDROLoss": ("sagawa2020distributionally", "chen2025stochastic"),
    "Prospect": ("mehta2024distributionally",),
    "RankInclusion": ("qiu2022large",),
    "Risk": ("wang2022finite",),
    "SONEXLoss": ("chen2025stochastic",),
    "SONXLoss": ("hu2023nonsmooth",),
    "SOPALoss": ("zhu2022when",),
    "SOPAsLoss": ("zhu2022when",),
    "SOTAsLoss": ("zhu2022when",),
    "STACOLoss": ("zhou2025stochastic",),
    "Scent": ("wei2026geometry",),
    "SigLIPLoss": ("zhai2023sigmoid",),
    "SogCLRLoss": ("yuan2022provable",),
    "Spectral": ("mehta2024distributionally",),
    "Stages": ("qi2023attentional",),
    "Storm": ("cutkosky2019momentum", "jiang2022multi"),
    "TempNet": ("qiu2024cool",),
    "TempNetLoss": ("qiu2024cool",),
    "ThresholdInclusion": ("qiu2022large",),
    "TopK": ("fan2017learning",),
    "Tracker": ("wang2017stochastic", "wang2022finite", "jiang2022multi"),
    "TwoWayPartialAUCLoss": ("zhu2022when",),
    "distill": ("hinton2015distilling",),
    "dro": ("qi2023attentional",),
    "fastclip": ("wei2024fastclip",),
    "jacobian_backward": ("quinton2024jacobian",),
    "jest": ("evans2024data",),
    "recall": ("cutkosky2019momentum",),
    "select": ("mindermann2022prioritized",),
    "siglip": ("zhai2023sigmoid",),
    "steer": ("wei2025model",),
    "steer+distill": ("wei2025model", "hinton2015distilling"),
    "steer_init": ("wei2025model",),
}

#: The entry of guidestar itself, which is always cited.
SELF = "guidestar"


def cite(names: Sequence[str] = ()) -> str:
    """The BibTeX entries to cite for the classes and strategies that were used, guidestar's own first.

    Args:
        names: class names (`KL`, `guidestar.losses.DistillationLoss`) or strategies (`steer`).

    Raises:
        UserError: a name is neither; the message says which names there are.

    Example:
        >>> [line for line in cite(["steer", "KL"]).splitlines() if line.startswith("@")]
        ['@software{guidestar,', '@inproceedings{wei2025model,', '@article{qi2023attentional,']
    """
    keys = [SELF]
    for name in names:
        plain = name.rpartition(".")[2]
        if plain not in SOURCES:
            close = difflib.get_close_matches(plain, SOURCES, n=1, cutoff=0.6)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise UserError(f"`{name}` has no citation. {hint}Known names: {', '.join(sorted(SOURCES))}.")
        keys += SOURCES[plain]
    entries = references()
    return "\n\n".join(entries[key] for key in dict.fromkeys(keys)) + "\n"


@cache
def references() -> dict[str, str]:
    """All entries of references.bib by key, in its order.

    Example:
        >>> references()["hinton2015distilling"].splitlines()[0]
        '@misc{hinton2015distilling,'
    """
    text = (files("guidestar") / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{([^,\s]+),.*?^\}$", text, flags=re.MULTILINE | re.DOTALL)
    bodies = re.findall(r"^@.*?^\}$", text, flags=re.MULTILINE | re.DOTALL)
    return dict(zip(entries, bodies, strict=True))
