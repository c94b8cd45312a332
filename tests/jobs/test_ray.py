"""The Ray Data job, against a Ray that runs on this machine."""

import logging

import pyarrow.parquet as pq
import pytest

from vlm2rec_hf.cli.main import main

from .command_shop import command

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'vlm2rec-hf[ray]'")


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 * 1024**2,
        log_to_driver=False,
        logging_level=logging.WARNING,
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()


def test_the_table_is_that_of_the_other_engine(shop, undisturbed, tmp_path):
    output = tmp_path / "items.parquet"
    # Half of it is done without Ray.
    assert main(["embed", *command(shop, output, "--shard", "0/2")]) == 0
    assert len(list(tmp_path.glob("*.work/shards/*.parquet"))) == 3
    assert main(["embed", *command(shop, output, "--engine", "ray", "--num_processes", 2)]) == 0
    assert pq.read_table(output).equals(undisturbed, check_metadata=True)
    assert ray.is_initialized()  # a connection that was there stays


def test_an_actors_error_arrives_with_its_cause(shop, tmp_path, capsys):
    (tmp_path / "no-model").mkdir()
    words = command(shop, tmp_path / "items.parquet", "--engine", "ray")
    words[words.index("--model") + 1] = str(tmp_path / "no-model")
    assert main(["embed", *words]) == 2
    assert "holds no config.json" in capsys.readouterr().err
