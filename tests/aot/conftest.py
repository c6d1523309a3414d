"""What plans for absent TPUs need of their process."""

import pytest


@pytest.fixture(autouse=True)
def unflagged(monkeypatch):
    """The TPU compiler ends the process at flags that it does not know, as `tests/conftest.py` sets."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
