"""The settings of the risks: what is allowed, and that they build what they say."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from guidestar import risks, schedules
from guidestar.risks import spectra
from guidestar.steering.settings import RiskSettings

RISKS = TypeAdapter(RiskSettings)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"kind": "mean"}, "Mean"),
        ({"kind": "kl", "tau": 0.5, "gamma": 0.3}, "KL"),
        ({"kind": "kl", "gamma": {"schedule": "scent", "alpha": 2.0}}, "KL"),
        ({"kind": "kl_ball", "rho": 0.5, "tau": 2.0, "tau_min": 0.1, "gamma": 0.5, "lr": 0.2}, "KLBall"),
        ({"kind": "cvar", "alpha": 0.2, "lr": 0.5, "smoothing": 0.1}, "CVaR"),
        ({"kind": "top_k", "alpha": 0.25}, "TopK"),
        ({"kind": "chi_square", "rho": 1.0, "ball": False}, "ChiSquare"),
        ({"kind": "spectral", "spectrum": {"shape": "esrm"}, "nu": 0.5, "penalty": "kl"}, "Spectral"),
        ({"kind": "kl_stages", "first_tau": 100.0, "first_epochs": 3}, "Stages"),
    ],
)
def test_each_kind_builds_its_risk(values: dict, kind: str) -> None:
    risk = RISKS.validate_python(values).build()

    assert type(risk) is getattr(risks, kind)
    for key in ("tau", "alpha", "rho", "smoothing", "ball", "nu", "penalty"):
        if key in values and kind != "KLBall" and hasattr(risk, key):
            assert getattr(risk, key) == values[key]


def test_kl_passes_its_numbers_on() -> None:
    risk = RISKS.validate_python({"kind": "kl", "tau": 0.5, "gamma": 0.25}).build()

    assert risk.tau == 0.5
    assert risk.tracker.schedule == schedules.Constant(0.25)


@pytest.mark.parametrize(
    ("spectrum", "expected"),
    [
        ({"shape": "superquantile", "alpha": 0.25}, spectra.superquantile(0.25)),
        ({"shape": "extremile"}, spectra.extremile(2.0)),
        ({"shape": "extremile", "r": 3.0}, spectra.extremile(3.0)),
        ({"shape": "esrm", "rho": 2.0}, spectra.esrm(2.0)),
    ],
)
def test_each_spectrum_is_built(spectrum: dict, expected) -> None:
    built = RISKS.validate_python({"kind": "spectral", "spectrum": spectrum}).build().spectrum

    assert torch.equal(spectra.weights(built, 7), spectra.weights(expected, 7))


def test_each_stage_is_built() -> None:
    values = {"kind": "kl_stages", "tau": 0.5, "gamma": 0.25, "first_tau": 100.0, "first_epochs": 4}
    risk = RISKS.validate_python(values).build()

    assert (risk.first_risk.tau, risk.then_risk.tau, risk.epochs) == (100.0, 0.5, 4)
    assert risk.first_risk.tracker.schedule == risk.then_risk.tracker.schedule == schedules.Constant(0.25)


@pytest.mark.parametrize(
    ("gamma", "schedule"),
    [
        ({"schedule": "cosine", "gamma_min": 0.4, "epochs": 7}, schedules.Cosine(0.4, 7)),
        ({"schedule": "cosine"}, schedules.Cosine(0.2, 10)),
        ({"schedule": "scent", "alpha": 3.0}, schedules.Scent(3.0)),
    ],
)
def test_gamma_may_be_a_schedule(gamma: dict, schedule: object) -> None:
    assert RISKS.validate_python({"kind": "kl", "gamma": gamma}).gamma.build() == schedule


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"kind": "kl", "tau": 0}, "tau"),
        ({"kind": "kl", "gamma": 0}, "gamma"),
        ({"kind": "kl", "gamma": 1.01}, "gamma"),
        ({"kind": "kl", "gamma": float("nan")}, "gamma"),
        ({"kind": "kl", "gamma": {"schedule": "cosine", "gamma_min": 0}}, "gamma_min"),
        ({"kind": "kl", "gamma": {"schedule": "cosine", "epochs": 0}}, "epochs"),
        ({"kind": "kl", "gamma": {"schedule": "scent", "alpha": 0}}, "alpha"),
        ({"kind": "kl_stages", "first_tau": 10.0}, "first_epochs"),
        ({"kind": "kl_stages", "first_tau": 0, "first_epochs": 2}, "first_tau"),
        ({"kind": "kl_stages", "first_tau": 10.0, "first_epochs": 0}, "first_epochs"),
        ({"kind": "cvar"}, "alpha"),
        ({"kind": "cvar", "alpha": 0}, "alpha"),
        ({"kind": "cvar", "alpha": 1.5}, "alpha"),
        ({"kind": "cvar", "alpha": 0.5, "smoothing": -1}, "smoothing"),
        ({"kind": "top_k", "alpha": 2}, "alpha"),
        ({"kind": "kl_ball", "rho": -1}, "rho"),
        ({"kind": "kl_ball", "rho": 1, "lr": 0}, "lr"),
        ({"kind": "kl_ball", "rho": 1, "tau": 0.001}, "`tau` at least `tau_min`"),
        ({"kind": "chi_square", "rho": -1}, "rho"),
        ({"kind": "chi_square", "rho": 0, "ball": False}, "positive `rho`"),
        ({"kind": "spectral"}, "spectrum"),
        ({"kind": "spectral", "spectrum": {"shape": "normal"}}, "normal"),
        ({"kind": "spectral", "spectrum": {"shape": "superquantile", "alpha": 0}}, "alpha"),
        ({"kind": "spectral", "spectrum": {"shape": "extremile", "r": 0.5}}, "r"),
        ({"kind": "spectral", "spectrum": {"shape": "esrm", "rho": 0}}, "rho"),
        ({"kind": "spectral", "spectrum": {"shape": "esrm"}, "nu": -1}, "nu"),
        ({"kind": "spectral", "spectrum": {"shape": "esrm"}, "penalty": "l1"}, "penalty"),
        ({"kind": "mean", "tau": 1.0}, "tau"),
        ({"kind": "median"}, "median"),
        ({"kind": "kl", "tau": "1"}, "tau"),
    ],
)
def test_wrong_settings_are_refused(values: dict, key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        RISKS.validate_python(values)


def test_settings_do_not_change() -> None:
    settings = RISKS.validate_python({"kind": "kl"})
    with pytest.raises(ValidationError, match="frozen"):
        settings.tau = 2.0
