"""What several tests of step 3 share."""

import logging

import pytest


@pytest.fixture(autouse=True)
def logged(caplog):
    caplog.set_level(logging.INFO, "evaluate")  # as main() does
