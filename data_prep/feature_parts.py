"""Feature parts: Parquet files whose rows can be read in place, each with a small index part beside it.

A row group holds its features as one uncompressed page of plain values, so that row r lies at a known offset of the
verified file: nothing is unpacked, and reading one image touches its own bytes only.
Shapes: N rows, P patches, V vision width.
"""

from __future__ import annotations

import os
import weakref
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.schemas import feature_index_schema, features_schema
from infra.disk import writing_below
from infra.errors import IntegrityError
from infra.outputs import Part, upload_part
from infra.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STEP = "featurize"
ROW_GROUP_BYTES = 32 * 2**20
"""Of features, which is what a writer holds in memory at a time. A page may not pass 2 GiB."""
ONE_PAGE = 2**31 - 1


class FeatureWriter:
    """Takes features batch by batch; holds at most one row group of them, whatever the size of the part."""

    def __init__(self, folder: Path, num_patches: int, vision_width: int) -> None:
        import numpy as np
        import pyarrow.parquet as pq

        self.num_patches, self.vision_width = num_patches, vision_width
        self.row_bytes = num_patches * vision_width * 2
        rows_per_group = max(1, ROW_GROUP_BYTES // self.row_bytes)
        self._path, self._index_path = folder / "features.parquet", folder / "feature_index.parquet"
        self._schema = features_schema(num_patches, vision_width)
        with writing_below(folder):
            self._file = pq.ParquetWriter(
                self._path,
                self._schema,
                compression="none",
                use_dictionary=False,
                write_statistics=False,
                data_page_size=ONE_PAGE,
                max_rows_per_page=ONE_PAGE,
            )
        self._group = np.empty((rows_per_group, self.row_bytes), dtype=np.uint8)
        self._held = self._written = 0
        self._image_ids: list[str] = []
        self._views: list[str] = []
        self._checksum = 0

    def write(self, image_ids: Sequence[str], views: Sequence[str], features_NPV: NDArray[np.float16]) -> None:
        """Take the next rows."""
        import numpy as np

        rows = np.ascontiguousarray(features_NPV).reshape(len(image_ids), -1).view(np.uint8)
        self._checksum = zlib.crc32(rows.data, self._checksum)
        self._image_ids += image_ids
        self._views += views
        while len(rows):
            taken = min(len(rows), len(self._group) - self._held)
            self._group[self._held : self._held + taken] = rows[:taken]
            self._held += taken
            rows = rows[taken:]
            if self._held == len(self._group):
                self._write_group()

    def upload(self, store: Store, facts: Mapping[str, Any]) -> tuple[Part, Part]:
        """Close, read back, and upload: (feature part, its index part). `facts` are added to the feature part's."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._held:
            self._write_group()
        index = pa.table([self._image_ids, self._views], schema=feature_index_schema())
        with writing_below(self._path.parent):
            self._file.close()
            pq.write_table(index, self._index_path, compression="zstd")
        self._check()
        num_rows = len(self._image_ids)
        shape = {"num_patches": self.num_patches, "vision_width": self.vision_width}
        features = upload_part(store, STEP, self._path, "features", num_rows, facts={**shape, **facts})
        facts = {"features": features.digest}
        return features, upload_part(store, STEP, self._index_path, "feature_index", num_rows, facts=facts)

    def _write_group(self) -> None:
        import pyarrow as pa

        start, stop = self._written, self._written + self._held
        values = pa.py_buffer(self._group[: self._held])
        column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(self.row_bytes), self._held, [None, values])
        columns = [self._image_ids[start:stop], self._views[start:stop], column]
        with writing_below(self._path.parent):
            self._file.write_table(pa.table(columns, schema=self._schema), row_group_size=self._held)
        self._held, self._written = 0, stop

    def _check(self) -> None:
        """Reading the closed file in place gives what was put in: the layout is Parquet's, the offsets are ours."""
        import numpy as np

        written = FeatureFile(self._path)
        row = np.empty(self.row_bytes, dtype=np.uint8)
        checksum = 0
        for number in range(len(self._image_ids)):
            written.read_into(number, row)
            checksum = zlib.crc32(row.data, checksum)
        assert checksum == self._checksum, "the features column is not one plain page per row group"


class FeatureFile:
    """One verified feature part, open for reading single rows where they lie."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        metadata = pq.read_metadata(path)
        place = metadata.schema.names.index("features")
        self.row_bytes: int = metadata.schema.column(place).length
        self._path = path
        self._first_rows: list[int] = []
        self._offsets: list[int] = []
        num_rows = 0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            column = group.column(place)
            header_bytes = column.total_compressed_size - group.num_rows * self.row_bytes
            self._first_rows.append(num_rows)
            self._offsets.append(column.data_page_offset + header_bytes)
            num_rows += group.num_rows
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read_into(self, row: int, values: NDArray[np.uint8]) -> None:
        """Fill `values` with the row's bytes. Not through a mapping: a file cut short is an error here, and would be
        the end of the process there."""
        group = bisect_right(self._first_rows, row) - 1
        offset = self._offsets[group] + (row - self._first_rows[group]) * self.row_bytes
        found = os.preadv(self._descriptor, [values.data], offset)
        if found != self.row_bytes:
            raise IntegrityError(
                f"{self._path}: found {found} bytes of row {row}; expected {self.row_bytes}. "
                "Delete this file: it is a cache's copy and is fetched again."
            )
