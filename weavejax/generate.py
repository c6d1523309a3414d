"""Make sound for a clip, or for a folder of clips, with a trained model.

  python -m weavejax.generate --video clip.mp4 --controls_only --out take.mp4     1. see the controls
  edit take.controls.json                                                         2. turn them
  python -m weavejax.generate --workdir runs/syncfusion --video clip.mp4 \\
      --controls take.controls.json --prompt "a stick hits metal" --out take.mp4  3. make the sound
  python -m weavejax.generate --workdir runs/syncfusion --video clip.mp4 --sound take.wav \\
      --controls take.controls.json --span 1.2 2.0 --seed 1 --out other.mp4       4. change a part
  compare take.png and other.png                                                  5. see what came of it

Of any media file, with a picture or without, of any frame rate and length. Controls are those of
--controls; else predicted from the picture by a run of the onset or envelope system, --when RUN; else
taken from the clip's own sound. --envelope edits them, in the order written: gain and gate in dB, shift
and smooth in seconds. Written are, beside --out, NAME.wav (the exact samples, as 32-bit floats),
NAME.controls.json (the controls as used) and NAME.png. The same seed and clip give the same sound.
For a folder --video, --out and --controls are folders.
"""

import re
from collections.abc import Mapping, Sequence

from tqdm import tqdm

from weavejax.dials.edits import number_of, parse_edits
from weavejax.errors import UserError
from weavejax.runs import assemble, generation, restore
from weavejax.runs.control_sources import Predictor, check_followed, controls_of
from weavejax.runs.generation import Options, Order
from weavejax.runs.outputs import write_clip, write_controls
from weavejax.runs.requests import CONTROLS, check_hears, find_asks
from weavejax.runtime import cli
from weavejax.storage import storage
from weavejax.systems.base import Generator

FLAGS = {
    **restore.FLAGS,
    "video": "media file, or folder of media files, to make sound for",
    "out": "the film to write: NAME.mp4, .mov, .mkv; NAME.wav for sound alone; of a folder, a folder",
    "controls": "controls file to follow; of a folder, a folder of NAME.controls.json",
    "when": "workdir of a run of the onset or envelope system that predicts the controls",
    "envelope": 'edits of the controls, as in "gain=6,shift=-0.1,smooth=0.2,gate=-50"',
    "prompt": "what it is to sound like; default the caption of the controls or of the folder",
    "prompt_audio": "sound file that it is to sound like, where the system can hear",
    "span": "A B: make only seconds A to B anew, and keep the rest to the sample",
    "sound": "file whose sound is kept outside the span, or listened to; default that of --video",
    "scales": 'of guidance, as in "when=2,what=3"; default the config\'s',
    "steps": "of sampling; default the config's",
    "seed": "of the noise; default 0",
    "controls_only": "stop when the controls are written; needs no model",
    "part": "K/N: of a folder only every Nth clip from the Kth on, for N processes side by side",
}


def main(argv: Sequence[str]) -> None:
    """Finds the clips and their controls, opens the model, makes the sounds, writes."""
    arguments, values, only = _parse(argv)
    edits, span = parse_edits(values["envelope"]), _span(values["span"])
    seed, steps = _whole(values, "seed", 0) or 0, _whole(values, "steps", 1)
    names = ("video", "out", "controls", "sound", "part")
    asks = find_asks(**{name: values[name] for name in names})
    for ask in asks:
        generation.check_span(ask, span)
    predictor = Predictor(restore.restore(storage(values["when"]))) if values["when"] else None
    orders = [(ask, controls_of(ask, predictor, edits, values["prompt"])) for ask in asks]
    _check_kept(orders, bool(edits))
    if only:
        for ask, controls in orders:
            print(write_controls(ask, controls))
        return

    trained = restore.open_model(arguments)
    maker = generation.find_generator(trained)
    scales = _scales(values["scales"], maker)
    options = Options(seed, steps or maker.steps, scales, span, values["prompt_audio"])
    check_hears(trained, options.prompt_audio)
    for ask, controls in orders:
        check_followed(ask, controls, maker.when)
    tokenizer = None
    if "text" in trained.system.batch_spec:
        workdir = storage(values["workdir"]) if values["workdir"] else None
        tokenizer = assemble.find_tokenizer(trained.config, workdir)
    elif values["prompt"]:
        raise UserError(f"--prompt: the system {trained.system.name} reads no text")
    for order, wave in generation.sounds(trained, orders, options, tokenizer):
        tqdm.write(write_clip(*order, wave, maker, span))  # above the bar


def _parse(argv: Sequence[str]) -> tuple[cli.Arguments, Mapping[str, str], bool]:
    """The command line, and whether only the controls are wanted."""
    joined = _joined(argv)
    only = any(re.fullmatch(r"--?controls_only=(true|1)", each) for each in joined)
    if only and not {"--help", "-h", "--helpfull"} & set(argv):
        arguments = cli.parse(joined, __doc__ or "", FLAGS, takes_config=False)
    else:
        arguments = restore.parse(joined, __doc__ or "", FLAGS)
    values = arguments.values
    if values["controls_only"].lower() not in ("", "true", "false", "1", "0"):
        raise UserError(f"--controls_only {values['controls_only']!r} is neither true nor false")
    for name, example in (("video", "clip.mp4"), ("out", "take.mp4")):
        if not values[name]:
            raise UserError(f"--{name} is missing, as in --{name} {example}; see --help")
    if values["when"] and values["controls"]:
        raise UserError("--when predicts what --controls already says: give one of them")
    return arguments, values, only


def _joined(argv: Sequence[str]) -> list[str]:
    """`--span A B` as one argument, and `--controls_only` with its value, as flags have it here."""
    rest, joined = list(argv), []
    while rest:
        name = rest.pop(0)
        if name.lstrip("-") == "span" and len(rest) > 1 and re.fullmatch(r"[-.\d]+", rest[1]):
            name = f"--span={rest.pop(0)},{rest.pop(0)}"
        elif name.lstrip("-") == "controls_only":
            given = rest.pop(0) if rest and not rest[0].startswith("-") else "true"
            name = f"--controls_only={given.lower()}"
        joined.append(name)
    return joined


def _span(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    parts = [each for each in re.split(r"[,\s]+", text) if each]
    if len(parts) != 2:
        raise UserError(f"--span {text!r} is not two numbers, as in --span 1.2 2.0")
    first, second = (number_of(f"--span {text}", each) for each in parts)
    return first, second


def _whole(values: Mapping[str, str], name: str, least: int) -> int | None:
    """A flag's whole number; None where it is not given."""
    if values[name] and not (values[name].isdigit() and int(values[name]) >= least):
        raise UserError(f"--{name} {values[name]!r} is not a whole number from {least} on")
    return int(values[name]) if values[name] else None


def _scales(text: str, maker: Generator) -> tuple[float, ...]:
    """Those of the config, but for those that are given."""
    scales = dict(zip(maker.dials, maker.scales, strict=True))
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name.strip() not in scales:
            raise UserError(
                f"--scales: no dial {name.strip()!r}; there are {', '.join(maker.dials)}"
            )
        scales[name.strip()] = number_of(part, value)
    return tuple(scales.values())


def _check_kept(orders: Sequence[Order], edited: bool) -> None:
    """That edits do not go into the very file that they start from, to be made twice next time."""
    for ask, _ in orders:
        if edited and ask.controls and ask.controls.resolve() == ask.beside(CONTROLS).resolve():
            raise UserError(
                f"--envelope would be written into {ask.controls} itself, and be made again next time: "
                "give another --out"
            )


if __name__ == "__main__":
    cli.launch(main)
