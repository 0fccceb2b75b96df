"""Dark Halo Scope: strong-lens injection at survey scale, and the audit of what it made."""

__version__ = "0.1.0"
