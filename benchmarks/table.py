"""The table of speed and memory in the docs, from what the scripts beside this one printed.

    python benchmarks/vision_cache.py --json > benchmarks/measured/vision_cache.json
    python benchmarks/table.py            # prints the table
    python benchmarks/table.py --write    # puts it into docs/background/speed.md

`measured/NAME.json` holds the last line that `NAME.py` printed, nothing added or left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "background" / "speed.md"
BEGIN, END = "<!-- benchmarks/table.py -->", "<!-- end -->"
SAVES = {
    "full_ranking",
    "seqrec_epoch",
    "vision_cache",
    "encode_throughput",
    "history_append",
    "index_search",
    "serve_latency",
    "prefix_training",
    "ml1m_evaluation",
}
"""Where the ratio says how many times less time we take; elsewhere it is ours over the other's and should be small."""


def table(folder: Path = HERE / "measured") -> str:
    """Markdown of all measurements in a folder, by name.

    Raises:
        ValueError: a file that holds no measurement.
    """
    lines = ["| `benchmarks/` | measured | ours | other | ratio | bar |", "|---|---|---|---|---|---|"]
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
        lost = [name for name in ("claim", "ours", "other", "ratio", "bar", "unit") if name not in found]
        if lost:
            raise ValueError(f"{path} lacks {lost}; put there what {path.stem}.py printed.")
        sign = "at least" if path.stem in SAVES else "at most"
        bar = f"{sign} {found['bar']}" if found["bar"] is not None else ""
        cells = [f"`{path.stem}.py`", f"{found['claim']} ({found['unit']})"]
        cells += [_text(found[name]) for name in ("ours", "other", "ratio")]
        lines.append("| " + " | ".join([*cells, bar]) + " |")
    return "\n".join(lines)


def with_table(text: str, made: str) -> str:
    """A page with the table between its two marks.

    Raises:
        ValueError: the marks are not there.
    """
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"speed.md needs the lines {BEGIN!r} and {END!r}.")
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(inner)}" for name, inner in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put it into docs/background/speed.md")
    options = parser.parse_args()
    if options.write:
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table()), encoding="utf-8")
    else:
        print(table())


if __name__ == "__main__":
    main()
