"""Interactions that a sequential model can learn without a doubt."""

import numpy as np

from vlm2rec_hf import RecDataset


def walks(n_users):
    """Users that walk in circles of eight items with a step of one, from anywhere, for 5 to 14 interactions."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(n_users):
        start = int(rng.integers(24))
        for place in range(int(rng.integers(5, 15))):
            item = start // 8 * 8 + (start + place) % 8
            rows.append({"user_id": f"u{user}", "item_id": f"i{item:02d}", "position": place})
    return RecDataset.from_tables(rows, name="rounds").leave_one_out()
