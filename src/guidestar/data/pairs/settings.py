"""The settings of each source of image-text pairs, as they stand in a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from guidestar.data.pairs.decoding import PILLOW_LIMIT


class PairSettings(BaseModel):
    """What every source of pairs takes; unknown keys and values of the wrong type are errors.

    Example:
        >>> PairSettings(limit=100).max_pixels
        64000000
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    limit: PositiveInt | None = Field(default=None, description="Keep a random choice of so many rows; null: all.")
    limit_seed: int = Field(default=0, ge=0, description="The seed of the choice that `limit` makes.")
    class_names: list[str] | None = Field(
        default=None, description="The names of the classes; null: the distinct labels, sorted."
    )
    max_pixels: int = Field(
        default=64_000_000, ge=1, le=PILLOW_LIMIT, description="Images of more pixels are not decoded."
    )

    @model_validator(mode="after")
    def _names_need_labels(self) -> PairSettings:
        # Sources without the key `label` get their labels from elsewhere.
        if self.class_names is not None and getattr(self, "label", "") is None:
            raise ValueError("`class_names` names the values of `label`; set `label` too, or leave both out")
        return self


class ShardPairs(PairSettings):
    """Tar shards as img2dataset, open_clip and webdataset write them; `guidestar index` comes first.

    Example:
        >>> ShardPairs(shards=["data/{00000..00012}.tar"]).captions
        []
    """

    source: Literal["shards"] = Field(default="shards", description="Tar shards, indexed by `guidestar index`.")
    shards: str | list[str] = Field(description="The shards: paths, with * and ? and {00000..00012} and {a,b}.")
    captions: list[str] = Field(
        default=[],
        description="The keys of the captions in each sample's .json; none: its .txt, else `caption` of its .json.",
    )
    label: str | None = Field(
        default=None, description="The key of the label in each sample's .json, or cls for its .cls; null: no labels."
    )


class ColumnSettings(PairSettings):
    """What every table of pairs takes.

    Example:
        >>> ColumnSettings(captions=["title"]).image
        'image'
    """

    image: str = Field(default="image", description="The column of images.")
    captions: str | list[str] = Field(
        default="caption", description="The column or columns of captions; each holds texts or lists of texts."
    )
    key: str | None = Field(
        default=None, description="The column of unique names; null: the file name, or the number of the row."
    )
    label: str | None = Field(default=None, description="The column of labels; null: no labels.")

    @property
    def caption_columns(self) -> list[str]:
        """The columns of captions as a list."""
        return [self.captions] if isinstance(self.captions, str) else list(self.captions)

    @model_validator(mode="after")
    def _some_captions(self) -> ColumnSettings:
        if not self.captions:
            raise ValueError("`captions` must name at least one column")
        return self


class ParquetPairs(ColumnSettings):
    """Parquet files with the bytes of the images, as Hugging Face stores them.

    Example:
        >>> ParquetPairs(files="data/*.parquet", captions="text").source
        'parquet'
    """

    source: Literal["parquet"] = Field(default="parquet", description="Parquet files that hold the image bytes.")
    files: str | list[str] = Field(description="The files: paths, with * and ? and {0..9} and {a,b}.")


class HubPairs(ColumnSettings):
    """A Hugging Face data set written by `save_to_disk`.

    Example:
        >>> HubPairs(path="dataset").split is None
        True
    """

    source: Literal["hub"] = Field(default="hub", description="A Hugging Face data set written by save_to_disk.")
    path: str = Field(description="The folder that save_to_disk wrote.")
    split: str | None = Field(default=None, description="The split to take; null: train or test, as its place says.")


class FolderPairs(ColumnSettings):
    """Image files and a table of their captions.

    Example:
        >>> FolderPairs(table="captions.csv").images is None
        True
    """

    source: Literal["folder"] = Field(default="folder", description="Image files and a table of their captions.")
    table: str = Field(description="A .csv, .tsv or .jsonl file (or these with .gz); rows of one image are joined.")
    images: str | None = Field(default=None, description="The folder of the images; null: that of the table.")


class FunctionPairs(PairSettings):
    """A function of the user's own.

    It returns `Pairs`, or a dictionary with "images" (a list of encoded images, or uint8 `[n, H, W, 3]`), "captions"
    (a text or a list of texts a row) and, if there are such, "labels", "class_names" and "keys".

    Example:
        >>> FunctionPairs(function="my_data.py:load", options={"year": 2024}).options
        {'year': 2024}
    """

    source: Literal["function"] = Field(default="function", description="A function of your own.")
    function: str = Field(description="package.module:function, or path/file.py:function beside the recipe.")
    options: dict[str, Any] = Field(default={}, description="Arguments of the function, by name.")


PairSource = Annotated[
    ShardPairs | ParquetPairs | HubPairs | FolderPairs | FunctionPairs,
    Field(discriminator="source"),
]
