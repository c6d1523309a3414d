"""Video-Foley's and Fol·AI's envelope network: a silent video to the level of its sound over time.

Command:   python -m weavejax.train --config configs/envelope.py
Hardware:  2 CPU cores, 6 GB
Time:      14 min 22 s on one core of an Intel Xeon, another training on the other
Result:    seeds 0, 1 and 2: E-L1 0.0050 of 64 held-out clips, 40 % of that of the mean envelope (a
           stage of `launch/when.sh`); figures on a rendered world stand for no published benchmark

Variants:
  (default)  the rendered world, whole clips of 4 s at 15 frames a second and 56 pixels; a small
             transformer of GRAM's kind looks at the frames, and what changes between them is given.
  files      your own clips: --config configs/envelope.py:files --config.data.root=DIR. The envelope is
             that of each clip's sound; --config.model.net.onset=True adds the head for onsets.
  smoke      the default at its smallest, for tests.
  published  the published sizes from the features on, and the published recipe: windows of 10 s at 30
             frames a second, batch 512, Adam at 1e-3 (falling as a cosine, there by half every 100 of
             600 epochs), smoothed targets, a ReLU on the logits. The features are those of GRAM's
             frame encoder, EVA-CLIP-g, kept as it is, in the place of BN-Inception on pictures and
             flow; its weights come from GRAM's (`weavejax.convert`):
             --config.init.weights=DIR --config.init.partial="('^(?!vision/)',)"
             For Greatest Hits as a folder of clips (2,212 chunks for training and 732 for testing
             there), which is not on the machine of these figures. It needs accelerators.

A tower that stays as it is (model.frozen, as published) can look at every frame once, not in every
epoch; training sees the middle of the frames then. With the same config and init both times:

  python -m weavejax.extract --config configs/envelope.py:published … --out features/envelope
  python -m weavejax.train --config configs/envelope.py:published … --config.inputs.kind=latents
         --config.inputs.root=features/envelope
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant."""
    config = _world()
    if variant == "files":
        _files(config)
    elif variant == "smoke":
        _smoke(config)
    elif variant == "published":
        _files(config)
        _published(config)
    elif variant:
        raise ValueError(f"no variant {variant!r}; there are files, smoke and published")
    return config


def _world() -> ConfigDict:
    config = ConfigDict()
    config.system = "envelope"
    config.seed = 0
    config.steps = 2000
    config.batch = 16
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
            "kind": "moments",  # frames at a steady rate, sound, and when onsets are; or "latents"
            "root": "",  # latents: the directory of weavejax.extract
            "seconds": 4.0,  # of a window
            "windows": 1,  # of a clip, one after the other; beyond its end there is nothing to see
            "fps": 15.0,
            "side": 64,  # pixels, of the frames that are kept
            "size": 56,  # of which this square is shown: at random in training, else the middle
            "rate": 16_000,  # Hz of the sound; the envelope has a value every 128 samples
            "stereo": False,
            "onsets": 0,  # the most that a window can hold, for the onset head; 0 leaves them out
            "labels": "controls",  # where onsets come from: the clip's controls, or its "sound"
            "delta": 0.07,  # sound: how clearly an onset stands out (librosa's default)
            "text_length": 0,
        }
    )
    config.model = ConfigDict(
        {
            "features": ("vision", "motion"),  # of a frame: what it shows, and what changed in it
            "vision": {  # kinds clip, siglip: with the fields of their own configs
                "kind": "eva",
                "patch": 14,
                "width": 64,
                "layers": 1,
                "heads": 2,
                "mlp": 192,
            },
            "cell": 7,  # of motion: side of the parts of which the change is taken, pixels
            "frozen": False,  # vision stays as it is, in bfloat16
            # What the tower says of a frame: the published summary, its "class" token; the "mean" of
            # its tokens; or those of all "patches", which outweigh motion here and learn slower.
            "pool": "class",
            "together": 0,  # frames of a clip that are encoded at once, to save memory; 0: all
            "mu": 63,  # of the levels, which the first class ends at `floor`
            "floor": 0.01,
            "decode": "median",  # of a step's classes, the level that E-L1 wants; argmax: published
            "net": {
                "classes": 64,
                "width": 128,
                "convolutions": 3,
                "kernel": 5,
                "hidden": 64,
                "layers": 2,
                "dropout": 0.1,
                "onset": False,  # a second head: whether a sound begins in a frame
                "rectify": False,  # a ReLU on the logits, as published
                "aligned": True,  # frames and steps, from the start; published: False
                "dtype": "float32",  # of compute; parameters are float32 in any case
            },
        }
    )
    config.loss = ConfigDict(
        {
            "smoothing": "none",  # of the target; zero_phase: the published low-pass
            "reach": 2,  # classes to each side that get a weight
            "sigma": 1.0,  # of these weights
            "onset": 0.001,  # weight of the onset head's loss
        }
    )
    # Where to start: converted weights (`weavejax.convert`), "" = random; and regexes of parameters
    # that these need not fit.
    config.init = ConfigDict({"weights": "", "partial": ()})
    config.optim = ConfigDict(
        {
            "lr": 3e-3,
            "warmup": 0.05,
            "schedule": "cosine",
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "weight_decay": 1e-3,
            "no_decay": "bias$|scale$",
            "clip": 1.0,
            "groups": (),
            "average": 0.0,  # decay of the moving average of the parameters; 0 = off
        }
    )
    # Refuses steps that are not finite or lie far above the last ones: `runtime.guard`.
    config.guard = ConfigDict({"window": 128, "warmup": 32, "sigmas": 6.0, "limit": 10})
    # How a run is carried out, not what it computes: may change between a run and its resumption.
    config.runtime = ConfigDict(
        {
            "mesh": {"replica": 1, "data": -1, "model": 1},
            "workers": 1,  # decoding processes
            "prefetch": 8,  # batches each keeps ready
            "log_every": 20,
            "evaluate_every": 500,
            "evaluate_batch": 32,
            "save_every": 500,
            "keep": 2,
            "partial": (),  # regexes of parameters that a checkpoint need not fit
            "deadlines": {"step": 300.0, "phase": 3600.0, "data": 86400.0},  # s; 0 = none
            "storage": {"retry": 30.0, "alarm": 3, "timeout": 600.0},  # of failed saves, s
        }
    )
    return config


def _files(config: ConfigDict) -> None:
    config.data.source = "files"
    config.inputs.update({"labels": "sound", "seconds": 10.0, "onsets": 64})


def _smoke(config: ConfigDict) -> None:
    config.data.options.update({"train": 24, "test": 16})
    config.batch = 8
    config.steps = 6
    config.inputs.update({"side": 32, "size": 28})
    config.model.vision.update({"width": 16, "mlp": 32})
    config.model.net.update({"width": 16, "convolutions": 1, "hidden": 8, "layers": 1})
    config.runtime.update({"log_every": 2, "evaluate_every": 3, "save_every": 3, "workers": 0})


def _published(config: ConfigDict) -> None:
    config.steps = 2500  # 2,212 chunks give four batches an epoch; 600 epochs
    config.batch = 512
    config.inputs.update({"fps": 30.0, "side": 224, "size": 224})
    config.model.vision.update(
        {
            "patch": 14,
            "width": 1408,
            "layers": 40,
            "heads": 16,
            "mlp": 6144,
            "head": 1024,
            "dtype": "bfloat16",
            "scan": True,
        }
    )
    config.model.features = ("vision",)
    config.model.update({"frozen": True, "together": 30, "decode": "argmax"})
    config.model.net.update(
        {"width": 2048, "hidden": 512, "dropout": 0.5, "rectify": True, "aligned": False}
    )
    config.loss.smoothing = "zero_phase"
    config.optim.update({"lr": 1e-3, "warmup": 0, "b1": 0.5, "weight_decay": 0.0, "clip": 0.0})
    config.runtime.update({"workers": 8, "evaluate_every": 500, "save_every": 250})
