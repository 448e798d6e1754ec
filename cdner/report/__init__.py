"""What experiments found, shown: one page that needs no network, tables for papers, figures.

Takes rows (``content.Report``) and gives text; knows neither the store nor how anything was computed.
"""

from cdner.report.content import Report
from cdner.report.page import render_page

__all__ = ["Report", "render_page"]
