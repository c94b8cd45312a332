import pytest

from .small_jobs import small_dataset, small_model


@pytest.fixture(scope="session")
def dataset():
    return small_dataset()


@pytest.fixture(scope="session")
def loaded():
    """A tiny model and its processor; not to be changed."""
    return small_model()
