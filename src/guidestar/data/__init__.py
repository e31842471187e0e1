"""Data: splits of labelled rows, the sources they are read from, and controlled changes of them."""

from guidestar.data.arrays import ArraySplit
from guidestar.data.augment import flip_crop
from guidestar.data.corrupt import label_noise, long_tail, split_rows, stratified_rows
from guidestar.data.pictures import PictureSplit
from guidestar.data.settings import (
    CsvSource,
    DigitsSource,
    FunctionSource,
    HubSource,
    ImageFolderSource,
    JpegNpzSource,
    NpySource,
    NpzSource,
    ParquetSource,
    Source,
)
from guidestar.data.sources import load, load_pair
from guidestar.data.split import Split
from guidestar.data.statistics import mean_std

__all__ = [
    "ArraySplit",
    "CsvSource",
    "DigitsSource",
    "FunctionSource",
    "HubSource",
    "ImageFolderSource",
    "JpegNpzSource",
    "NpySource",
    "NpzSource",
    "ParquetSource",
    "PictureSplit",
    "Source",
    "Split",
    "flip_crop",
    "label_noise",
    "load",
    "load_pair",
    "long_tail",
    "mean_std",
    "split_rows",
    "stratified_rows",
]
