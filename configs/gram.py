"""GRAM on the world that ships with weavejax: text, video and audio aligned by their volume.

Command:   python -m weavejax.train --config configs/gram.py
Hardware:  2 CPU cores, 6 GB (3.1 GB used)
Time:      7 min 4 s from nothing on 2 cores of an AMD EPYC: 2 min 20 s rendering, 4 min 5 s training
           (before the loss was scored in blocks; not timed on a quiet machine since)
Result:    text → video+audio R@1 93.0 % on 256 held-out rendered clips (chance 0.4 %), the reverse
           94.5 %; an earlier version gave 92.6 (93.4), and with seeds 1 and 2 93.0 (93.8) and 93.0
           (91.8). Figures on a rendered world stand for no published benchmark.

What helps from random weights (an earlier version of the train step; seed 0, 200 steps, same data
and order; R@1 by the trained score, text → video+audio / reverse; add the flags to the command, each
with its own --workdir):

  score                                     step 100   step 200      flags
  volume, cosine blended in over 60 steps     65.6    91.8 / 93.4    (default)
  volume alone                                64.1    88.7 / 87.5    loss.warmup_steps=0
  half volume, half cosine throughout         67.2    93.0 / 93.8    loss.warmup_steps=0, loss.mix=0.5
  shifted (hyperbolic) volume alone           77.0    94.9 / 96.5    loss.warmup_steps=0,
                                                                     loss.score=shifted_volume
  mean cosine alone                           74.6    91.4 / 95.7    loss.warmup_steps=0,
                                                                     loss.score=cosine

One seed each: differences of a few points are within its noise. What matters more than the score is
the initialisation: an earlier run with a fixed 0.02 for all kernels (300-step schedule, cosine over
150) stood at 2.0 % at its step 100; with fan-in scaling (`weavejax.ops.transformer.fan_in`) even the
bare volume takes off. It stays blind to sign: its texts and their clips end up opposed (cosine of
text with matched video −0.36 on average, R@1 by mean cosine 0 %).

Variants:
  (default)  2,048 rendered training clips, 256 held-out ones; everything is made here.
  files      your own clips: --config configs/gram.py:files --config.data.root DIR
  smoke      the default at its smallest, for tests: a minute.
  matching   the default with the matching loss and its second stage.
  small      as small as the scores can be told apart at: 64 pixels, towers of width 64, batches of 64,
             the matching path; 300 steps of VAST's objective, where `configs/sweeps/gram_scores.py`
             starts every score from. Of 512 held-out clips (--config.data.options.test=512) it finds
             81.8 % (text → video+audio R@1), 33.2 % by matching; with 600 of 1,200 steps 92.8 and 82.2.
  msrvtt, didemo, activitynet, vatex, audiocaps, vggsound, vast27m, gram_json
             a published set that you hold (datasets/README.md), with the small model of `files`, or,
             as in published-msrvtt, with the published one:
             --config configs/gram.py:published-msrvtt --config.data.options.root=DIR
             For MSR-VTT, DiDeMo, ActivityNet, VATEX and AudioCaps that is the published finetuning:
             2e-5, batch 64 (MSR-VTT 32), 8 frames (MSR-VTT 4), from GRAM's weights
             (--config.init.weights=DIR). On 16 × v5e a device holds 300 MiB of parameters, 601 MiB of
             the optimiser, and at its peak for MSR-VTT 1.72, for VATEX and AudioCaps 3.15, for DiDeMo
             and ActivityNet 3.16 of 15.75 GiB (`weavejax.plan --topology v5e:4x4 --fast`, libtpu
             0.0.52; the compiler of 0.0.42, which jax[tpu] brings, crashes at texts of 70 tokens,
             DiDeMo's and ActivityNet's: on TPUs, too, pip install -U libtpu first).
             Not measured: none of these sets is on the machine of the figures above.
  published  the published architecture and 150k-clip schedule, on your own clips:
             --config configs/gram.py:published --config.data.source=files --config.data.root=DIR
             EVA-CLIP-g (1,012.6 M parameters), BEATs (90.3 M), BERT-base with cross-attention
             (137.3 M), heads into 512 dimensions, the matching path (2.9 M): 1,244.9 M in all,
             float32 parameters, bfloat16 compute. 2 frames of 224 pixels in training and 8 in
             evaluation, 1,024 frames of 64 mels, 40 caption and 70 subtitle tokens; batch 256, one
             pass over 150,000 clips, AdamW at 1e-4 (5e-7 for the image tower), label smoothing 0.1,
             gradients stopped as in the published code.
             The published run goes on from VAST's weights, without which this schedule is too short:
             `weavejax.convert`, then --config.init.weights=DIR. A tenth of the matching loss on
             video and audio; evaluation reranks the nearest 50. LoRA: --config.lora.rank=8.
             It needs accelerators: 15 GB of parameters and optimiser state, spread over the mesh.
             Memory of a device (`weavejax.plan`, README):
               256 × v5e, batch 4,096: parameters 41 MiB, optimiser 82 MiB, peak 2.03 of 15.75 GiB
               512 × v5p, batch 8,192: parameters 41 MiB, optimiser 82 MiB, peak 2.59 of 95.74 GiB
             Beyond 128 chips set replica too, as in --config.runtime.mesh.replica=2: the width of
             the image tower divides over 128 devices, not over 256.
  scale      `published` with batches of 16,384 for 256 chips, clips going round in a ring, gradients
             in full; learning rate and clipping are ours and have not been tried. On 256 × v5e a
             device holds 41 MiB of parameters, 82 MiB of the optimiser, and at its peak 7.44 of
             15.75 GiB (`weavejax.plan --topology v5e:16x16 --fast`).
"""

from ml_collections import ConfigDict

# Published sets: the options of each of its own, and what it changes in the inputs.
PARAGRAPHS = {"crop": "squash", "text_length": 70, "chunks": 2}
SPOKEN = {"crop": "crop_flip", "subtitle_length": 70}
SETS = {
    "activitynet": ({"test": "val_1"}, PARAGRAPHS),
    "audiocaps": ({}, {"crop": "squash"}),
    "didemo": ({}, PARAGRAPHS),
    "gram_json": (
        {"train": "train.json", "test": "test.json", "captions": "first", "audios": "audios"},
        SPOKEN,
    ),
    "msrvtt": ({"train": "9k"}, {"crop": "crop_flip"}),
    "vast27m": ({"annotations": "annotations", "captions": "vast_cap", "holdout": 0.01}, SPOKEN),
    "vatex": ({"test": "validation", "test_ids": "", "language": "en"}, {"crop": "squash"}),
    "vggsound": ({}, {"crop": "squash"}),
}
# Published finetuning of each: training rows (of MSR-VTT 20 captions a clip), epochs, batch, frames.
FINETUNED = {
    "activitynet": (10_009, 20, 64, 8),
    "audiocaps": (49_838, 10, 64, 8),
    "didemo": (8_394, 40, 64, 8),
    "msrvtt": (180_000, 4, 32, 4),
    "vatex": (14_060, 2.5, 64, 8),
}


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant."""
    config = _world()
    architecture, _, data = variant.rpartition("-")
    if variant == "files":
        _files(config)
    elif variant == "smoke":
        _smoke(config)
    elif variant == "matching":
        _matching(config)
    elif variant == "small":
        _matching(config)
        _small(config)
    elif variant == "published":
        _published(config)
    elif variant == "scale":
        _published(config)
        _scale(config)
    elif data in SETS and architecture in ("", "published"):
        _published(config) if architecture else _files(config)
        _set(config, data)
        if architecture and data in FINETUNED:
            _finetuned(config, *FINETUNED[data])
    elif variant:
        known = f"files, matching, published, scale, small, smoke, {', '.join(SETS)}"
        raise ValueError(f"no variant {variant!r}; there are {known} and published-<one of these>")
    return config


def _world() -> ConfigDict:
    config = ConfigDict()
    config.system = "gram"
    config.seed = 0
    config.steps = 200
    config.batch = 128

    config.data = ConfigDict(
        {
            "source": "dataset",  # a folder under datasets/, or "files"
            "dataset": "datasets/foley_world",
            "options": {"train": 2048, "test": 256, "seed": 0},  # handed to the data set's builder
            "directory": "data",  # where prepared data sets are kept
            "local": "data/remote",  # where a directory or root on gs:// or s3:// is copied to
            "cache": "data/decoded",  # decode each clip once; "" decodes at every use
            "root": "",  # files: the folder of media
            "captions": "",  # files: the caption file; "" looks for captions.{csv,tsv,jsonl} there
            "holdout": 0.0,  # files: share of clips kept for evaluation; 0 evaluates on all
            "broken": 0.02,  # share of clips that may turn out unreadable before the run stops
        }
    )
    config.inputs = ConfigDict(
        {
            "frames": 2,  # frames of a clip that the model sees in training
            "test_frames": 0,  # and in evaluation; 0: as many
            "candidates": 8,  # frames of a clip that are decoded; training picks among them
            "size": 112,
            "crop": "squash",
            "resize": "bilinear",  # without antialiasing; bicubic with it, for CLIP and SigLIP
            "front_end": "kaldi",  # clap, clap_fused: at 48 kHz, 10 ms a frame as well
            "rate": 16_000,
            "mels": 64,
            "mean": 15.41663,  # of the mel values, and half of what they are then divided by:
            "std": 6.55582,  # BEATs' own; published CLAP weights take them as they are, 0 and 0.5
            "audio_frames": 400,  # 10 ms each; 398 hold sound in a clip of 4 s
            "chunks": 1,
            "chunk_candidates": 1,  # chunks of a clip that are decoded
            "text_length": 40,
            "subtitle_length": 0,
            "lacking": 0.0,  # share of the training clips that lose one of their streams
            "tokenizer": "captions",  # trained on the captions; or a file, folder or hub name
        }
    )
    _model(config)
    _loss(config)
    # Low-rank adapters (`weavejax.systems.lora`): rank, 0 = train everything; on which kernels; and
    # what is trained in full beside them.
    config.lora = ConfigDict(
        {
            "rank": 0,
            "alpha": 16.0,
            "on": r"attention/(query|value)/kernel$",
            "train": r"^(head|fusion|match|score)/|^temperature$|^bias$",
        }
    )
    # Where to start: converted weights (`weavejax.convert`), "" = random; and regexes of parameters
    # that these need not fit: such ones start at random, or are left out.
    config.init = ConfigDict({"weights": "", "partial": ("^lora/",)})
    _optimisation(config)
    _running(config)
    return config


def _model(config: ConfigDict) -> None:
    config.model = ConfigDict(
        {
            "dim": 128,
            "fusion": False,  # condition tokens and head of the matching path; needs cross_attention
            "vision": {
                "kind": "eva",  # clip, siglip: with the fields of their own configs
                "patch": 16,
                "width": 96,
                "layers": 3,
                "heads": 2,
                "mlp": 288,
                "drop_path": 0.0,
            },
            "audio": {
                "kind": "beats",  # htsat
                "patch": 16,
                "patch_width": 96,
                "width": 96,
                "layers": 2,
                "heads": 2,
                "mlp": 288,
                "pos_kernel": 16,
                "pos_groups": 8,
                "buckets": 32,
                "max_distance": 100,
                "dropout": 0.0,
                "attention_dropout": 0.0,
                "input_dropout": 0.0,
                "layerdrop": 0.0,
            },
            "text": {
                "kind": "bert",  # roberta, clip: with their own tokenizers
                "vocab": 512,
                "positions": 40,
                "types": 2,
                "width": 96,
                "layers": 2,
                "heads": 2,
                "mlp": 288,
                "dropout": 0.0,
                "cross_attention": False,
                "cond_width": 96,  # of the tokens it attends to
            },
        }
    )
    for tower in ("vision", "audio", "text"):
        config.model[tower].update(
            {
                "dtype": "float32",  # of compute; parameters are float32 in any case
                "scan": False,  # one scanned stack of blocks: compiles in a time free of depth
                "remat": "none",  # what the backward pass recomputes: none, dots or full
            }
        )


def _loss(config: ConfigDict) -> None:
    config.loss = ConfigDict(
        {
            "score": "volume",
            "warmup_score": "cosine",  # blended in at first: the bare volume does not take off
            "warmup_steps": 60,  # over which its share falls from 1 to `mix`; 0 = off
            "mix": 0.0,
            "smoothing": 0.1,
            "temperature": 0.07,
            "learn_temperature": True,
            "gradient": "full",  # "half" as in the published code
            "objective": "softmax",  # or "sigmoid" (SigLIP), "pmrl" (no anchor, no score)
            "bias": -10.0,  # of the sigmoid, at first
            "anchor": "text",  # or "each" modality in turn
            "views": "whole",  # of a clip; "subsets" of its modalities too, or a "random" one
            "missing": "phantom",  # what a clip lacks is left out; or "drop", "mean", "ppca"
            "matching": 0.0,  # weight of the matching loss; needs model.fusion
            "condition": ("video", "audio"),  # what that loss sees of a clip
            "candidates": 0,  # of the second stage, in evaluation; 50 as published
            "block": 1024,  # anchors and clips scored at a time
            "exchange": "auto",  # of clips between devices: "gather", "ring"
        }
    )


def _optimisation(config: ConfigDict) -> None:
    config.optim = ConfigDict(
        {
            "lr": 1e-3,
            "warmup": 0.1,
            "schedule": "cosine",
            "b1": 0.9,
            "b2": 0.98,
            "eps": 1e-6,
            "weight_decay": 0.01,
            "no_decay": r"bias$|scale$|temperature$",
            "clip": 1.0,
            "groups": (),
            "average": 0.0,  # decay of the moving average of the parameters; 0 = off
        }
    )
    # Refuses steps that are not finite or lie far above the last ones: `runtime.guard`.
    config.guard = ConfigDict({"window": 128, "warmup": 32, "sigmas": 6.0, "limit": 10})


def _running(config: ConfigDict) -> None:
    # How a run is carried out, not what it computes: may change between a run and its resumption.
    config.runtime = ConfigDict(
        {
            "mesh": {"replica": 1, "data": -1, "model": 1},
            "workers": 1,  # decoding processes
            "prefetch": 8,  # batches each keeps ready: decoding runs ahead while the step compiles
            "log_every": 20,
            "evaluate_every": 50,
            "evaluate_batch": 64,
            "save_every": 100,
            "keep": 2,
            "partial": (),  # regexes of parameters that a checkpoint need not fit
            "deadlines": {"step": 300.0, "phase": 3600.0, "data": 86400.0},  # s; 0 = none
            "storage": {"retry": 30.0, "alarm": 3, "timeout": 600.0},  # of failed saves, s
        }
    )


def _files(config: ConfigDict) -> None:
    config.data.source = "files"
    config.batch = 8
    config.steps = 100
    config.inputs.audio_frames = 1024
    config.inputs.chunk_candidates = 4
    config.model.audio.max_distance = 256


def _set(config: ConfigDict, name: str) -> None:
    """A set of datasets/, instead of a folder of files."""
    own, inputs = SETS[name]
    shared = {"root": "", "videos": "videos", "audios": "", "media": "clips", "side": 0}
    rules = {"splits": "", "missing": "error", "limit": 0.5, "shard": 512, "threads": 0}
    config.data.update({"source": "dataset", "dataset": f"datasets/{name}"})
    config.data.options = ConfigDict({**shared, **rules, **own})
    config.inputs.update({"subtitle_length": 0, **inputs})
    if config.model.text.vocab < 8192:  # of the small model, with a vocabulary of its own
        config.model.text.update({"vocab": 8192, "positions": 70})


def _finetuned(config: ConfigDict, rows: int, epochs: float, batch: int, frames: int) -> None:
    """The published finetuning of the published model on one set."""
    config.batch = batch
    config.steps = round(rows * epochs / batch)
    # Three candidates for each frame that is shown: the middle one is the middle of its segment.
    config.inputs.update({"frames": frames, "candidates": 24})
    config.optim.update({"lr": 2e-5, "groups": ((r"^vision/", 0.025),)})


def _smoke(config: ConfigDict) -> None:
    config.data.options.update({"train": 24, "test": 16})
    config.batch = 8
    config.steps = 12
    config.loss.warmup_steps = 4
    config.runtime.update({"log_every": 4, "evaluate_every": 6, "save_every": 6, "workers": 0})
    for tower in ("vision", "audio", "text"):
        config.model[tower].update({"width": 32, "layers": 1, "mlp": 64})
    config.model.audio.patch_width = 32


def _matching(config: ConfigDict) -> None:
    """The world with the matching loss and its second stage."""
    config.model.fusion = True
    config.model.text.cross_attention = True
    config.loss.update({"matching": 0.1, "candidates": 50})


def _small(config: ConfigDict) -> None:
    """Where the scores are compared, and where they start from."""
    config.batch = 64
    config.steps = 300
    config.inputs.size = 64
    config.model.dim = 64
    config.model.vision.update({"width": 64, "layers": 2, "mlp": 128})
    config.model.audio.update({"width": 64, "patch_width": 64, "mlp": 128})
    config.model.text.update({"width": 64, "mlp": 128, "cond_width": 64})
    config.loss.update({"score": "fused_cosine", "views": "subsets", "warmup_steps": 0})
    config.runtime.update({"evaluate_every": 300, "save_every": 300})


def _scale(config: ConfigDict) -> None:
    """A large batch for 256 chips, on VAST-27M or what you hold of it."""
    config.batch = 16_384
    config.steps = 1_648  # 27 million clips once
    config.loss.gradient = "full"
    config.optim.update({"lr": 4e-4, "clip": 1.0})
    config.runtime.mesh.update({"replica": 2, "data": 128})
    config.runtime.update({"evaluate_batch": 1024, "save_every": 50})


def _published(config: ConfigDict) -> None:
    """Sizes of the checkpoints, schedule of the 150k-clip run (published code and its logs)."""
    config.data.update({"source": "files", "cache": ""})  # decoded, 150k clips fill 330 GB
    config.batch = 256
    config.steps = 586  # 150,000 clips once
    config.inputs.update(
        {
            "test_frames": 8,
            "size": 224,
            "crop": "crop_flip",
            "audio_frames": 1024,
            "chunk_candidates": 4,
            "text_length": 40,
            "subtitle_length": 70,
            "tokenizer": "bert-base-uncased",
        }
    )
    config.model.update({"dim": 512, "fusion": True})
    config.model.vision.update(
        {
            "patch": 14,
            "width": 1408,
            "layers": 40,
            "heads": 16,
            "mlp": 6144,
            "drop_path": 0.4,
            "head": 1024,
        }
    )
    config.model.audio.update(
        {
            "patch": 16,
            "patch_width": 512,
            "width": 768,
            "layers": 12,
            "heads": 12,
            "mlp": 3072,
            "pos_kernel": 128,
            "pos_groups": 16,
            "buckets": 320,
            "max_distance": 800,
            "dropout": 0.1,
            "attention_dropout": 0.1,
            "input_dropout": 0.1,
            "layerdrop": 0.05,
        }
    )
    config.model.text.update(
        {
            "vocab": 30522,
            "positions": 512,
            "types": 2,
            "width": 768,
            "layers": 12,
            "heads": 12,
            "mlp": 3072,
            "dropout": 0.1,
            "cross_attention": True,
            "cond_width": 768,
        }
    )
    for tower in ("vision", "audio", "text"):
        config.model[tower].update({"dtype": "bfloat16", "scan": True, "remat": "full"})
    config.loss.update({"warmup_steps": 0, "gradient": "half", "matching": 0.1, "candidates": 50})
    config.optim.update(
        {
            "lr": 1e-4,
            "schedule": "linear",
            # As published: biases and BERT's norms; and the image tower's head, which nothing trains.
            "no_decay": r"bias$|^text/.*norm\w*/scale$|^vision/head/",
            "clip": 0.0,
            "groups": ((r"^vision/", 0.005),),
        }
    )
    config.runtime.update({"workers": 16, "evaluate_every": 200, "evaluate_batch": 64})
