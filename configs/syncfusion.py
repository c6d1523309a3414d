"""SyncFusion: sound whose hits fall on given onsets, of a given meaning.

Command:   python -m weavejax.train --config configs/syncfusion.py
Hardware:  2 CPU cores, 6 GB
Time:      24 min 26 s on one core of an AMD EPYC, another training on the other
Result:    seed 0: F1 98.7 % within 50 ms of the onsets asked for, 19.7 % without onsets, of 128
           held-out windows; seeds 1 and 2: 94.8 and 94.2 % (a stage of `launch/when.sh`); figures on a
           rendered world stand for no published benchmark

Variants:
  (default)  the rendered world in windows of 2 s, mono at 8 kHz, a small UNet; texts by an encoder
             that learns with it.
  files      your own clips with captions: --config configs/syncfusion.py:files --config.data.root=DIR.
             16 kHz and a larger UNet. Onsets are those of each clip's sound, or of controls files.
  published  the published sizes, on your own clips (Greatest Hits, say) with onsets in controls files
             (or --config.inputs.labels=sound): 48 kHz, 2^18 samples, 215 M parameters, the meaning from
             CLAP as transformers has it (laion/clap-htsat-unfused), frozen:
               python -m weavejax.convert --from CLAP_DIR --out weights/clap
               ... --config.init.parts.text=weights/clap --config.init.parts.audio=weights/clap
             and to go on from the published checkpoint, converted, besides
               ... --config.init.weights=weights/syncfusion
             Sizes, optimiser, batch (4 × 2 accumulated), clipping and scale of guidance are published.
             Ours: the number of steps (about the 784 epochs of the released checkpoint), the shift of
             windows, each by itself, the meaning left out in a tenth of the training, bf16 in CLAP, and
             windows without onsets, which are learnt from too.
  smoke      the default at its smallest, for tests.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant."""
    config = _world()
    if variant == "files":
        _files(config)
    elif variant == "published":
        _published(config)
    elif variant == "smoke":
        _smoke(config)
    elif variant:
        raise ValueError(f"no variant {variant!r}; there are files, published and smoke")
    return config


def _world() -> ConfigDict:
    config = ConfigDict()
    config.system = "syncfusion"
    config.seed = 0
    config.steps = 1000
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
            "kind": "moments",
            "seconds": 2.0,  # of a window
            "windows": 2,  # of a clip, one after the other; beyond its end there is nothing to hear
            "side": 0,  # pictures are not needed
            "rate": 8_000,  # Hz
            "stereo": False,
            "onsets": 64,  # the most that a window can hold
            "labels": "controls",  # where onsets come from: the clip's controls, or its "sound"
            "delta": 0.07,  # sound: how clearly an onset stands out (librosa's default)
            "shift": 0.0,  # seconds by which a training window begins later, at most
            "audio_frames": 0,  # of a hit, 10 ms each, for CLAP; 0 leaves it out
            "mels": 64,  # its bands
            "text_length": 40,
            "tokenizer": "captions",  # trained on the captions; or a file, folder or hub name
        }
    )
    config.model = _model()
    config.loss = ConfigDict(
        {
            "times": "uniform",  # of the noise level; logit_normal, stratified
            "drop": {"when": 0.1, "what": 0.1},  # how often training goes without a dial
        }
    )
    config.sample = ConfigDict(
        {
            "sampler": "v-ddim",
            "steps": 16,
            "scales": (3.0, 2.0),  # of guidance, for when and what
            "overlap": 0.5,  # of the windows of clips longer than `inputs.seconds`, seconds
            "together": 32,  # windows that the network looks at at once: bounds the memory
            "prompt": "text",  # clap: what evaluation means by; "audio": a hit of the clip itself
        }
    )
    # Where to start: converted weights (`weavejax.convert`) of all, or of a part; "" = random. And
    # regexes of parameters that these need not fit.
    config.init = ConfigDict({"weights": "", "parts": {"text": "", "audio": ""}, "partial": ()})
    config.optim = ConfigDict(
        {
            "lr": 1e-3,
            "warmup": 0.1,
            "schedule": "cosine",
            "b1": 0.95,
            "b2": 0.999,
            "eps": 1e-6,
            "weight_decay": 1e-3,
            "no_decay": "",
            "clip": 0.5,
            "groups": (),
            "average": 0.99,  # decay of the moving average of the parameters; 0 = off
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
            "evaluate_every": 1000,
            "evaluate_batch": 32,
            "save_every": 250,
            "keep": 2,
            "partial": (),  # regexes of parameters that a checkpoint need not fit
            "deadlines": {"step": 300.0, "phase": 3600.0, "data": 86400.0},  # s; 0 = none
            "storage": {"retry": 30.0, "alarm": 3, "timeout": 600.0},  # of failed saves, s
        }
    )
    return config


def _model() -> ConfigDict:
    return ConfigDict(
        {
            "gain": 10.0,  # of the sound that is learnt, against noise of variance 1
            "meaning": "text",  # from texts, by an encoder that learns; or by frozen "clap"
            "unet": {
                "channels": (8, 32, 64, 128),
                "factors": (2, 4, 4, 4),
                "items": (1, 1, 1, 2),
                "attentions": (False, False, False, True),
                "context": (2, 8, 16, 32),
                "heads": 4,
                "head_width": 32,
                "groups": 8,
                "modulation": 256,
                "embedding": 96,  # width of the meaning
                "dtype": "float32",  # of compute; parameters are float32 in any case
                "remat": False,  # whether the backward pass computes the blocks again
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
            },
        }
    )


def _files(config: ConfigDict) -> None:
    config.data.source = "files"
    config.steps = 10_000
    config.inputs.update({"labels": "sound", "windows": 5, "rate": 16_000})  # the first ten seconds
    config.model.text.vocab = 8192
    config.model.unet.update(
        {
            "channels": (8, 32, 64, 96, 128, 192),
            "factors": (1, 4, 4, 4, 2, 2),
            "items": (1, 1, 1, 2, 2, 2),
            "attentions": (False, False, False, False, True, True),
            "context": (2, 8, 16, 32, 64, 64),
        }
    )
    config.sample.steps = 50


def _published(config: ConfigDict) -> None:
    config.data.source = "files"
    config.steps, config.batch = 400_000, 8
    config.inputs.update(
        {
            "seconds": 2**18 / 48_000,
            "windows": 6,  # of clips of about 35 s
            "rate": 48_000,
            "shift": 2.0,
            "audio_frames": 1001,
            "text_length": 77,
            "tokenizer": "laion/clap-htsat-unfused",
        }
    )
    config.model.update({"gain": 1.0, "meaning": "clap"})
    config.model.unet.update(
        {
            "channels": (8, 32, 64, 128, 256, 512, 1024, 1024),
            "factors": (1, 4, 4, 4, 2, 2, 2, 2),
            "items": (1, 2, 2, 2, 2, 2, 2, 4),
            "attentions": (False, False, False, False, True, True, True, True),
            "context": (2, 8, 16, 32, 64, 128, 256, 256),
            "heads": 8,
            "head_width": 64,
            "modulation": 1024,
            "embedding": 512,
            "remat": True,
        }
    )
    config.model.text = ConfigDict(
        {
            "kind": "roberta",
            "vocab": 50_265,
            "positions": 514,
            "types": 1,
            "width": 768,
            "layers": 12,
            "heads": 12,
            "mlp": 3072,
            "projection": 512,
            "dtype": "bfloat16",
        }
    )
    config.model.audio = ConfigDict(
        {
            "kind": "htsat",
            "side": 256,
            "patch": 4,
            "window": 8,
            "width": 96,
            "depths": (2, 2, 6, 2),
            "heads": (4, 8, 16, 32),
            "projection": 512,
            "dtype": "bfloat16",
        }
    )
    config.loss.drop.when = 0.0
    config.sample.update({"steps": 150, "scales": (1.0, 2.0)})
    config.optim.update({"lr": 1e-4, "warmup": 0, "schedule": "constant", "average": 0.0})
    config.runtime.update({"workers": 8, "evaluate_every": 5000, "save_every": 5000})
    config.runtime.evaluate_batch = 16


def _smoke(config: ConfigDict) -> None:
    config.data.options.update({"train": 24, "test": 16})
    config.batch = 8
    config.steps = 6
    config.inputs.update({"seconds": 0.5, "rate": 8_000})
    config.model.unet.update(
        {
            "channels": (8, 16, 16),
            "factors": (1, 4, 4),
            "items": (1, 1, 1),
            "attentions": (False, False, True),
            "context": (2, 8, 16),
            "heads": 2,
            "head_width": 8,
            "modulation": 32,
            "embedding": 16,
        }
    )
    config.model.text.update({"width": 32, "layers": 1, "mlp": 64})
    config.sample.steps = 2
    config.runtime.update({"log_every": 2, "evaluate_every": 6, "save_every": 3, "workers": 0})
