"""One page with all results: each figure with the paper's claims and our findings, the tables, the settings."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from mithridate.errors import StorageError
from mithridate.reproduction import FIGURES
from mithridate.reproduction.ledger import read_claims
from mithridate.reproduction.outcome import Claim, signed

ABOUT = """# The paper, reproduced

This page shows every figure and table of *Regularisation Can Mitigate Poisoning Attacks: A Novel Analysis Based on
Multiobjective Bilevel Optimisation* as this program makes them. It lists each observation of the paper and says whether
we see it too. An effect is the mean over random splits ± half its 95 % interval. An observation *holds* if the whole
interval is where the paper says, and *does not hold* if no part of it is. Otherwise there is *not enough data*. Each
figure names its differences from the paper's settings.

This page is written from the runs' own data:

    mithridate reproduce all --out DIR
    mithridate reproduce page --from DIR [--from DIR …] --out docs/reproduction.md
"""


def write_page(directories: Sequence[Path], target: Path) -> Path:
    """Write the Markdown page `target` about the figures and tables in these directories, in the paper's order.

    A directory holds one figure or table, or a run of all. Pictures are copied into a folder of `images` beside the
    page that has the page's name. Raises `StorageError` for a directory that holds neither or cannot be read, and for a
    page that cannot be written.
    """
    folders = [found for directory in directories for found in _folders(directory)]
    try:
        images = target.parent / "images" / target.stem
        images.mkdir(parents=True, exist_ok=True)
        parts = [ABOUT]
        for name in FIGURES:
            for folder in folders:
                if (folder / f"{name}.parquet").exists():
                    again = folder.name.removeprefix(name).strip("-")  # as in fig2-mnist-0v8
                    picture = images / f"{'-'.join(filter(None, (name, again)))}.png"
                    parts.append(_section(name, again, folder, picture, picture.relative_to(target.parent)))
        target.write_text("\n".join(parts), encoding="utf-8", newline="\n")
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def _folders(directory: Path) -> list[Path]:
    """Return the folders of figures and tables in a directory: itself, or those of a run of all."""
    found = [folder for folder in (directory, *sorted(directory.glob("*/"))) if any(folder.glob("*.parquet"))]
    if not found:
        raise StorageError(f"{directory} holds no figure or table; make one with `mithridate reproduce`")
    return found


def _section(name: str, again: str, folder: Path, picture: Path, link: Path) -> str:
    """Return the part of the page about one figure or table; its picture is copied."""
    kind = "Fig." if name.startswith("fig") else "Table"
    title = f"\n## {kind} {name[-1]}{again and f', {again}'}\n"
    table = folder / f"{name}.md"
    if table.exists():
        return f"{title}\n{table.read_text(encoding='utf-8')}"
    shutil.copyfile(folder / f"{name}.png", picture)
    caption = (folder / "caption.txt").read_text(encoding="utf-8").strip().replace("\n", "\n\n")
    rows = [_row(entry.claim) for entry in read_claims([folder])]
    head = "| | the paper says | measured here | verdict |\n|---|---|---|---|"
    return "\n".join([title, f"![{name}]({link.as_posix()})", "", caption, "", head, *rows, ""])


def _row(claim: Claim) -> str:
    on = f" ({claim.dataset})" if claim.dataset else ""
    where = f" [{claim.where}]" if claim.where else ""
    size = f"{signed(claim.effect, claim.half)} {claim.unit}; expected {claim.expected}. {claim.found}"
    cells = (claim.number, f"{claim.paper}{on}{where}", size, f"**{claim.verdict}**")
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
