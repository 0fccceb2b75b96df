"""The Zarr data set and the run's folder: create, write a block, open, resume, verify, repair."""

from darkhaloscope.store.dataset import (
    INNER_CHUNK,
    STAMPS,
    Layout,
    attributes,
    decode_block,
    encode_block,
    metadata_objects,
    open_dataset,
    open_run,
    read_rows,
)
from darkhaloscope.store.export import export_tables
from darkhaloscope.store.planned import has_plan
from darkhaloscope.store.repair import Repair, repair_run
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
from darkhaloscope.store.verify import Finding, Verification, layout_of_run, verify_run

__all__ = [
    "INNER_CHUNK",
    "STAMPS",
    "Finding",
    "Layout",
    "Repair",
    "Verification",
    "attributes",
    "check_objects",
    "create_run",
    "decode_block",
    "decode_statistics",
    "encode_block",
    "encode_statistics",
    "export_tables",
    "finished_blocks",
    "has_plan",
    "layout_of_run",
    "metadata_objects",
    "open_dataset",
    "open_run",
    "read_experiment",
    "read_marker",
    "read_rows",
    "read_run",
    "read_statistics",
    "repair_run",
    "verify_run",
    "write_block",
]
