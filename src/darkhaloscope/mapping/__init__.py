"""Foreign tables of pairs: one mapping file says names and conventions, for both directions."""

from darkhaloscope.mapping.convert import export_rows, import_rows
from darkhaloscope.mapping.images import decode_stamp, encode_stamp
from darkhaloscope.mapping.model import SHIPPED, Images, Mapping, Stacks, Tables, load_mapping

__all__ = [
    "SHIPPED",
    "Images",
    "Mapping",
    "Stacks",
    "Tables",
    "decode_stamp",
    "encode_stamp",
    "export_rows",
    "import_rows",
    "load_mapping",
]
