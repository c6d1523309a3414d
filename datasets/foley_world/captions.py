"""Which attributes a clip has, and the sentences that say so.

The combination of attributes of a test clip never occurs in training: a fixed hash of the
combination alone, no seed and no size, decides which side it is on. Within a split combinations
are drawn without replacement, so captions are distinct: every sentence names every attribute, and
no two values of an attribute share a word of their own.
"""

from functools import lru_cache

import numpy as np

from weavejax.errors import UserError

from . import hits, walk

KINDS = {"hits": hits, "walk": walk}
HELD_OUT = 8  # one combination in so many is for testing
CAPTIONS = 3

Words = dict[str, tuple[str, ...]]

# Ways to say each value; a value that is not listed says itself.
_SAY: dict[str, dict[str, Words]] = {
    "hits": {
        "material": {"wood": ("wooden",), "cloth": ("cloth", "soft cloth")},
        "floor": {
            "planks": ("floor boards", "planks"),
            "tiles": ("a tiled floor", "floor tiles"),
            "sand": ("sand", "a sandy floor"),
            "carpet": ("a carpet", "a rug"),
        },
        "side": {
            "left": ("on the left",),
            "middle": ("in the middle", "in the centre"),
            "right": ("on the right",),
        },
        "pattern": {
            "hit": ("strikes", "hits"),
            "scrape": ("scrapes", "scratches"),
            "both": ("strikes and then scrapes", "hits and then scrapes"),
        },
        "tempo": {
            "slow": ("twice, slowly", "slowly, two times"),
            "steady": ("four times, steadily", "steadily, four times"),
            "fast": ("eight times, quickly", "quickly, eight times"),
        },
    },
    "walk": {
        "first": {
            "planks": ("wooden planks",),
            "tiles": ("stone tiles",),
            "water": ("shallow water",),
        },
        "second": {
            "planks": ("wooden planks",),
            "tiles": ("stone tiles",),
            "water": ("shallow water",),
        },
        "pace": {
            "stroll": ("strolls", "wanders slowly"),
            "walk": ("walks", "walks steadily"),
            "run": ("runs", "runs fast"),
        },
        "sky": {
            "noon": ("at noon", "at midday"),
            "sunset": ("at sunset",),
            "night": ("at night", "in the dark"),
            "fog": ("in fog", "in thick fog"),
        },
        "roadside": {
            "trees": ("past trees", "beside trees"),
            "posts": ("past posts", "beside posts"),
            "houses": ("past houses", "beside houses"),
            "nothing": ("through open land",),
        },
        "heading": {"away": ("away from us", "ahead")},
        "side": {
            "left": ("on the left",),
            "middle": ("in the middle", "in the centre"),
            "right": ("on the right",),
        },
    },
}

_SENTENCES: dict[str, tuple[str, ...]] = {
    "hits": (
        "A stick {pattern} a {colour} {material} {shape} {tempo}, {side}, on {floor} before a "
        "{wall} wall.",
        "{side}, on {floor}, a stick {pattern} a {colour} {shape} made of {stuff}, {tempo}, "
        "against a {wall} wall.",
        "Before a {wall} wall a hand {pattern} a {material} {shape}, {colour}, with a stick, "
        "{tempo}, {side} on {floor}.",
    ),
    "walk": (
        "A figure in a {colour} coat {pace} {heading} over {first} and then {second} {sky}, "
        "{roadside}, {side}.",
        "{sky}, {side}, someone dressed in {colour} {pace} {heading}, from {first} onto {second}, "
        "{roadside}.",
        "{roadside} {sky}, a person with a {colour} coat {pace} {heading}, first on {first}, then "
        "{second}, {side}.",
    ),
}


@lru_cache(maxsize=8)
def _combinations(kind: str, test: bool, seed: int) -> np.ndarray:
    """Numbers of all combinations of one side of the split, in the order of their use."""
    module = KINDS[kind]
    sizes = [len(values) for values in module.ATTRIBUTES.values()]
    numbers = np.arange(np.prod(sizes), dtype=np.uint64)
    if kind == "walk":
        columns = dict(zip(module.ATTRIBUTES, np.unravel_index(numbers, sizes), strict=True))
        numbers = numbers[columns["first"] != columns["second"]]
    # splitmix64, keyed by the kind: where a combination belongs never changes.
    mixed = numbers + np.uint64((list(KINDS).index(kind) + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    held_out = (mixed ^ (mixed >> np.uint64(31))) % np.uint64(HELD_OUT) == 0
    mine = numbers[held_out == test]
    return np.random.default_rng([seed, list(KINDS).index(kind), int(test)]).permutation(mine)


def capacity(kind: str, test: bool) -> int:
    """How many clips of `kind` a split can hold before a combination repeats."""
    return len(_combinations(kind, test, 0))


def attributes(kind: str, test: bool, seed: int, number: int) -> dict[str, str]:
    """Attributes of the `number`-th clip of `kind` in its split.

    Raises:
      UserError: the split asks for more clips than there are combinations.
    """
    order = _combinations(kind, test, seed)
    if number >= len(order):
        split = "test" if test else "train"
        raise UserError(f"foley_world: at most {len(order)} {kind} clips in {split}")
    values = KINDS[kind].ATTRIBUTES
    places = np.unravel_index(int(order[number]), [len(v) for v in values.values()])
    return {name: v[p] for (name, v), p in zip(values.items(), places, strict=True)}


def captions(kind: str, chosen: dict[str, str], rng: np.random.Generator) -> tuple[str, ...]:
    """One sentence from each template, in random order; each names every attribute."""
    said = _SAY[kind]

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    def write(template: str) -> str:
        words = {n: pick(said.get(n, {}).get(v, (v,))) for n, v in chosen.items()}
        words["stuff"] = chosen.get("material", "")
        sentence = template.format(**words).replace(" a orange", " an orange")
        return sentence[0].upper() + sentence[1:]

    templates = _SENTENCES[kind]
    return tuple(write(templates[k]) for k in rng.permutation(len(templates))[:CAPTIONS])
