"""Small pictures, and sources made of them."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.ingest import ingest, ingest_request
from data_prep.ingest_config import IngestConfig
from infra.outputs import Manifest, ensure_output
from infra.workspace import Workspace


def picture(number: int) -> bytes:
    """A PNG of noise that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_picture() -> Callable[[int], bytes]:
    return picture


@pytest.fixture
def write_source(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """write_source(lines, num_pictures=…, name=…) -> a JSONL source whose folder holds 0.png, 1.png, ..."""

    def write(lines: list[Any], num_pictures: int = 0, name: str = "data", first: int = 0) -> dict[str, Any]:
        images = tmp_path / name / "images"
        images.mkdir(parents=True, exist_ok=True)
        for number in range(first, first + num_pictures):
            (images / f"{number}.png").write_bytes(picture(number))
        path = tmp_path / name / "lines.jsonl"
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return {"kind": "jsonl", "path": str(path), "images": str(images)}

    return write


@pytest.fixture
def ingested(workspace: Workspace) -> Callable[..., Manifest]:
    """ingested(*sources, **config) -> the committed dataset."""

    def run(*sources: dict[str, Any], **more: Any) -> Manifest:
        config = IngestConfig.model_validate({"sources": list(sources), **more})
        request = ingest_request(config, "demo", workspace.store)
        return ensure_output(workspace.store, request, lambda attempt: ingest(config, attempt, workspace), {})[0]

    return run


def save_processor(folder: Path) -> None:
    from transformers import ViTImageProcessor

    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)


@pytest.fixture(scope="session")
def vit_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT of two layers with random weights: 16 px in patches of 8, and the class token; V = 16."""
    import torch
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        initializer_range=0.3,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    save_processor(folder)
    return folder


@pytest.fixture(scope="session")
def regnet_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolutional tower, whose output is a feature map."""
    import torch
    from transformers import RegNetConfig, RegNetModel

    folder = tmp_path_factory.mktemp("regnet")
    torch.manual_seed(0)
    config = RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=8, layer_type="x")
    RegNetModel(config).save_pretrained(folder)
    save_processor(folder)
    return folder


@pytest.fixture(scope="session")
def clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two towers, of which only the vision half is wanted."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    vision = {**small, "image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config={**small, "vocab_size": 20}, vision_config=vision, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    save_processor(folder)
    return folder
