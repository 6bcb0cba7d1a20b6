"""How much is measured, and where: the whole benchmark, or a smoke test of it with next to no images."""

import os
from dataclasses import dataclass
from pathlib import Path

from sides import REPOSITORY


@dataclass(frozen=True)
class Plan:
    root: Path
    """Images, towers and stores of the benchmark; photos and towers are kept for the next time."""
    shared_data: Path
    rounds: int
    ingest_images: int
    images_per_shard: int
    core_counts: tuple[int, ...]
    """Of the comparison of featurize."""
    featurize_rounds: int
    vit_images_per_core: int
    mobilenet_images_per_core: int
    images_per_batch: int
    memory_ingest_images: int
    memory_featurize_images: int
    num_shards: int
    images_per_small_shard: int
    reading_images: int

    @property
    def photos(self) -> Path:
        return self.shared_data / "coco_mini" / "images"

    @property
    def mobilenet(self) -> Path:
        return self.shared_data / "weights" / "mobilenet_v2_hf_fp16"

    @property
    def baseline_python(self) -> Path:
        return REPOSITORY / ".venv-bench" / "bin" / "python"

    @property
    def all_cores(self) -> list[int]:
        """Two, however many there are: the goals are stated for one core and for two."""
        return sorted(os.sched_getaffinity(0))[:2]


def whole(root: Path, shared_data: Path) -> Plan:
    return Plan(
        root=root,
        shared_data=shared_data,
        rounds=5,
        ingest_images=6000,
        images_per_shard=512,
        core_counts=(1, 2),
        featurize_rounds=4,
        vit_images_per_core=128,
        mobilenet_images_per_core=384,
        images_per_batch=16,
        memory_ingest_images=2000,
        memory_featurize_images=256,
        num_shards=128,
        images_per_small_shard=10,
        reading_images=3000,
    )


def quick(root: Path, shared_data: Path) -> Plan:
    return Plan(
        root=root,
        shared_data=shared_data,
        rounds=1,
        ingest_images=60,
        images_per_shard=32,
        core_counts=(2,),
        featurize_rounds=1,
        vit_images_per_core=8,
        mobilenet_images_per_core=8,
        images_per_batch=4,
        memory_ingest_images=20,
        memory_featurize_images=8,
        num_shards=3,
        images_per_small_shard=4,
        reading_images=64,
    )
