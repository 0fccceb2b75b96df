"""``python -m darkhaloscope`` is ``dhs``."""

from darkhaloscope.cli import main

main()
