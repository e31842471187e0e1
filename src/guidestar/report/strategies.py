"""The strategies in words: what each is called, what it does, and what to do when it wins."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Strategy:
    """A way to use the reference model, in words.

    Args:
        key: the folder and result name.
        way: which of the ways to use a reference it is.
        advice: what to do when it wins, as an imperative.
        subject: the same as the subject of a sentence.
        summary: what it does, in a line.
        colour: the suffix of its colour variable in the style sheet.

    Example:
        >>> describe("steer").advice
        'Steer'
    """

    key: str
    way: str
    advice: str
    subject: str
    summary: str
    colour: str


STRATEGIES = {
    strategy.key: strategy
    for strategy in (
        Strategy(
            "as_is",
            "use it as it is",
            "Use the reference as it is",
            "the reference itself",
            "The reference, only evaluated: no training.",
            "as-is",
        ),
        Strategy(
            "erm",
            "train from scratch without it",
            "Train without the reference",
            "plain training (ERM)",
            "Plain training on the mean loss; the reference is not used.",
            "erm",
        ),
        Strategy(
            "siglip",
            "train from scratch without it",
            "Train with SigLIP's loss, without the reference",
            "training with SigLIP's loss",
            "SigLIP: each pair of a batch is a match or none, on its own; the reference is not used.",
            "siglip",
        ),
        Strategy(
            "dro",
            "train from scratch without it",
            "Train robustly, without the reference",
            "robust training without the reference (DRO)",
            "The same risk as steering without the reference: the control.",
            "dro",
        ),
        Strategy(
            "fastclip",
            "train from scratch without it",
            "Train with FastCLIP, without the reference",
            "training with FastCLIP",
            "FastCLIP-v3: the global contrastive loss with a learnt temperature; the reference is not used.",
            "fastclip",
        ),
        Strategy(
            "finetune",
            "fine-tune it",
            "Fine-tune",
            "fine-tuning the reference",
            "Training starts from the reference's weights.",
            "finetune",
        ),
        Strategy(
            "distill",
            "distil from it",
            "Distil",
            "training your own model on the reference's outputs",
            "The model also learns to reproduce the reference's outputs.",
            "distill",
        ),
        Strategy(
            "select",
            "train from scratch, on samples it picks",
            "Select",
            "training your own model on the samples that the reference picks",
            "RHO-LOSS: of each larger batch, only the samples where the loss exceeds the reference's the most.",
            "select",
        ),
        Strategy(
            "jest",
            "train from scratch, on samples it picks",
            "Select batches",
            "training your own model on the batches that the reference picks",
            "JEST: of each larger batch, the part that is hardest together where the reference finds it easy.",
            "jest",
        ),
        Strategy(
            "steer",
            "train from scratch, steered by it",
            "Steer",
            "training your own model with the reference as guide",
            "DRRho risk: samples weigh more the further their loss is above the reference's.",
            "steer",
        ),
        Strategy(
            "steer+distill",
            "train from scratch, steered by it",
            "Steer and distil",
            "training your own model with the reference as guide and as teacher",
            "The DRRho risk and distillation together.",
            "steer-distill",
        ),
        Strategy(
            "steer_init",
            "fine-tune it, steered by it",
            "Steer from its weights",
            "training from the reference's weights with the reference as guide",
            "As steer, but initialised with the reference's weights where the shapes allow.",
            "steer-init",
        ),
    )
}

# What strategies do to image-text pairs, where it is not what they do to labelled samples.
PAIR_SUMMARIES = {
    "erm": "CLIP's loss (InfoNCE) with a learnt temperature; the reference is not used.",
    "dro": "The same global contrastive risk and temperature as steering without the reference: the control.",
    "distill": "CLIP's loss, and the model also learns the reference's similarities as soft labels.",
    "select": "RHO-LOSS: of each larger batch, only the pairs whose loss exceeds the reference's the most.",
    "steer": "DRRho-CLIP: a wrong partner weighs more the nearer the model puts it than the reference does.",
    "steer+distill": "DRRho-CLIP and distillation together.",
}

STEERED = ("steer", "steer+distill", "steer_init")
WITHOUT_REFERENCE = ("erm", "siglip", "dro", "fastclip")
WITH_REFERENCE = tuple(key for key in STRATEGIES if key not in WITHOUT_REFERENCE)


def describe(key: str, pairs: bool = False) -> Strategy:
    """The strategy of this name; one that guidestar does not know is described by its name alone.

    Args:
        key: a folder or result name.
        pairs: whether it was trained on image-text pairs.

    Returns:
        The strategy.

    Example:
        >>> describe("mine").subject
        'mine'
    """
    strategy = STRATEGIES.get(key) or Strategy(key, "a strategy of your own", f"Use {key}", key, "", "other")
    return replace(strategy, summary=PAIR_SUMMARIES.get(key, strategy.summary)) if pairs else strategy


def in_order(keys: set[str]) -> list[str]:
    """Strategies in the order of reports: the known ones first, the others by name.

    Args:
        keys: strategy names.

    Returns:
        The same names, sorted.

    Example:
        >>> in_order({"steer", "mine", "erm"})
        ['erm', 'steer', 'mine']
    """
    known = list(STRATEGIES)
    return sorted(keys, key=lambda key: (known.index(key) if key in STRATEGIES else len(known), key))
