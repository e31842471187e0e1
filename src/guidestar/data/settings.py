"""The settings of each source of data, as they stand in a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from guidestar.data.pictures import PictureForm


class SourceSettings(BaseModel):
    """What every source takes; unknown keys and values of the wrong type are errors.

    Example:
        >>> SourceSettings(limit=100).limit_seed
        0
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    limit: PositiveInt | None = Field(
        default=None, description="Keep a random choice of so many rows, each class with its share; null: all."
    )
    limit_seed: int = Field(default=0, ge=0, description="The seed of the choice that `limit` makes.")


class PictureSettings(SourceSettings):
    """What every source of encoded images takes.

    Example:
        >>> PictureSettings(size=32).form
        PictureForm(size=(32, 32), grey=False)
    """

    size: PositiveInt | Annotated[tuple[PositiveInt, PositiveInt], Field(strict=False)] | None = Field(
        default=None, description="Height and width, or one number for both; null: that of the first image."
    )
    grey: bool = Field(default=False, description="One channel instead of three.")

    @property
    def form(self) -> PictureForm:
        """The form that images are brought into."""
        return PictureForm((self.size, self.size) if isinstance(self.size, int) else self.size, self.grey)


class NpzSource(SourceSettings):
    """Arrays in one npz file.

    Example:
        >>> NpzSource(path="data.npz", inputs="x_train", labels="y_train").source
        'npz'
    """

    source: Literal["npz"] = Field(default="npz", description="Arrays in one npz file.")
    path: str = Field(description="The npz file.")
    inputs: str = Field(description="The name of the array of inputs.")
    labels: str = Field(description="The name of the array of labels, whole numbers from 0.")
    class_names: list[str] | str | None = Field(
        default=None, description="The names of the classes, or the name of an array in the file that holds them."
    )


class NpySource(SourceSettings):
    """Two npy files.

    Example:
        >>> NpySource(inputs="x.npy", labels="y.npy").source
        'npy'
    """

    source: Literal["npy"] = Field(default="npy", description="Two npy files.")
    inputs: str = Field(description="The npy file of inputs.")
    labels: str = Field(description="The npy file of labels, whole numbers from 0.")
    class_names: list[str] | None = Field(default=None, description="The names of the classes.")


class JpegNpzSource(PictureSettings):
    """Encoded images packed one after the other in an npz file.

    Example:
        >>> JpegNpzSource(path="data.npz", split_value=0).images
        'jpeg'
    """

    source: Literal["jpeg_npz"] = Field(default="jpeg_npz", description="Encoded images packed in an npz file.")
    path: str = Field(description="The npz file.")
    split_value: int | str | None = Field(
        default=None, description="Take the rows whose entry in the array `split` is this; null: all rows."
    )
    images: str = Field(default="jpeg", description="The name of the array of bytes.")
    offsets: str = Field(
        default="offsets", description="The name of the array of offsets: image i is the bytes from entry i to i + 1."
    )
    labels: str = Field(default="label", description="The name of the array of labels, whole numbers from 0.")
    split: str = Field(default="split", description="The name of the array that says which split a row belongs to.")
    class_names: list[str] | str | None = Field(
        default=None, description="The names of the classes, or the name of an array in the file that holds them."
    )


class TableSettings(SourceSettings):
    """What every table takes.

    Example:
        >>> TableSettings(path="data.csv", label="target").categorical is None
        True
    """

    path: str = Field(description="The file of the table.")
    label: str = Field(description="The column of labels, texts or whole numbers.")
    drop: list[str] = Field(default=[], description="Columns to leave out.")
    categorical: list[str] | None = Field(
        default=None, description="The categorical columns, all others being numeric; null: those that hold texts."
    )


class CsvSource(TableSettings):
    """A CSV file with a header.

    Example:
        >>> CsvSource(path="data.csv", label="target").delimiter
        ','
    """

    source: Literal["csv"] = Field(default="csv", description="A CSV file with a header; may end in .gz.")
    delimiter: str = Field(default=",", min_length=1, max_length=1, description="What stands between two values.")


class ParquetSource(TableSettings):
    """A Parquet file.

    Example:
        >>> ParquetSource(path="data.parquet", label="target", drop=["id"]).drop
        ['id']
    """

    source: Literal["parquet"] = Field(default="parquet", description="A Parquet file.")


class ImageFolderSource(PictureSettings):
    """A folder of images with one sub-folder a class.

    Example:
        >>> ImageFolderSource(path="photos", size=32).path
        'photos'
    """

    source: Literal["image_folder"] = Field(default="image_folder", description="Images, one sub-folder a class.")
    path: str = Field(description="The folder; its sub-folders are the classes.")


class HubSource(PictureSettings):
    """A Hugging Face data set on disk, with a column of images or columns of features.

    Example:
        >>> HubSource(path="dataset", image="image").label
        'label'
    """

    source: Literal["hf"] = Field(default="hf", description="A Hugging Face data set written by save_to_disk.")
    path: str = Field(description="The folder that save_to_disk wrote.")
    split: str | None = Field(default=None, description="The split to take; null: train or test, as its place says.")
    image: str | None = Field(default=None, description="The column of images; or give `features`.")
    features: list[str] | None = Field(
        default=None, description="The columns of inputs: one of arrays, or numeric ones; or give `image`."
    )
    label: str = Field(default="label", description="The column of labels.")

    @model_validator(mode="after")
    def _image_or_features(self) -> HubSource:
        if (self.image is None) == (not self.features):
            raise ValueError("give either `image` (a column) or `features` (a list of columns)")
        return self


class FunctionSource(SourceSettings):
    """A function of the user's own, which returns {"train": (inputs, labels) or a split, "test": ...}.

    The dictionary may also hold "class_names".

    Example:
        >>> FunctionSource(function="my_data.py:load", options={"year": 2024}).options
        {'year': 2024}
    """

    source: Literal["function"] = Field(default="function", description="A function of your own.")
    function: str = Field(description="package.module:function, or path/file.py:function beside the recipe.")
    options: dict[str, Any] = Field(default={}, description="Arguments of the function, by name.")


class DigitsSource(SourceSettings):
    """Scikit-learn's 1,797 handwritten digits.

    Example:
        >>> DigitsSource(limit=500).limit
        500
    """

    source: Literal["sklearn_digits"] = Field(
        default="sklearn_digits", description="Scikit-learn's 1,797 handwritten digits."
    )


Source = Annotated[
    NpzSource
    | NpySource
    | JpegNpzSource
    | CsvSource
    | ParquetSource
    | ImageFolderSource
    | HubSource
    | FunctionSource
    | DigitsSource,
    Field(discriminator="source"),
]
