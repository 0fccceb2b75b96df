"""Pictures and the page: ``report.html``, one self-contained file about an audited data set."""

from darkhaloscope.report.page import write_report

__all__ = ["write_report"]
