"""What `load_model` and its siblings refuse before anything is loaded."""

import pytest

from vlm2rec_hf import load_model
from vlm2rec_hf.loading import load_or_build, load_processor, load_with_processor, model_version


@pytest.mark.parametrize(
    "load",
    [load_model, load_processor, load_with_processor, model_version, lambda w, **o: load_or_build(w, "pixrec", **o)],
)
def test_a_folder_has_no_revisions(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/model").mkdir(parents=True)  # which hides the repo of this name
    with pytest.raises(
        ValueError, match="`where` 'org/model' is a folder, which has no revisions .* leave 'v1.0' out"
    ):
        load("org/model", revision="v1.0")
    if load is model_version:
        assert load("org/model", revision="main").startswith("sha256:")
    else:
        with pytest.raises(ValueError, match="holds no config.json"):
            load("org/model", revision="main")
