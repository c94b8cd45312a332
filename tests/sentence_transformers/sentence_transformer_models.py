"""Tiny SentenceTransformers over VLM2Rec embedders, and columns as the trainer hands them to a loss."""

from datasets import Dataset, Features, Image, List, Value
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.data_collator import BaseDataCollator

from vlm2rec_hf.sentence_transformers.model_files import as_documents, as_queries, write_sentence_transformer_files

from ..conftest import make_image, needs_image_processor

PART = {"type": Value("string"), "text": Value("string"), "image": Image()}
CONVERSATION = List({"role": Value("string"), "content": List(PART)})


def save(model, processor, folder):
    """Save an embedder in the stock sentence-transformers layout and load it."""
    needs_image_processor(processor.backbone_type)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_sentence_transformer_files(folder, processor, model.config)
    return SentenceTransformer(str(folder))


def catalogue(n=9):
    """Items with both modalities; the third has only text, the sixth only an image, the last is short."""
    items = [
        {"text": f"{'red tent' if i % 2 else 'blue mug'} number {i}", "image": make_image(i)} for i in range(n - 1)
    ]
    items[2], items[5] = {"text": "Alpina lamp 3"}, {"image": make_image(50, (64, 90))}
    return [*items, {"text": "x", "image": make_image(60, (90, 40))}]


def interactions(n_users=7):
    """Histories of one to five items (row numbers of the catalogue), and the items chosen next."""
    histories = [[(user + k) % 9 for k in range(1 + user % 5)] for user in range(n_users)]
    return histories, [(user + 5) % 9 for user in range(n_users)]


def table(histories, *columns, label=None):
    """A dataset of one column of histories and one or more of items (all given as rows of the catalogue)."""
    items = catalogue()
    names = ["anchor", "positive", *(f"negative_{k}" for k in range(1, len(columns)))]
    made = [as_queries([[items[i] for i in history] for history in histories])]
    for column in columns:
        made.append([[message(item) for item in as_documents([items[i]])] for i in column])
    rows = [dict(zip(names, row, strict=True)) for row in zip(*made, strict=True)]
    dataset = Dataset.from_list(rows, Features(dict.fromkeys(names, CONVERSATION)))
    return dataset if label is None else dataset.add_column("label", label)


def message(item):
    """An item as a message: Arrow would fill a missing text or image of a plain dict with None."""
    return {"role": "user", "content": [{"type": name, name: value} for name, value in item.items()]}


def batch_of(model, dataset):
    """The columns and labels that the trainer would hand to the loss for one batch of the whole dataset."""
    made = BaseDataCollator(model.preprocess)(list(dataset))
    names = [name for name in dataset.column_names if name != "label"]
    columns = [
        {key.removeprefix(f"{name}_"): value for key, value in made.items() if key.startswith(f"{name}_")}
        for name in names
    ]
    return columns, made.get("label")
