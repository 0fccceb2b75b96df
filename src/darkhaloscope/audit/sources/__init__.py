"""Data sets of others as rows of our own contract, block by block, never unpickled."""

from darkhaloscope.audit.sources.opening import open_source
from darkhaloscope.audit.sources.pairs import PairSource

__all__ = ["PairSource", "open_source"]
