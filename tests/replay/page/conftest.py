"""The browser that pages are looked at with."""

from tests.support.browser import browser, pytest_pyfunc_call

__all__ = ["browser", "pytest_pyfunc_call"]
