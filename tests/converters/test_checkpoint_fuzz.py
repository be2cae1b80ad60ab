"""State_dicts nested at random: the search finds the weights that an oracle says are meant, or refuses."""

import os

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from converters.checkpoints import building
from converters.checkpoints.reading import CheckpointError
from vtabjax.specs import Spec

# More with VTABJAX_FUZZ=2000.
EXAMPLES = int(os.environ.get("VTABJAX_FUZZ", "200"))

PLAIN_KEYS = ["state_dict", "model", "weights", "params", "net", "checkpoint", "student", "0"]
AVERAGE_KEYS = [
    "state_dict_ema",
    "model_ema",
    "ema",
    "ema_state_dict",
    "teacher",
    "averaged_model",
    "modelEMA",
]
PLAIN_PREFIXES = [
    "module.",
    "_orig_mod.",
    "model.",
    "net.",
    "backbone.",
    "encoder.",
    "visual.trunk.",
    "lit.x_1.",
]
AVERAGE_PREFIXES = ["ema_model.", "teacher.", "ema.module.", "target_encoder."]
MOMENTUM_PREFIXES = ["encoder_k.", "momentum_encoder.", "target_net."]
EXTRAS = [
    *(
        "criterion.weight",
        "queue",
        "queue_ptr",
        "n_averaged",
        "head.weight",
        "projector.0.weight",
        "train_acc.tp",
    ),
    *("mask_token", "decoder_embed.weight", "total_ops", "classifier.weight", "log.fc.weight"),
]
HEADS = ["equal", "other classes", "absent", "wrapped", "odd"]
FAULTS = ["missing", "shape", "deeper", "token"]


class Tiny(nn.Module):
    """A small network with a counter, a nested block and a classifier."""

    def __init__(self, num_classes: int = 5):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 1)
        self.bn1 = nn.BatchNorm2d(2)
        self.layer1 = nn.Sequential(nn.Sequential(nn.Conv2d(2, 2, 1, bias=False)))
        self.fc = nn.Linear(2, num_classes) if num_classes else nn.Identity()


def tensors(value: float, head: str, fault: str | None) -> dict[str, torch.Tensor]:
    state = {
        k: torch.full_like(v, value)
        for k, v in Tiny(3 if head == "other classes" else 5).state_dict().items()
    }
    state["bn1.num_batches_tracked"] = torch.tensor(7)
    if head in ("absent", "wrapped"):
        del state["fc.weight"], state["fc.bias"]
    if head == "wrapped":
        state |= {"fc.1.weight": torch.zeros(3, 2), "fc.1.bias": torch.zeros(3)}
    if head == "odd":
        state["fc.weight"] = torch.zeros(3, 4)
    if fault == "missing":
        del state["bn1.running_var"]
    if fault == "shape":
        state["layer1.0.0.weight"] = torch.zeros(2, 2, 3, 3)
    if fault == "deeper":
        state["layer1.1.0.weight"] = torch.zeros(2, 2, 1, 1)
    if fault == "token":
        state["cls_token"] = torch.zeros(1, 1, 2)
    return state


@st.composite
def sets(draw):
    """One set of weights: (container, prefix, kind, value, head, fault)."""
    container = tuple(draw(st.lists(st.sampled_from(PLAIN_KEYS), max_size=2)))
    prefix = "".join(draw(st.lists(st.sampled_from(PLAIN_PREFIXES), max_size=3)))
    kind = draw(st.sampled_from(["plain", "plain", "average", "momentum"]))
    if kind == "average" and draw(st.booleans()):
        container = (*container, draw(st.sampled_from(AVERAGE_KEYS)))
    elif kind == "average":
        prefix = draw(st.sampled_from(AVERAGE_PREFIXES)) + prefix
    elif kind == "momentum":
        prefix = draw(st.sampled_from(MOMENTUM_PREFIXES)) + prefix
    fault = draw(st.one_of(st.none(), st.none(), st.none(), st.sampled_from(FAULTS)))
    # Integers: exact in every precision. Equal ones are copies of one set of weights.
    return container, prefix, kind, float(draw(st.integers(1, 4))), draw(st.sampled_from(HEADS)), fault


def put(tree: dict, container: tuple[str, ...], prefix: str, state: dict[str, torch.Tensor]) -> None:
    for key in container:
        tree = tree.setdefault(key, {})
    for key, value in state.items():
        assume(prefix + key not in tree)
        tree[prefix + key] = value


def meant(found) -> float | None:
    """The value of the weights that are meant; None: it cannot be told."""
    kinds: dict[float, str] = {}
    for _, _, kind, value, _, fault in found:
        if fault is None:
            kinds[value] = min(kind, kinds.get(value, kind), key=["average", "plain", "momentum"].index)
    for kind in ("average", "plain"):
        values = [v for v, k in kinds.items() if k == kind]
        if values:
            return values[0] if len(values) == 1 else None
    return None


def strangers(found) -> bool:
    """Whether a set lies where another one's names would be: then it may belong to it, and either answer is right."""
    places = [(container, prefix) for container, prefix, *_ in found]
    return any(
        a != b
        and a[0] == b[0]
        and b[1].startswith(a[1])
        and b[1][len(a[1]) :].startswith(("conv1", "bn1", "layer1"))
        for a in places
        for b in places
    )


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(sets(), min_size=1, max_size=3),
    st.lists(st.sampled_from(EXTRAS), unique=True, max_size=4),
    st.booleans(),
)
def test_the_weights_that_are_meant_or_a_refusal(tmp_path_factory, found, extras, others):
    assume(len({(c, p) for c, p, *_ in found}) == len(found) and not strangers(found))
    tree: dict = {}
    for container, prefix, _, value, head, fault in found:
        put(tree, container, prefix, tensors(value, head, fault))
    put(tree, found[0][0], "", {key: torch.zeros(3) for key in extras})
    if others:
        tree |= {
            "epoch": 3,
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(2, 3, 1, 1)}}, "param_groups": [{"lr": 1}]},
        }
    path = tmp_path_factory.getbasetemp() / "fuzz.pth"
    torch.save(tree, path)
    expected = meant(found)
    try:
        module, info = building.build(Spec("lab", "tiny", file=str(path)), Tiny, ("fc",))
    except CheckpointError:
        assert expected is None, found
        return
    assert expected is not None, (found, info["place"])
    own = module.state_dict()
    assert all(
        (v == expected).all() for k, v in own.items() if not k.startswith("fc.") and "num_batches" not in k
    )
    heads = {head for _, _, _, value, head, fault in found if value == expected and fault is None}
    classes = {{"equal": 5, "other classes": 3}.get(head) for head in heads}
    assert info["num_classes"] in (classes if info["layout"] == "state_dict" else {*classes, None})
    container = tree
    for key in filter(None, info["checkpoint"]["container"].split(".")):
        container = container[key]
    loaded = {info["checkpoint"]["prefix"] + key for key in own}
    # Nothing in the dict is passed over in silence.
    here = {key for key, value in container.items() if isinstance(value, torch.Tensor)}
    assert here == (loaded & here) | set(info["dropped_keys"])
