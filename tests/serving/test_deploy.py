"""The container files say what the package does: instructions, options, places and names fit together."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import yaml

from vlm2rec_hf.cli.serve import TYPES

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
INSTRUCTIONS = {
    "FROM", "RUN", "WORKDIR", "COPY", "VOLUME", "USER", "ENV", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT",
}  # fmt: skip
OPTIONS = {f"--{name}" for kind in TYPES for name in kind.__dataclass_fields__}


def instructions():
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def test_the_containerfile_is_sound():
    found = instructions()
    names = [name for name, _ in found]
    assert set(names) <= INSTRUCTIONS and names[0] == "FROM" and names.count("ENTRYPOINT") == 1
    assert re.fullmatch(r"\S+/\S+:[\w.-]+", found[0][1]) and not found[0][1].endswith(":latest")
    assert names.index("USER") < names.index("ENTRYPOINT")  # not as root
    for name, words in found:
        if name == "COPY":
            for source in shlex.split(words)[:-1]:
                assert (ROOT / source).exists(), source
        if name in ("ENTRYPOINT", "VOLUME"):
            assert isinstance(json.loads(words), list)
        if name == "RUN":
            shlex.split(words)
    extras = set(re.search(r"'\.\[([\w,]+)\]'", (DEPLOY / "Containerfile").read_text())[1].split(","))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extras <= set(project["optional-dependencies"])
    torch = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert any(f"torch=={torch}" in words for name, words in found if name == "RUN")


def test_what_is_started_takes_its_options_and_finds_its_places():
    found = dict(instructions())
    words = json.loads(found["ENTRYPOINT"])
    server = compose()["services"]["vlm2rec"]
    assert words[:2] == ["vlm2rec", "serve"] and words[2] in json.loads(found["VOLUME"])
    options = [word for word in [*words, *server["command"]] if word.startswith("--")]
    assert set(options) <= OPTIONS and "--api_token_file" in options
    inside = {mount.rsplit(":", 1)[1] for mount in server["volumes"]}
    assert inside == set(json.loads(found["VOLUME"]))
    (secret,) = server["secrets"]
    assert words[words.index("--api_token_file") + 1] == f"/run/secrets/{secret}"
    assert secret in compose()["secrets"]
    assert found["EXPOSE"] in server["ports"][0]


def test_compose_names_what_it_has():
    whole = compose()
    assert set(whole) == {"services", "secrets", "volumes"}
    for service in whole["services"].values():
        assert ("image" in service) != ("build" in service)
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert set(service.get("depends_on", [])) <= set(whole["services"])
        assert set(service["secrets"]) <= set(whole["secrets"])
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_file()
            elif "$" not in source:
                assert source in whole["volumes"]
    build = whole["services"]["vlm2rec"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_prometheus_asks_the_server_with_its_token():
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text(encoding="utf-8"))["scrape_configs"]
    name, port = job["static_configs"][0]["targets"][0].split(":")
    assert name in compose()["services"] and port == dict(instructions())["EXPOSE"]
    assert job["authorization"]["credentials_file"] == "/run/secrets/api_tokens"
