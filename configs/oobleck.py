"""Oobleck: sound to latents and back, the autoencoder in whose latents sound is made.

Command:   python -m weavejax.train --config configs/oobleck.py
Hardware:  2 CPU cores, 4 GB
Time:      13 min 14 s on one core of an AMD EPYC, another training on the other
Result:    seeds 0, 1 and 2: E-L1 0.0017, 0.0018 and 0.0016 of sound through the latents, 0.0093 for
           silence, of 256 held-out windows; phases are not kept (a stage of `launch/when.sh`); figures
           on a rendered world stand for no published benchmark

Variants:
  (default)  the rendered world in windows of 1.024 s at 16 kHz: 16,384 samples, 32 latents of 16
             channels (512 samples each, 31.25 a second). At 44.1 kHz the same second costs 2.8 times as
             much, and 97 % of the energy of that world's sound lies below 8 kHz.
  files      your own clips: --config configs/oobleck.py:files --config.data.root=DIR.
  smoke      the default at its smallest, for tests.
  published  the published network (156.1 M parameters: 2,048 samples a latent, 64 channels) and its
             spectral losses on windows of 65,536 samples at 44.1 kHz, without its discriminator
             (`weavejax.losses.spectral`); for folders of clips. To start from the published weights:
             `weavejax.convert` of the autoencoder's file, then --config.init.weights=DIR.
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
    config.system = "oobleck"
    config.seed = 0
    config.steps = 800
    config.batch = 8
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
            "kind": "moments",  # here: sound only
            "seconds": 1.024,  # of a window
            "windows": 4,  # of a clip, one after the other; beyond its end there is nothing to hear
            "side": 0,  # no pictures
            "rate": 16_000,  # Hz
            "stereo": True,
            "onsets": 0,
            "text_length": 0,
        }
    )
    config.model = ConfigDict(
        {
            "channels": 8,  # width at the full rate
            "multiples": (2, 4, 8, 16),  # of it, after each stride
            "strides": (4, 4, 4, 8),  # 512 samples a latent
            "latent": 16,  # channels
            "dtype": "float32",  # of compute; parameters are float32 in any case
            "remat": False,  # whether the backward pass computes the blocks again
            "gain": 10.0,  # of the sound that the networks see: the world's has an RMS of 0.02
        }
    )
    config.loss = ConfigDict(
        {
            "sizes": (1024, 256, 64),  # of the transforms
            "epsilon": 1e-5,  # of a squared magnitude: what is below it is silence
            "spectral": 1.0,  # weights
            "waveform": 0.0,  # of noise it asks for silence, as no phase can be foretold
            "level": 300.0,  # about 3 for silence in place of the world's sound
            "divergence": 1e-4,
            "levels": (
                0.0,
                -6.0,
                6.0,
            ),  # dB that a clip is heard at in training, one drawn each time
        }
    )
    # Where to start: converted weights (`weavejax.convert`), "" = random; and regexes of parameters
    # that these need not fit.
    config.init = ConfigDict({"weights": "", "partial": ()})
    config.optim = ConfigDict(
        {
            "lr": 2e-3,
            "warmup": 0.05,
            "schedule": "cosine",
            "b1": 0.8,
            "b2": 0.99,
            "eps": 1e-8,
            "weight_decay": 1e-3,
            "no_decay": "(gain|bias|alpha|beta)$",
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
            "evaluate_every": 400,
            "evaluate_batch": 16,  # the sound of all evaluation clips is kept: 256 kB a window here
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
    config.inputs.windows = 10  # the first ten seconds


def _smoke(config: ConfigDict) -> None:
    config.data.options.update({"train": 24, "test": 16})
    config.batch = 8
    config.steps = 6
    config.inputs.update({"seconds": 0.256, "windows": 2})
    config.model.update({"channels": 4, "multiples": (1, 2), "strides": (4, 8), "latent": 4})
    config.loss.sizes = (256, 64)
    config.runtime.update({"log_every": 2, "evaluate_every": 3, "save_every": 3, "workers": 0})


def _published(config: ConfigDict) -> None:
    config.steps = 1_000_000
    config.batch = 32
    config.inputs.update({"seconds": 65_536 / 44_100, "windows": 6, "rate": 44_100})
    sizes = {"channels": 128, "multiples": (1, 2, 4, 8, 16), "strides": (2, 4, 4, 8, 8)}
    config.model.update({**sizes, "latent": 64, "remat": True, "gain": 1.0})
    sizes = (2048, 1024, 512, 256, 128, 64, 32)
    config.loss.update({"sizes": sizes, "epsilon": 1e-8, "levels": (0.0,)})
    # Published: a rate that falls as 1/√(1 + step / 200,000) and no term for the level; that stays for
    # want of the discriminator.
    config.optim.update({"lr": 1.5e-4, "warmup": 1000, "schedule": "cosine", "average": 0.9999})
    config.runtime.update({"workers": 8, "evaluate_every": 10_000, "save_every": 5_000})
