"""The strategies in words: what each is called, what it does, and what to do when it wins."""

from dataclasses import dataclass


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
            "dro",
            "train from scratch without it",
            "Train robustly, without the reference",
            "robust training without the reference (DRO)",
            "The same risk as steering without the reference: the control.",
            "dro",
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
    )
}

STEERED = ("steer", "steer+distill")
WITHOUT_REFERENCE = ("erm", "dro")
WITH_REFERENCE = tuple(key for key in STRATEGIES if key not in WITHOUT_REFERENCE)


def describe(key: str) -> Strategy:
    """The strategy of this name; one that guidestar does not know is described by its name alone.

    Args:
        key: a folder or result name.

    Returns:
        The strategy.

    Example:
        >>> describe("mine").subject
        'mine'
    """
    return STRATEGIES.get(key) or Strategy(key, "a strategy of your own", f"Use {key}", key, "", "other")


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
