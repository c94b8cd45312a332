import pytest

from ..forks import in_a_process


def kill_study(folder, seeds):
    return in_a_process("tests.studies.kill_study", folder, seeds)


@pytest.fixture(scope="session")
def studied(tmp_path_factory):
    """A folder with two finished studies, `shared_by_two` and `killed`, and what happened in them."""
    folder = tmp_path_factory.mktemp("studies")
    return folder, kill_study(folder, 1)
