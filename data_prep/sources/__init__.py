"""Every kind of source a recipe can name: one small file each, one protocol."""

from typing import Annotated

from pydantic import Field

from data_prep.sources.base import (
    BadRow,
    FetchesAhead,
    FileFacts,
    ImageRef,
    RowFault,
    Source,
    SourceOptions,
    SourceRow,
)
from data_prep.sources.coco import CocoCaptions, CocoCaptionsConfig
from data_prep.sources.csv_table import CsvConfig, CsvTable
from data_prep.sources.digit_scenes import DigitScenes, DigitScenesConfig
from data_prep.sources.files import PATH_FIELDS
from data_prep.sources.hf_parquet import HfParquet, HfParquetConfig
from data_prep.sources.image_folder import ImageFolder, ImageFolderConfig
from data_prep.sources.jsonl import Jsonl, JsonlConfig
from data_prep.sources.url_list import UrlList, UrlListConfig
from data_prep.sources.vqa_v2 import VqaV2, VqaV2Config
from data_prep.sources.webdataset import WebDataset, WebDatasetConfig

SourceConfig = Annotated[
    CocoCaptionsConfig
    | CsvConfig
    | DigitScenesConfig
    | HfParquetConfig
    | ImageFolderConfig
    | JsonlConfig
    | UrlListConfig
    | VqaV2Config
    | WebDatasetConfig,
    Field(discriminator="kind"),
]

__all__ = [
    "PATH_FIELDS",
    "BadRow",
    "FetchesAhead",
    "FileFacts",
    "ImageRef",
    "RowFault",
    "Source",
    "SourceConfig",
    "SourceOptions",
    "SourceRow",
    "open_source",
]


def open_source(config: SourceConfig) -> Source:
    match config:
        case CocoCaptionsConfig():
            return CocoCaptions(config)
        case CsvConfig():
            return CsvTable(config)
        case DigitScenesConfig():
            return DigitScenes(config)
        case HfParquetConfig():
            return HfParquet(config)
        case ImageFolderConfig():
            return ImageFolder(config)
        case JsonlConfig():
            return Jsonl(config)
        case UrlListConfig():
            return UrlList(config)
        case VqaV2Config():
            return VqaV2(config)
        case WebDatasetConfig():
            return WebDataset(config)
