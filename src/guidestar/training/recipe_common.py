"""What every recipe says about a run as such: its name, folders and seeds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from guidestar.steering.settings import Settings


class RunSettings(Settings):
    """The keys at the top of every recipe.

    Example:
        >>> RunSettings(name="a").seeds
        (0, 1, 2)
    """

    name: str = Field(description="The run's name, and its folder under `output`.", min_length=1)
    output: str = Field(
        default="runs", description="The parent folder of runs, from the working directory.", min_length=1
    )
    base: str | None = Field(
        default=None,
        description="The folder that the recipe's relative paths start from; null: the recipe's own folder.",
    )
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(strict=False)] = Field(
        default=(0, 1, 2), min_length=1, description="One run a seed and strategy; results are means over the seeds."
    )

    @field_validator("name")
    @classmethod
    def _folder_name(cls, name: str) -> str:
        if name in (".", "..") or name != name.strip() or any(c in '/\\:*?"<>|' or not c.isprintable() for c in name):
            raise ValueError(f'must be a folder name, without / \\ : * ? " < > | and outer blanks, found {name!r}')
        return name

    @field_validator("seeds", "strategies", check_fields=False)
    @classmethod
    def _unique(cls, values: tuple) -> tuple:
        repeated = sorted({str(v) for v in values if values.count(v) > 1})
        if repeated:
            raise ValueError(f"must not repeat an entry, found {', '.join(repeated)} more than once")
        return values
