"""What the process holds that local workers are forked from: their imports, and the renderer compiled.

It has one thread, as a process must that is forked, and one of jemalloc (pyarrow), which minds forks itself.
"""

from __future__ import annotations

from darkhaloscope import lensing, workflow

__all__ = ["workflow"]

lensing.warm()
