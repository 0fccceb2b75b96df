"""The Zarr data set and the run's folder: create, write a block, open, resume."""

from darkhaloscope.store.dataset import (
    INNER_CHUNK,
    STAMPS,
    Layout,
    attributes,
    encode_block,
    metadata_objects,
    open_dataset,
    open_run,
    read_rows,
)
from darkhaloscope.store.run import (
    check_objects,
    create_run,
    decode_statistics,
    encode_statistics,
    finished_blocks,
    read_experiment,
    read_marker,
    read_run,
    read_statistics,
    write_block,
)

__all__ = [
    "INNER_CHUNK",
    "STAMPS",
    "Layout",
    "attributes",
    "check_objects",
    "create_run",
    "decode_statistics",
    "encode_block",
    "encode_statistics",
    "finished_blocks",
    "metadata_objects",
    "open_dataset",
    "open_run",
    "read_experiment",
    "read_marker",
    "read_rows",
    "read_run",
    "read_statistics",
    "write_block",
]
