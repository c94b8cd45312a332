"""Names used everywhere: columns of tables, datasets and reports, and the views of an embedding."""

VIEWS = ("text", "image", "both")
"""The vectors of an item or a history: each modality's, and their sum. Copied files have the same names in
`modeling/encoding_vlm2rec.py`."""

SCORED = "scored"
"""The view of a report or recommender that is ranked with an embedder's own `ScoreOptions`."""

USER_ID = "user_id"
ITEM_ID = "item_id"
TIMESTAMP = "timestamp"
RATING = "rating"
TITLE = "title"
TEXT = "text"
IMAGE = "image"
IMAGE_FEATURES = "image_features"
"""Optional item column: what an image encoder made of an item's image, for models that read images so."""
DESCRIPTION = "description"
"""Optional item column: what a caption of the image plus the text would say. Only warm-up targets read it."""
DESCRIPTION_TEXT = "description_text"
DESCRIPTION_IMAGE = "description_image"
DESCRIPTION_BOTH = "description_both"
"""What a vision-language model wrote about an item, shown its text, its image, or both (`vlm2rec describe`)."""
DESCRIPTION_SOURCE = "description_source"
"""Which model wrote them: `MODEL@COMMIT prompts:HASH`."""
