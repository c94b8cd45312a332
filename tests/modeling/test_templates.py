"""A published embedder's layout: vectors equal those of sentence-transformers over the same files, to 1e-5."""

import json

import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, ProcessorMixin
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from vlm2rec_hf import HistoryState, VLM2RecEmbedder, VLM2RecProcessor
from vlm2rec_hf.modeling.templates_vlm2rec import TEMPLATES
from vlm2rec_hf.tiny.backbones import save_tiny_backbone

from ..conftest import make_image

TEMPLATE = "qwen3_vl_embedding"
CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ITEMS = ["red tent", {"image": make_image(1, (90, 70))}, {"image": make_image(0), "text": "Alpina lamp 3"}, "x"]


class WithoutVideo(ProcessorMixin):
    """What `Qwen3VLProcessor` does with texts and images; that one asks for torchvision."""

    return_mm_token_type_ids = True

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        self.image_token = "<|image_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(self, image_inputs, image_idx, **kwargs):
        length = image_inputs["image_grid_thw"][image_idx].prod() // self.image_processor.merge_size**2
        return self.image_token * int(length)


def write(folder, closes_texts):
    """A tiny copy of the published repo's layout: a raw backbone and the files of sentence-transformers."""
    save_tiny_backbone(folder, "qwen3_vl", ["red tent", "Alpina lamp 3"], hidden_size=32, vision_hidden_size=32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if closes_texts:
        end = "<|endoftext|>"
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, tokenizer.convert_tokens_to_ids(end))]
        )
    tokenizer.chat_template = CHAT
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(folder)
    method = {"method": "forward", "method_output_name": "last_hidden_state"}
    (folder / "sentence_bert_config.json").write_text(
        json.dumps(
            {
                "transformer_task": "feature-extraction",
                "modality_config": {name: method for name in ("text", "image", "message")},
                "module_output_name": "token_embeddings",
                "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
            }
        )
    )
    names = ("Transformer", "Pooling", "Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({**pooling, "include_prompt": True}))
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"document": "Represent the user's input."}, "default_prompt_name": "document"})
    )


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "texts end in a token"])
def published(request, tmp_path_factory):
    """Folder, its model of sentence-transformers, ours with internal fusion, and our processor."""
    folder = tmp_path_factory.mktemp("published")
    write(folder, request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sentence_transformers.base.modules.transformer.AutoProcessor.from_pretrained",
            lambda name, **kwargs: WithoutVideo(
                AutoImageProcessor.from_pretrained(name), AutoTokenizer.from_pretrained(name), CHAT
            ),
        )
        reference = SentenceTransformer(str(folder), device="cpu")
    model = VLM2RecEmbedder.from_backbone(str(folder), fusion="internal")
    with torch.no_grad():
        for one in (reference[0].model, model.vlm):
            for name, weight in one.named_parameters():
                if weight.ndim > 1 and "language_model.layers" in name:
                    weight.mul_(8)  # attention that tells tokens apart
    processor = VLM2RecProcessor.from_backbone(str(folder), fusion="internal", template=TEMPLATE)
    # The pixels of the published repo's own files; the template's bounds are wider.
    processor.image_processor.size = reference[0].processor.image_processor.size
    return folder, reference, model, processor


def test_items_have_the_vectors_of_sentence_transformers(published):
    _, reference, model, processor = published
    expected = torch.as_tensor(reference.encode(ITEMS, convert_to_tensor=True))
    assert (model.encode_items(ITEMS, processor).both - expected).abs().max() < 1e-5
    one_by_one = [model.encode_items([item], processor).both[0] for item in ITEMS]
    assert (torch.stack(one_by_one) - expected).abs().max() < 1e-5
    # The layout decides: in our own rows the same weights give other vectors.
    processor_of_ours = VLM2RecProcessor.from_backbone(str(published[0]), fusion="internal")
    assert (model.encode_items(ITEMS[:1], processor_of_ours).both - expected[:1]).abs().max() > 1e-3


def test_another_instruction_takes_its_place(published):
    _, reference, model, processor = published
    instruction = "Retrieve what goes with it."
    expected = torch.as_tensor(reference.encode(ITEMS, prompt=instruction, convert_to_tensor=True))
    was, processor.item_instruction = processor.item_instruction, instruction
    assert (model.encode_items(ITEMS, processor).both - expected).abs().max() < 1e-5
    processor.item_instruction = was


def test_views_alone_are_rows_of_the_same_layout(published):
    """External fusion: the text row and the image row are what the published model reads of either alone."""
    folder, reference, _, processor = published
    model = VLM2RecEmbedder.from_backbone(str(folder))
    model.vlm.load_state_dict(reference[0].model.state_dict())
    ours = VLM2RecProcessor.from_backbone(str(folder), template=TEMPLATE)
    ours.image_processor.size = processor.image_processor.size
    vectors = model.encode_items([ITEMS[2]], ours)
    expected = torch.as_tensor(reference.encode([ITEMS[2]["text"], {"image": ITEMS[2]["image"]}]))
    assert (torch.cat([vectors.text, vectors.image]) - expected).abs().max() < 1e-5


def test_a_history_begins_with_its_shorter_ones_and_ends_every_item(published):
    _, _, model, processor = published
    prepared = processor.prepare_items(ITEMS)
    row, _ = processor.rows(prepared, "user")
    for count in range(1, len(ITEMS)):
        shorter, _ = processor.rows(prepared[:count], "user")
        assert row.ids[: len(shorter.ids)] == shorter.ids and row.ends[count - 1] == len(shorter.ids) - 1
    closing = processor.tokenizer(TEMPLATES[TEMPLATE].after)["input_ids"]
    assert all(row.ids[end + 1 - len(closing) : end + 1] == closing for end in row.ends)
    state = HistoryState(model, processor, users=["ann"])
    for count, item in enumerate(ITEMS, 1):
        state.append({"ann": item})
        alone = model.encode_histories([ITEMS[:count]], processor).both
        assert (state.embedding(["ann"]).both - alone).abs().max() < 1e-5


def test_the_template_is_saved_and_gives_way_to_what_is_given(published, tmp_path):
    folder, _, _, processor = published
    processor.save_pretrained(tmp_path)
    again = VLM2RecProcessor.from_pretrained(tmp_path)
    assert again.template == TEMPLATE
    assert again.rows(again.prepare_items(ITEMS[:1]), "item") == processor.rows(
        processor.prepare_items(ITEMS[:1]), "item"
    )
    fresh = VLM2RecProcessor.from_backbone(str(folder), template=TEMPLATE, max_pixels=65536)
    size = fresh.image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (4096, 65536)
    assert fresh.item_instruction == "Represent the user's input."
    with pytest.raises(ValueError, match="`template` must be one of \\['qwen3_vl_embedding'\\] or None, got 'qwen'"):
        VLM2RecProcessor.from_backbone(str(folder), template="qwen")


def test_the_command_line_takes_it(published, demo_dataset):
    from vlm2rec_hf.cli.arguments import EncoderModelArguments, TrainModelArguments
    from vlm2rec_hf.cli.evaluate import load
    from vlm2rec_hf.cli.train_vlm2rec import starting_model

    folder = str(published[0])
    raw = load(EncoderModelArguments(model=folder, template=TEMPLATE)).processor
    taken = starting_model(TrainModelArguments(model=folder, template=TEMPLATE), demo_dataset, 4, 0)[0].processor
    tiny = TrainModelArguments(tiny="qwen3_vl", template=TEMPLATE, hidden_size=32, vision_hidden_size=32)
    made = starting_model(tiny, demo_dataset, 4, 0)[0].processor
    assert raw.template == taken.template == made.template == TEMPLATE and taken.max_history == 4
    assert taken.item_instruction == raw.item_instruction == TEMPLATES[TEMPLATE].options["item_instruction"]
