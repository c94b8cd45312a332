"""From a trained model to the items to show: one recommender over every kind of model, with an index or without.

What a server builds on (all of it plain Python; nothing here opens a port):

- `recommender(model, dataset=None, index=DIR, view=None) -> Recommender`. With `index` every list comes from it, and
  other processes' changes are seen with each question (`ItemIndex.refresh`, a look at three files).
- `Recommender.recommend(histories | users=, k, candidates=, filter=, exclude_seen=, on_unknown=, group_by=,
  diversity=, explain=, view_weights=) -> list[ShopRecommendation]`, many histories in one pass. A history is a list of
  ids and (encoders) new items `{"text": str | None, "image": PIL image | None}`.
- `ShopRecommendation`: `item_ids`, `scores`, `titles`, `source` (`"model"`, `"popularity"`), `n_unknown`, `metadata`
  (a dict per item: `item_id`, the index's columns, `text`), `reasons` (an `Explanation` per item, or None).
- `Explanation`: `item_id`, `score`, `shares` (name -> part; they add up to the score), `pulls` (`Pull`: `place`,
  `item_id`, `without`, `pull`), `reason` (a sentence), `to_dict()` for JSON.
- `Recommender.similar(items, k, ...)`, `Recommender.explain(history, item)`.
- `Recommender.upsert(items)` and `Recommender.delete(item_ids)`: on the disk when they return, so a server may
  acknowledge. `upsert` takes `{"item_id", "text", "image" (PIL image or bytes), **metadata}`.
- `Recommender.index`: an `ItemIndex` with `facts` (model, revision, fingerprint, views, columns), `metadata(ids)`,
  `has(ids)`, `item_ids()`, `version`, `superseded` (the folder was switched to another model: load that one).

Bad input is a `ValueError` or `TypeError` whose text may be shown to who asked.
"""
