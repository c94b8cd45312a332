"""`vlm2rec index` and recommending from what it wrote."""

from vlm2rec_hf import make_demo_shop, tiny_vlm
from vlm2rec_hf.cli.main import main


def test_an_index_is_written_and_recommends(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shop = make_demo_shop(60, n_users=20).dataset().leave_one_out()
    shop.save("shop")
    model, processor = tiny_vlm(texts=shop.item_texts())
    model.save_pretrained("model")
    processor.save_pretrained("model")
    user = str(shop.sequences().user_ids[0])
    assert main(["index", "--dataset", "shop", "--model", "model", "--output", "ix"]) == 0
    assert "60 items x 64 dimensions, views both, text, image, exact -> ix (v000001)" in capsys.readouterr().out
    asked = ["recommend", "--model", "model", "--dataset", "shop", "--index", "ix", "--user", user, "-k", "3"]
    assert main([*asked, "--explain", "--view_weights", "text=1,image=0.5", "--filter", '{"title": {"!=": "x"}}']) == 0
    assert capsys.readouterr().out.count("pulls most") == 3
    assert main([*asked, "--filter", '{"tile": 1}']) == 2
    assert "`--filter` names the column 'tile'" in capsys.readouterr().err
