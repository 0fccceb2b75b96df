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
from darkhaloscope.store.markers import (
    check_objects,
    decode_statistics,
    encode_statistics,
    finished_blocks,
    read_marker,
    read_markers,
    read_statistics,
)
from darkhaloscope.store.planned import (
    check_part,
    drop_plan,
    encode_plan,
    planned_blocks,
    write_plan,
)
from darkhaloscope.store.repair import DroppedRows, Repair, drop_block, drop_failed, repair_run
from darkhaloscope.store.run import (
    RUN_JSON,
    check_run,
    create_run,
    differences,
    read_experiment,
    read_run,
)
from darkhaloscope.store.state import (
    JOINT,
    bricks_set_apart,
    read_progress,
    set_apart,
    write_joint,
    write_progress,
)
from darkhaloscope.store.verify import (
    Finding,
    Verification,
    verify_run,
)
from darkhaloscope.store.whole import check_not_lost, check_stored, layout_of_run
from darkhaloscope.store.write import (
    ClaimedError,
    release_claim,
    release_finished,
    write_block,
)

__all__ = [
    "INNER_CHUNK",
    "JOINT",
    "RUN_JSON",
    "STAMPS",
    "ClaimedError",
    "DroppedRows",
    "Finding",
    "Layout",
    "Repair",
    "Verification",
    "attributes",
    "bricks_set_apart",
    "check_not_lost",
    "check_objects",
    "check_part",
    "check_run",
    "check_stored",
    "create_run",
    "decode_block",
    "decode_statistics",
    "differences",
    "drop_block",
    "drop_failed",
    "drop_plan",
    "encode_block",
    "encode_plan",
    "encode_statistics",
    "export_tables",
    "finished_blocks",
    "layout_of_run",
    "metadata_objects",
    "open_dataset",
    "open_run",
    "planned_blocks",
    "read_experiment",
    "read_marker",
    "read_markers",
    "read_progress",
    "read_rows",
    "read_run",
    "read_statistics",
    "release_claim",
    "release_finished",
    "repair_run",
    "set_apart",
    "verify_run",
    "write_block",
    "write_joint",
    "write_plan",
    "write_progress",
]
