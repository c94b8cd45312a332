"""Pictures as one row per vision patch, the way batches and caches hold them, and back."""

from torch import Tensor


def cut_patches(pixels: Tensor, patch: int) -> tuple[Tensor, tuple[int, int, int]]:
    """A picture `(channels, height, width)` as `(n_patches, channels * patch**2)` rows, and its grid `(1, h, w)`."""
    height, width = pixels.shape[1] // patch, pixels.shape[2] // patch
    pixels = pixels[:, : height * patch, : width * patch].reshape(-1, height, patch, width, patch)
    return pixels.permute(1, 3, 0, 2, 4).reshape(height * width, -1), (1, height, width)


def fold_patches(pixel_values: Tensor, grid: Tensor, patch: int) -> Tensor:
    """Pictures of one size put together again: `(n_patches, channels * patch**2)` -> `(n_images, channels, H, W)`.

    Raises:
        ValueError: pictures of different sizes.
    """
    if bool((grid != grid[0]).any()):
        raise ValueError("`image_grid_thw` holds pictures of different sizes; prepare all with one processor.")
    _, height, width = grid[0].tolist()
    pixels = pixel_values.view(len(grid), height, width, -1, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return pixels.reshape(len(grid), -1, height * patch, width * patch)
