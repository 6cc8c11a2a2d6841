"""The report: one self-contained HTML file with what a run found, its evidence and where it came from."""

from sparselight.report.data import ReportData, RunInfo
from sparselight.report.html import render, write_report

__all__ = ["ReportData", "RunInfo", "render", "write_report"]
