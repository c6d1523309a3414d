"""SyncFusion's onset network: a silent video to the moments at which something sounds.

Command:   python -m weavejax.train --config configs/onset.py
Hardware:  2 CPU cores, 6 GB
Time:      10 min 35 s on one core of an AMD EPYC, another training on the other
Result:    seed 0: AP 95.3 % (92.7–97.4) within 50 ms, 98.4 % within 100 ms, of 128 held-out windows
           (a stage of `launch/when.sh 0`); seeds 1 and 2: 95.2 and 95.4; figures on a rendered world
           stand for no published benchmark

Variants:
  (default)  the rendered world in windows of 2 s at 15 frames a second, a small R(2+1)D on 40 pixels.
  files      your own clips: --config configs/onset.py:files --config.data.root=DIR. Onsets are those of
             each clip's sound, or of controls files with --config.inputs.labels=controls.
  smoke      the default at its smallest, for tests.
  published  the published network (31.4 M parameters) and recipe on 112 pixels, 128 before the crop,
             batch 16, AdamW at 1e-4; for Greatest Hits as a folder of clips (683 for training and 196
             held out there; --config.data.holdout=0.2), which is not on the machine of these figures.
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
    config.system = "onset"
    config.seed = 0
    config.steps = 600
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
            "kind": "moments",  # frames at a steady rate, and when onsets are
            "seconds": 2.0,  # of a window
            "windows": 2,  # of a clip, one after the other; beyond its end there is nothing to see
            "fps": 15.0,
            "side": 44,  # pixels, of the frames that are kept
            "size": 40,  # of which this square is shown: at random in training, else the middle
            "rate": 0,  # Hz of the sound; 0: it is not needed
            "stereo": False,
            "onsets": 64,  # the most that a window can hold
            "labels": "controls",  # where onsets come from: the clip's controls, or its "sound"
            "delta": 0.07,  # sound: how clearly an onset stands out (librosa's default)
            "text_length": 0,
        }
    )
    config.model = ConfigDict(
        {
            "widths": (8, 16, 32, 64),
            "blocks": (1, 1, 1, 1),
            "hidden": 64,
            "stem": 16,  # planes between the first two convolutions
            "dtype": "float32",  # of compute; parameters are float32 in any case
            "remat": False,  # whether the backward pass computes the blocks again
            "centred": True,  # the network sees frames less their mean over the window
        }
    )
    config.loss = ConfigDict(
        {
            # Of brightness, contrast, saturation and hue, one draw a window; () for none.
            "jitter": (0.4, 0.2, 0.4, 0.0),
        }
    )
    # Where to start: converted weights (`weavejax.convert`), "" = random; and regexes of parameters
    # that these need not fit.
    config.init = ConfigDict({"weights": "", "partial": ()})
    config.optim = ConfigDict(
        {
            "lr": 4e-3,
            "warmup": 0.1,
            "schedule": "cosine",
            "b1": 0.95,
            "b2": 0.999,
            "eps": 1e-6,
            "weight_decay": 1e-3,
            "no_decay": "",
            "clip": 0.0,
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
            "evaluate_every": 200,
            "evaluate_batch": 32,
            "save_every": 200,
            "keep": 2,
            "partial": (),  # regexes of parameters that a checkpoint need not fit
            "deadlines": {"step": 300.0, "phase": 3600.0, "data": 86400.0},  # s; 0 = none
            "storage": {"retry": 30.0, "alarm": 3, "timeout": 600.0},  # of failed saves, s
        }
    )
    return config


def _files(config: ConfigDict) -> None:
    config.data.source = "files"
    config.inputs.update({"labels": "sound", "windows": 5, "side": 64, "size": 56})
    config.model.blocks = (2, 2, 2, 2)
    config.loss.jitter = (0.4, 0.2, 0.4, 0.1)


def _smoke(config: ConfigDict) -> None:
    config.data.options.update({"train": 24, "test": 16})
    config.batch = 8
    config.steps = 6
    config.inputs.update({"side": 40, "size": 32})
    config.model.update({"widths": (4, 8), "blocks": (1, 1), "hidden": 8, "stem": 4})
    config.runtime.update({"log_every": 2, "evaluate_every": 3, "save_every": 3, "workers": 0})


def _published(config: ConfigDict) -> None:
    config.steps = 10_000  # 100 epochs of Greatest Hits' chunks come to about twice that
    config.inputs.update({"side": 128, "size": 112})
    config.model.update(
        {"widths": (64, 128, 256, 512), "hidden": 128, "stem": 45, "centred": False}
    )
    config.optim.update({"lr": 1e-4, "warmup": 0, "schedule": "constant"})
    config.runtime.update({"workers": 8, "evaluate_every": 1000, "save_every": 1000})
