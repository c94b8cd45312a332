import pyarrow.parquet as pq
import pytest

from .small_jobs import small_dataset, small_model


@pytest.fixture(scope="session")
def dataset():
    return small_dataset()


@pytest.fixture(scope="session")
def loaded():
    """A tiny model and its processor; not to be changed."""
    return small_model()


@pytest.fixture(scope="session")
def shop(dataset, loaded, tmp_path_factory):
    """A folder with the dataset in `data` and the model in `model`."""
    folder = tmp_path_factory.mktemp("shop")
    dataset.save(folder / "data")
    for part in loaded:
        part.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="session")
def undisturbed(shop, tmp_path_factory):
    """The table of one run in one process."""
    from vlm2rec_hf.cli.main import main

    from .command_shop import command

    output = tmp_path_factory.mktemp("undisturbed") / "items.parquet"
    assert main(["embed", *command(shop, output)]) == 0
    return pq.read_table(output)
