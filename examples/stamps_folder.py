"""Real pictures in seven classes, from the stamps of Tux Paint, as a folder: `python examples/stamps_folder.py FOLDER`

    apt-get install tuxpaint-stamps-default

A class is what Tux Paint has as a folder, without the drawings (SVG) and the mirrored copies. FOLDER/CLASS/*.png are
links.
"""

import sys
from pathlib import Path

STAMPS = Path("/usr/share/tuxpaint/stamps")
CLASSES = ("animals", "food", "household", "plants", "seasonal", "town", "vehicles")


def main(folder: str) -> None:
    """Links the pictures of all classes."""
    for name in CLASSES:
        target = Path(folder, name)
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted((STAMPS / name).rglob("*.png")):
            if not path.stem.endswith("_mirror"):
                link = target / "-".join(path.relative_to(STAMPS / name).parts)
                link.unlink(missing_ok=True)
                link.symlink_to(path)


if __name__ == "__main__":
    main(sys.argv[1])
