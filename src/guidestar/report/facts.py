"""What was compared, in a few words from the recipe."""

from collections.abc import Sequence
from typing import Any

from guidestar.report.rundir import Run


def facts_section(run: Run) -> list[tuple[str, str]]:
    """What was compared, in a few words from the recipe.

    Args:
        run: the run.

    Returns:
        Pairs of name and text; empty if there is no readable recipe.

    Example:
        >>> from pathlib import Path
        >>> facts_section(Run(Path("runs/none"), "none", [0, 1], {}, recipe={"model": {"name": "mlp"}}))
        [('Model', 'mlp'), ('Seeds', '2')]
    """
    data, reference, training = (_section(run.recipe, key) for key in ("data", "reference", "training"))
    fit = _section(reference, "fit")
    clean = "pairs" if run.pairs else "samples"
    facts = [
        ("Model", _model(run.recipe.get("model"))),
        ("Reference", _model(reference.get("model")) or _given(reference.get("store"), "a finished store")),
        ("Reference fitted on", _given(fit.get("samples"), f"{fit.get('samples')} clean {clean}")),
        ("Training samples", _given(data.get("train_samples"), str(data.get("train_samples")))),
        ("Label noise", _noise(data.get("label_noise"))),
        ("Mismatched", _mismatch(data.get("mismatch"))),
        ("Imbalance", _imbalance(data.get("imbalance"))),
        ("Steering risk", _risk(run.recipe)),
        ("Temperature", _temperature(run.recipe)),
        ("Budget", _budget(training)),
        ("Seeds", str(len(run.seeds)) if run.recipe else ""),
    ]
    return [(name, text) for name, text in facts if text]


def _section(parent: dict[str, Any], key: str) -> dict[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def _given(value: Any, text: str) -> str:
    return "" if value is None else text


def _model(value: Any) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or not value.get("name"):
        return ""
    options = _section(value, "options")
    return f"{value['name']} ({_options(options)})" if options else str(value["name"])


def _options(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in options.items())


def _plain(value: Any) -> str:
    return (
        " x ".join(str(item) for item in value)
        if isinstance(value, Sequence) and not isinstance(value, str)
        else str(value)
    )


def _noise(value: Any) -> str:
    return f"{100 * value:g} % of the labels changed" if isinstance(value, int | float) and value else ""


def _mismatch(value: Any) -> str:
    return f"{100 * value:g} % of the captions exchanged" if isinstance(value, int | float) and value else ""


def _imbalance(value: Any) -> str:
    return f"largest class {value:g} x the smallest" if isinstance(value, int | float) and value > 1 else ""


def _risk(recipe: dict[str, Any]) -> str:
    return _kind(_section(_section(recipe, "steer"), "risk"))


def _temperature(recipe: dict[str, Any]) -> str:
    """Of the global contrastive risk that steers image-text pairs."""
    return _kind(_section(_section(_section(recipe, "objective"), "contrast"), "temperature"))


def _kind(settings: dict[str, Any]) -> str:
    options = {name: value for name, value in settings.items() if name != "kind" and value is not None}
    kind = str(settings.get("kind", ""))
    return f"{kind} ({_options(options)})" if kind and options else kind


def _budget(training: dict[str, Any]) -> str:
    steps, epochs, size = (training.get(key) for key in ("steps", "epochs", "batch_size"))
    length = f"{steps} steps" if steps is not None else _given(epochs, f"{epochs} epochs")
    return f"{length}, batches of {size}" if length and size is not None else length
