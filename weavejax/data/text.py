"""Captions to token ids: BERT WordPiece, trained on the captions or loaded."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import WordPiece

from weavejax.errors import UserError
from weavejax.storage import storage

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


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
    """Loads a BERT-style tokenizer.

    Args:
      path_or_name: a `tokenizer.json` (gs:// and s3:// as well), a directory with one or with a
        `vocab.txt`, or a name on the Hugging Face hub such as `bert-base-uncased`.

    Raises:
      UserError: not found, or without [CLS], [SEP] and [PAD] = 0.
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
    missing = [token for token in SPECIAL if tokenizer.token_to_id(token) is None]
    if missing or tokenizer.token_to_id("[PAD]") != 0:
        what = f"lacks {', '.join(missing)}" if missing else "numbers [PAD] otherwise than 0"
        raise UserError(f"the tokenizer {path_or_name!s} {what}: a BERT WordPiece is needed")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def encode(tokenizer: Tokenizer, text: str, length: int) -> np.ndarray:
    """Token ids of `[CLS] text [SEP]`, cut to keep the [SEP], padded with 0: int32 [length]."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids[: length - 2]
    tokens = [tokenizer.token_to_id("[CLS]"), *ids, tokenizer.token_to_id("[SEP]")]
    return np.pad(np.array(tokens, np.int32), (0, length - len(tokens)))
