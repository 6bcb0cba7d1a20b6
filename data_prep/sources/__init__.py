"""Every kind of source a recipe can name: one small file each, one protocol."""

from typing import Annotated

from pydantic import Field

from data_prep.sources.base import BadRow, Source, SourceRow
from data_prep.sources.coco import CocoCaptions, CocoCaptionsConfig
from data_prep.sources.digit_scenes import DigitScenes, DigitScenesConfig
from data_prep.sources.jsonl import Jsonl, JsonlConfig

SourceConfig = Annotated[CocoCaptionsConfig | DigitScenesConfig | JsonlConfig, Field(discriminator="kind")]

__all__ = ["BadRow", "Source", "SourceConfig", "SourceRow", "open_source"]


def open_source(config: SourceConfig) -> Source:
    match config:
        case CocoCaptionsConfig():
            return CocoCaptions(config)
        case JsonlConfig():
            return Jsonl(config)
        case DigitScenesConfig():
            return DigitScenes(config)
