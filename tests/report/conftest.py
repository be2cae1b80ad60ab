"""One browser for all tests of pages."""

from chromium import browser, open_file

__all__ = ["browser", "open_file"]
