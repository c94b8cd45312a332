"""Questions answered together are answered as alone, in one pass; a folder opens as a recommender."""

import pytest

from vlm2rec_hf import RecDataset, ScoreOptions, open_recommender
from vlm2rec_hf.recommending.shop_lists import ListOptions
from vlm2rec_hf.recommending.together import Question, answer_together
from vlm2rec_hf.serving.engine import Delete, Engine, Put

from ..conftest import make_image


def test_together_is_as_alone_in_one_pass(run_folder):
    ready = open_recommender(run_folder)
    ids = ready.index.item_ids()
    new = {"text": "red tent", "image": make_image(1)}
    questions = [
        Question(ids[:3], ListOptions(k=4)),
        Question(ids[3:5], ListOptions(k=4)),
        Question([ids[9], new], ListOptions(k=2, explain=True)),
        Question([], ListOptions(k=3)),
        Question(["no such"], ListOptions(k=3)),
        Question(ids[:1], ListOptions(k=3, filter={"nothing": 1})),
        Question(ids[:1], ListOptions(k=3, candidates=ids[5:8])),
        Question([ids[0]], ListOptions(k=3), similar=True),
        Question([new], ListOptions(k=3), similar=True),
        Question(["no such"], ListOptions(k=3), similar=True),
        Question([{"text": 3}], ListOptions(k=3)),
    ]
    passes = []
    for name in ("user_views", "item_views"):
        real = getattr(ready.side, name)

        def counted(rows, real=real, name=name, **more):
            passes.append((name, len(rows)))
            return real(rows, **more)

        setattr(ready.side, name, counted)
    answers = answer_together(ready, questions)
    # One pass for the histories, one for the new item; the explanation leaves each item of its history out.
    assert passes[:2] == [("user_views", 4), ("item_views", 1)]
    assert all(name == "user_views" for name, _ in passes[2:]) and len(passes) <= 4
    for one, answer in zip(questions, answers, strict=True):
        options = {name: value for name, value in vars(one.options).items() if value is not None}
        try:
            if one.similar:
                for name in ("exclude_seen", "on_unknown", "explain"):
                    options.pop(name)
                (alone,) = ready.similar(one.entries, **options)
            else:
                (alone,) = ready.recommend([one.entries], **options)
        except (ValueError, TypeError) as error:
            assert type(answer) is type(error) and str(answer) == str(error)
        else:
            assert answer.item_ids == alone.item_ids and answer.scores == pytest.approx(alone.scores, abs=1e-6)
            assert answer.source == alone.source


def test_a_job_that_fails_unexpectedly_fails_alone(open_copy):
    engine = Engine(open_copy())
    side, real = engine.recommender.side, engine.recommender.side.user_views
    (good, other, bad), options = engine.index.item_ids()[:3], ListOptions(k=3)
    (wanted,) = engine.recommender.recommend([[good]], 3)

    def user_views(histories, users=None):
        if [bad] in histories:
            raise OSError("a device is gone")
        return real(histories, users)

    side.user_views = user_views
    jobs = [Put({"item_id": "new", "text": "red tent"}), *(Question([item], options) for item in (bad, good, other))]
    put, failed, answer, *_ = engine.work([*jobs, Delete([other])])
    assert put is True and "new" in engine.index and other not in engine.index
    assert type(failed) is OSError and answer.item_ids == [item for item in wanted.item_ids if item != other]


def test_a_folder_without_its_index_is_opened_by_the_options_given(run_folder, tmp_path):
    for name in ("embedder", "shop"):
        (tmp_path / name).symlink_to(run_folder / name)
    shop = RecDataset.load(run_folder / "shop")
    plain = open_recommender(tmp_path, dataset=shop)  # the index would be the folder's own dataset's
    assert plain.index.path is None and not (tmp_path / "index").exists()
    history = [[str(item) for item in shop.item_ids[:2]]]
    assert plain.recommend(history)[0].item_ids == open_recommender(run_folder).recommend(history)[0].item_ids
    options = ScoreOptions(popularity_prior=0.5)
    scored = open_recommender(tmp_path, score_options=options)
    assert scored.index.path == tmp_path / "index" and scored.index.facts.scoring == options.to_dict()
    assert scored.recommend(history)[0].item_ids != plain.recommend(history)[0].item_ids


def test_what_a_folder_holds_is_opened(run_folder, tmp_path):
    whole = open_recommender(run_folder)
    assert whole.index.path == run_folder / "index" and whole.dataset.n_items == 60
    parts = open_recommender(model=run_folder / "embedder", dataset=run_folder / "shop", index=run_folder / "index")
    history = [whole.index.item_ids()[:2]]
    assert parts.recommend(history)[0].item_ids == whole.recommend(history)[0].item_ids
    plain = open_recommender(run_folder / "embedder", dataset=run_folder / "shop")
    assert plain.recommend(history)[0].item_ids == whole.recommend(history)[0].item_ids
    assert plain.index.path is None
    with pytest.raises(ValueError, match="`folder`.*quickstart"):
        open_recommender(tmp_path)
    with pytest.raises(ValueError, match="`folder`"):
        open_recommender()
    assert answer_together(whole, []) == []
