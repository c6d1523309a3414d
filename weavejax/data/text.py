"""Captions to token ids: BERT WordPiece, trained on the captions or loaded; RoBERTa's and CLIP's."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import WordPiece

from weavejax.errors import UserError
from weavejax.storage import storage

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@dataclass(frozen=True)
class Marks:
    """The tokens that a kind of tokenizer puts around a text.

    Attributes:
      kind: of the text encoder that goes with it.
      start: first token.
      end: last token.
      pad: what follows; a text encoder may know it by its id.
      pad_id: that id; None where it does not matter.
    """

    kind: str
    start: str
    end: str
    pad: str
    pad_id: int | None


MARKS = (
    Marks("bert", "[CLS]", "[SEP]", "[PAD]", 0),
    Marks("roberta", "<s>", "</s>", "<pad>", 1),
    Marks("clip", "<|startoftext|>", "<|endoftext|>", "<|endoftext|>", None),
)


def marks(tokenizer: Tokenizer) -> Marks:
    """The marks of a tokenizer: those of which it has most, BERT's when it has none."""

    def held(kind: Marks) -> int:
        return sum(tokenizer.token_to_id(t) is not None for t in (kind.start, kind.end, kind.pad))

    return max(MARKS, key=held)


def train_tokenizer(captions: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a lower-case BERT WordPiece vocabulary; the same captions give the same vocabulary.

    Args:
      captions: texts to learn from; their order does not matter.
      vocab_size: the most entries to learn, special tokens included. [PAD] is 0, then [UNK],
        [CLS], [SEP]. (Single characters are always kept, even beyond it.)
    """
    texts = sorted(captions)
    tokenizer = _word_piece({})
    # The trainer numbers the "##x" characters in the order of a randomly seeded hash map and
    # breaks ties between merges by number. Handing them over as special tokens fixes the order;
    # the vocabulary then moves to a tokenizer that does not take them as special.
    inner = {
        character for text in texts for word in _words(tokenizer, text) for character in word[1:]
    }
    continued = [f"##{character}" for character in sorted(inner)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*SPECIAL, *continued], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _word_piece(tokenizer.get_vocab(with_added_tokens=True))


def _words(tokenizer: Tokenizer, text: str) -> list[str]:
    """What WordPiece sees: normalised text split at spaces and punctuation."""
    normal = tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]


def _word_piece(vocabulary: dict[str, int]) -> Tokenizer:
    """The lower-case BERT tokenizer with this vocabulary."""
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    if vocabulary:
        tokenizer.add_special_tokens([token for token in SPECIAL if token in vocabulary])
        ends = [(token, vocabulary[token]) for token in ("[SEP]", "[CLS]")]
        tokenizer.post_processor = processors.BertProcessing(*ends)
    return tokenizer


def load_tokenizer(path_or_name: str | Path) -> Tokenizer:
    """Loads a tokenizer of BERT, RoBERTa (CLAP's text encoder) or CLIP.

    Args:
      path_or_name: a `tokenizer.json` (gs:// and s3:// as well), a directory with one or with
        BERT's `vocab.txt`, or a name on the Hugging Face hub such as `bert-base-uncased`,
        `laion/clap-htsat-unfused` or `openai/clip-vit-base-patch32`.

    Raises:
      UserError: not found, or without the tokens that begin, end and pad a text.
    """
    path = Path(path_or_name)
    file = path / "tokenizer.json" if path.is_dir() else path
    vocabulary = path / "vocab.txt"
    try:
        if "://" in str(path_or_name):
            tokenizer = Tokenizer.from_str(storage(str(path_or_name)).read_text())
        elif file.is_file():
            tokenizer = Tokenizer.from_file(str(file))
        elif vocabulary.is_file():
            tokens = vocabulary.read_text(encoding="utf-8").splitlines()
            tokenizer = _word_piece({token: number for number, token in enumerate(tokens)})
        else:
            tokenizer = Tokenizer.from_pretrained(str(path_or_name))
    except Exception as error:  # tokenizers raises bare Exception, the hub a dozen kinds
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"no tokenizer at {path_or_name!s}: give a tokenizer.json, a directory with "
            f"vocab.txt, or a hub name ({reason})"
        ) from error
    found = marks(tokenizer)
    needed = SPECIAL if found.kind == "bert" else (found.start, found.end, found.pad)
    missing = [token for token in needed if tokenizer.token_to_id(token) is None]
    if missing or found.pad_id not in (None, tokenizer.token_to_id(found.pad)):
        what = (
            f"lacks {', '.join(missing)}"
            if missing
            else f"numbers {found.pad} otherwise than {found.pad_id}"
        )
        raise UserError(
            f"the tokenizer {path_or_name!s} {what}: BERT's WordPiece, RoBERTa's or CLIP's is needed"
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def encode(tokenizer: Tokenizer, text: str, length: int) -> np.ndarray:
    """Token ids of `[CLS] text [SEP]`, cut to keep the [SEP], padded with [PAD]: int32 [length].

    Of another kind of tokenizer, its own `marks` stand in these places.
    """
    found = marks(tokenizer)
    start, end = tokenizer.token_to_id(found.start), tokenizer.token_to_id(found.end)
    padding = np.full(length, tokenizer.token_to_id(found.pad), np.int32)
    tokenizer.encode_special_tokens = True  # a text that spells a mark does not set it
    ids = tokenizer.encode(text, add_special_tokens=False).ids[: length - 2]
    tokens = np.array([start, *ids, end], np.int32)
    return np.concatenate([tokens, padding])[:length]
