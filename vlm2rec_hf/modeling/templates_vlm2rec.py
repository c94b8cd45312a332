"""Row layouts of published vision-language embedders: what they were trained to read an item in."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RowTemplate:
    """How rows are put together in place of our own layout; an item's image stands in front of its text.

    A row is the instruction, then every item between `before` and `after`. The state of the last token of `after` is
    the vector after that item, so a history's row begins with the row of every earlier history here, too.

    Attributes:
        instruction: around a row's instruction; holds `{instruction}` once.
        before: in front of each item.
        after: behind each item; what the tokenizer puts behind every text follows it.
        options: of the processor, where not given otherwise.
    """

    instruction: str
    before: str
    after: str
    options: dict[str, Any] = field(default_factory=dict)


TEMPLATES = {
    # Item rows and image sizes as in the model's own `Qwen3VLEmbedder` (arXiv 2601.04720). It has no histories: each
    # item is a turn of the user there, answered by an empty one, and the instruction is ours (our choice).
    "qwen3_vl_embedding": RowTemplate(
        instruction="<|im_start|>system\n{instruction}<|im_end|>\n",
        before="<|im_start|>user\n",
        after="<|im_end|>\n<|im_start|>assistant\n",
        options={
            "item_instruction": "Represent the user's input.",
            "user_instruction": "Represent what this user will choose next, given the history, oldest first.",
            "min_pixels": 4 * 32**2,
            "max_pixels": 1800 * 32**2,
        },
    )
}
