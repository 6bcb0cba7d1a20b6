"""A pin where no tower is loaded: pictures are only encoded anew where they are made worse."""

from pathlib import Path

from data_prep.pins import Pin
from data_prep.pretrained import PretrainedRef

NO_TOWER = Pin(ref=PretrainedRef(folder=Path("/no tower")), digest="0" * 64, files={"model.safetensors": "0" * 64})
