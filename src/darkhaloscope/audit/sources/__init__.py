"""Data sets of others as rows of our own contract, block by block, never unpickled."""

from darkhaloscope.audit.sources.pairs import PairSource, open_source

__all__ = ["PairSource", "open_source"]
