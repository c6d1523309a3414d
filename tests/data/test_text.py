"""Tokenizers: determinism, padding, what load_tokenizer takes."""

import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from weavejax.data.text import encode, load_tokenizer, marks, train_tokenizer
from weavejax.errors import UserError

CAPTIONS = [
    f"A {size} {thing} is {verb}"
    for size in ("small", "large", "huge")
    for thing in ("drum", "metal plate", "glass")
    for verb in ("hit", "scraped", "struck twice")
]
PRINT = "from weavejax.data.text import *; import sys; " + (
    "print(train_tokenizer(sys.argv[1].split(';'), 90).to_str())"
)


def test_training_is_deterministic_across_processes_and_orders() -> None:
    runs = [CAPTIONS, CAPTIONS[::-1]]
    printed = [
        subprocess.run(
            [sys.executable, "-c", PRINT, ";".join(captions)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for captions in runs
    ]
    assert printed[0] == printed[1] == train_tokenizer(CAPTIONS, 90).to_str()


def test_special_tokens_and_round_trip() -> None:
    tokenizer = train_tokenizer(CAPTIONS, 200)
    ids = [tokenizer.token_to_id(t) for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")]
    assert ids == [0, 1, 2, 3]
    tokens = encode(tokenizer, "A LARGE glass is struck twice", 20)
    assert tokens.dtype == "int32"
    assert tokenizer.decode(list(tokens)) == "a large glass is struck twice"
    assert tokenizer.get_vocab_size() <= 200


def test_vocabulary_size_is_kept() -> None:
    assert train_tokenizer(CAPTIONS, 60).get_vocab_size() == 60


def test_padding_truncation_and_empty_text() -> None:
    tokenizer = train_tokenizer(CAPTIONS, 200)
    assert encode(tokenizer, "", 5).tolist() == [2, 3, 0, 0, 0]
    whole = encode(tokenizer, CAPTIONS[0], 30)
    length = int((whole != 0).sum())
    cut = encode(tokenizer, CAPTIONS[0], length - 1)
    assert cut[-1] == 3
    assert cut[:-1].tolist() == whole[: length - 2].tolist()
    assert encode(tokenizer, CAPTIONS[0], length).tolist() == whole[:length].tolist()


def test_text_cannot_forge_special_tokens() -> None:
    tokenizer = train_tokenizer(CAPTIONS, 200)
    assert "##t" in tokenizer.get_vocab()
    assert encode(tokenizer, "hit ##t", 9).tolist()[2:4] == [1, 1]  # two unknown signs


def test_loading_a_file_a_directory_and_a_vocabulary(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(CAPTIONS, 90)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vocabulary = tmp_path / "vocabulary"
    vocabulary.mkdir()
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (vocabulary / "vocab.txt").write_text("\n".join(token for token, _ in ordered))
    expected = encode(tokenizer, CAPTIONS[4], 16).tolist()
    for place in (tmp_path, tmp_path / "tokenizer.json", vocabulary):
        assert encode(load_tokenizer(place), CAPTIONS[4], 16).tolist() == expected


def test_loading_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "vocab.txt").write_text("hello\n[UNK]\n[SEP]\n[CLS]\n")
    with pytest.raises(UserError, match=r"lacks \[PAD\]"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="no tokenizer at") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def bytes_tokenizer(special: list[str]) -> Tokenizer:
    """Bytes and their merges, as RoBERTa and CLIP have them, without any merge."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(special)
    return tokenizer


@pytest.mark.parametrize(
    ("kind", "special", "start", "end", "pad"),
    [
        ("roberta", ["<s>", "<pad>", "</s>", "<unk>"], 0, 2, 1),
        ("clip", ["<|startoftext|>", "<|endoftext|>"], 0, 1, 1),
    ],
)
def test_other_tokenizers_set_their_own_marks(
    kind: str, special: list[str], start: int, end: int, pad: int, tmp_path: Path
) -> None:
    bytes_tokenizer(special).save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert marks(tokenizer).kind == kind
    a = tokenizer.token_to_id("a")
    assert encode(tokenizer, "aa", 6).tolist() == [start, a, a, end, pad, pad]
    assert encode(tokenizer, "aaaa", 4).tolist() == [start, a, a, end]
    forged = special[-1] + special[1]
    tokens = encode(tokenizer, forged, 60)
    assert tokens[0] == start
    assert (tokens[1 : 1 + len(forged)] >= len(special)).all()
    assert tokens[1 + len(forged) :].tolist() == [end] + [pad] * (58 - len(forged))


def test_a_tokenizer_of_another_family_is_refused(tmp_path: Path) -> None:
    for special, words in (
        (["<pad>", "<s>", "</s>"], "numbers <pad> otherwise than 1"),
        (["<s>", "</s>"], "lacks <pad>"),
        (["<|startoftext|>"], r"lacks <\|endoftext\|>"),
    ):
        bytes_tokenizer(special).save(str(tmp_path / "tokenizer.json"))
        with pytest.raises(UserError, match=words):
            load_tokenizer(tmp_path)
