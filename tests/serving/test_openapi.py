"""The server does what its OpenAPI says, whatever it is asked (schemathesis)."""

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
hypothesis = pytest.importorskip("hypothesis")
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

EXAMPLES = 10


@pytest.fixture(scope="module")
def server(run_folder, loaded, shop, tmp_path_factory):
    import shutil

    from vlm2rec_hf import recommender

    from .live import Live

    folder = tmp_path_factory.mktemp("openapi")
    shutil.copytree(run_folder / "index", folder / "index")
    make = lambda: recommender(loaded, shop, index=folder / "index")  # noqa: E731
    with Live(make, folder / "log", state=str(folder / "state"), max_body_mb=1.0) as one:
        yield one


@pytest.fixture(scope="module")
def schema(server):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def operations():
    return [
        ("post", "/recommend"), ("post", "/similar"), ("get", "/users/{user_id}/recommendations"),
        ("post", "/users/{user_id}/clicks"), ("put", "/items/{item_id}"), ("delete", "/items"),
        ("delete", "/items/{item_id}"), ("get", "/healthz"), ("get", "/readyz"), ("get", "/metrics"),
    ]  # fmt: skip


def test_every_route_is_asked_and_every_example_works(server, shop):
    schema = server.client.get("/openapi.json").json()
    routes = {(method, path) for path, item in schema["paths"].items() for method in item}
    assert routes == set(operations())
    models = schema["components"]["schemas"]
    for path, name in (("/recommend", "RecommendRequest"), ("/similar", "SimilarRequest")):
        body = {
            key: value["examples"][0]
            for key, value in models[name]["properties"].items()
            if "examples" in value and key != "view_weights"
        }
        assert server.client.post(path, json=body).status_code == 200, body
    image = models["PutItemRequest"]["properties"]["image"]["examples"][0]
    assert server.client.put("/items/example", json={"text": "x", "image": image}).status_code == 200


@pytest.mark.parametrize(("method", "path"), operations(), ids=lambda part: part)
def test_every_answer_is_as_documented(server, schema, method, path):
    operation = schema[path][method.upper()]
    seen = []

    @hypothesis.given(case=operation.as_strategy())
    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )  # fmt: skip
    def ask(case):
        # What no schema can tell (whether an id is known) is answered by 422, as is documented.
        answer = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        assert answer.status_code < 500
        seen.append(answer.status_code)

    ask()
    assert seen
    assert server.client.get("/readyz").status_code == 200
