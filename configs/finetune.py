"""Fine-tuning by VTAB-1k's protocol: a grid on train800, its best point on val200 retrained on both and tested once.

    python main.py --config=configs/finetune.py                 # embedded tasks, small models: minutes on two cores
    python main.py --config=configs/finetune.py:vtab --config.models=timm/resnet50.a1_in1k --config.tasks=dtd
    python main.py --config=configs/finetune.py:vtab --config.dtype=bfloat16 --config.finetune.seeds=0,1,2
    python main.py --config=configs/finetune.py:vtab --config.finetune.scope=head     # VTAB's linear evaluation
    python main.py --config=configs/finetune.py:peft --config.tasks=dtd    # LoRA on a ViT, as papers on adapters do it

The suite vtab has VTAB's lightweight sweep: two learning rates x two durations, batch 512. The suite peft has what
most papers on parameter-efficient fine-tuning have in common: AdamW, batch 64, 100 epochs, 10 of warm-up, cosine.
docs/finetune.md says what is trained, how it survives interruptions and where the curves and models go.
"""

from ml_collections import ConfigDict

from configs import common

SUITES = (*common.SUITES, "peft")


def get_config(suite: str = "mini") -> ConfigDict:
    """Fields of `common.base`, and of this protocol under `finetune`.

    Args:
      suite: "mini", "vtab" or "peft", which is the suite vtab with other settings.

    Raises:
      ValueError: the suite is not known.
    """
    if suite not in SUITES:
        raise ValueError(
            f"suite {suite!r} is not known; choose from {', '.join(SUITES)} (configs/finetune.py:vtab)"
        )
    peft, mini = suite == "peft", suite == "mini"
    c = common.base("finetune", "vtab" if peft else suite)
    if mini:
        c.models = "baseline/pixels,embedded/sprites_resnet,timm/test_resnet@random"

    f = c.finetune = ConfigDict()
    # The grid, comma-separated.
    f.learning_rates = "0.1,0.01"
    f.weight_decay = "0"  # of weights with two dimensions and more
    f.steps = "60,240" if mini else "2500,10000"
    f.epochs = ""  # the length in passes over the examples; leave steps empty then
    f.halving = 0  # 3: after a third of the steps only the best third of the grid goes on; 0: all of it
    f.hours = 0.0  # per cell: no grid point begins for which the time would not suffice; 0: no limit

    # The step.
    f.batch_size = 32 if mini else 512  # over all devices
    f.optimizer = "sgd"  # "adam", "adamw", "lamb", "lion"
    f.momentum = 0.9  # of sgd
    f.layer_decay = 1.0  # what the learning rate is multiplied by from one block to the one before it
    f.clip = 0.0  # the largest norm of the gradient; 0: any
    f.label_smoothing = 0.0
    f.ema = 0.0  # decay of an average of the weights, which is then evaluated and kept
    f.schedule = "piecewise"  # of the learning rate; "cosine" falls to 0; "constant"
    f.decay_at = "0.3,0.6,0.9"  # fractions of the steps after which the learning rate falls
    f.decay_factor = 0.1  # by which it is multiplied each time
    f.warmup = 0  # steps over which it rises linearly from 0
    f.warmup_epochs = 0.0  # the same where the length is in epochs
    f.augment = "none"  # "flip", "crop" (random resized), "crop+flip", "crop+flip+jitter" (colours)
    f.sampling = "epoch"  # every example once before any comes again; "replacement": drawn independently

    # What is trained. "head": only a linear layer on the features of the model as it is.
    f.scope = "all"  # "head", "bias", "norm", "lora", "prompt", "prompt_deep"
    f.lora_rank = 8
    f.lora_alpha = 8.0  # updates are multiplied by lora_alpha / lora_rank
    f.lora_layers = ""  # pattern of weights' names; "": see docs/finetune.md
    f.prompt_tokens = 10
    f.seeds = "0"  # of the order of the examples; the score is the median over the retrained models
    f.save = False  # keep the fine-tuned models

    # Memory. The micro-batch is halved automatically when memory runs out; batch statistics are then per micro-batch.
    f.micro_batch = 0  # examples at once; 0: the whole batch
    f.frozen_cache_gb = 2.0  # room to keep what layers below the first trained one compute; 0: never kept
    f.remat = False  # recompute activations in the backward pass

    if peft:
        c.models, c.resize = "timm/vit_base_patch16_224.augreg_in21k", "bicubic"
        f.scope = "lora"
        f.learning_rates, f.steps, f.epochs, f.batch_size = "0.001,0.005,0.0005", "", "100", 64
        f.optimizer, f.weight_decay, f.schedule, f.warmup_epochs = "adamw", "0.0001", "cosine", 10.0
    return c
