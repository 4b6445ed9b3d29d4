"""How texts and questions are cut into the terms that BM25 compares.

The texts themselves stay as they are.

Words are compared as Unicode's NFKC_Casefold: "ﬁnal" is "final", "ＡＢＣ" is "abc", "STRASSE" is
"Straße", the two ways of writing é are one, and characters that nobody sees (soft hyphens,
zero-width joiners) do not count. The Turkish dotless i counts as an i, because capital letters do
not tell the two apart. English words are stemmed.

Scripts that put no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese), and Korean,
whose words carry their endings, are cut into pairs of neighboring characters.
"""

import re
import unicodedata
from collections.abc import Iterable

import regex
import Stemmer

# Line breaking class SA is Thai, Lao, Khmer, Burmese and their like: a script needs a dictionary to
# tell its words.
_UNSPACED = (
    r"\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Bopomofo}\p{scx=Hangul}\p{scx=Yi}\p{lb=SA}"
)
_WORD = regex.compile(rf"(?V1)[\w&&[{_UNSPACED}]]+|[\w--[{_UNSPACED}]]+")
_UNSPACED_WORD = regex.compile(rf"(?V1)[\w&&[{_UNSPACED}]]")
_SPACED_WORD = regex.compile(r"\w+")
_ASCII_WORD = re.compile(r"\w+", re.ASCII)
_LONE_HAN = regex.compile(r"(?<!\p{Han})\p{Han}(?!\p{Han})")
_IGNORED = regex.compile(r"\p{Default_Ignorable_Code_Point}+")


def fold(text: str) -> str:
    """Returns a text as it is compared; it may be shorter or longer than the one given."""
    if text.isascii():
        return text.lower()
    seen = _IGNORED.sub("", unicodedata.normalize("NFKC", text)).casefold()
    # Once more: what was ignored may have stood between a letter and its accent.
    return unicodedata.normalize("NFKC", seen).replace("i\u0307", "i").replace("ı", "i")


def cut_passages(texts: Iterable[str], *, stop_words: bool = False) -> list[list[str]]:
    """Returns the terms of each passage; in scripts without spaces every character and every pair.

    Args:
        texts: The texts of the passages.
        stop_words: Keep "the", "of" and their like.
    """
    return _stem((_split(text, alone=True) for text in texts), stop_words)


def cut_question(question: str, *, stop_words: bool = False) -> list[str]:
    """Returns the terms of a question.

    In scripts without spaces these are pairs of characters, and characters that stand alone.
    """
    return _stem([_split(question, alone=False)], stop_words)[0]


def has_content(question: str) -> bool:
    """Returns whether a question has a word that says what it is about.

    "How is it?" and "What about them?" have none.
    """
    # Imported late, as below.
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    return not set(STOPWORDS_EN_PLUS).issuperset(_split(question, alone=False))


def _stem(texts: Iterable[list[str]], stop_words: bool) -> list[list[str]]:
    """Returns the terms by their English stems, without stop words unless `stop_words`."""
    # Late: importing it takes as long as a small corpus.
    from bm25s.stopwords import STOPWORDS_EN

    omitted: frozenset[str] = frozenset()
    if not stop_words:
        omitted = frozenset(STOPWORDS_EN)
    # Not shared: threads must not use one at the same time.
    stemmer = Stemmer.Stemmer("english")
    found = []
    for terms in texts:
        found.append(stemmer.stemWords([term for term in terms if term not in omitted]))
    return found


def _split(text: str, *, alone: bool) -> list[str]:
    """Returns the words of a text, and pairs of characters in scripts without spaces.

    With `alone`, each character of these scripts is a term too.
    """
    folded = fold(text)
    if folded.isascii():
        return _ASCII_WORD.findall(folded)
    if not _UNSPACED_WORD.search(folded):
        return _SPACED_WORD.findall(folded)
    found: list[str] = []
    for word in _WORD.findall(folded):
        if len(word) == 1 or not _UNSPACED_WORD.match(word):
            found.append(word)
            continue
        # A single ideogram among kana is a word by itself, whatever ending stands next to it.
        if alone:
            found += word
        else:
            found += _LONE_HAN.findall(word)
        found += [word[at : at + 2] for at in range(len(word) - 1)]
    return found
