"""Which choice of a multiple-choice question an answer names.

Answers say it as "(B)", "**B.** Paris", "The answer is B" or "$\\boxed{B}$". What counts, in this
order: a boxed letter; the last sentence that says which one is right, or line that is a letter
alone; an option's own words; lines that begin with a letter. An answer that leaves it open, "A or
B", names none.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from longreach.plain import plain, words

LETTERS = "ABCD"
# Of an answer only the last characters are looked at: the expressions below are not made for more.
_LONGEST = 2000
_REPEATED = re.compile(r"([^\w\s])\1{3,}|\s*(\n)\s*|(\s)\s+")
_THOUGHTS = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_NEXT_QUESTION = re.compile(r"^[^\w\n]*question\b[^\n]{0,8}:", re.MULTILINE | re.IGNORECASE)
_LATEX = re.compile(r"\\(?:text|math|box|fbox|mbox|operatorname)[a-z]*\s*\{([^{}]*)\}")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_MARKUP = re.compile(
    r"\*\*|__|</?[A-Za-z]{1,12}>|`|\\[()\[\]]|\$|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)"
)
_OPTION = re.compile(rf"^([{LETTERS}])[.):] (.+)$", re.MULTILINE)

# What may stand behind a letter that is a choice. "A man" is no choice, nor are "B-flat", "D'Arcy"
# and "C. S. Lewis".
_BEHIND = (
    r"(?=\s*$|\s*[)\]}\"]|\s*[,;:!?\n](?!\w)|[^\w\s\x00-\x7f]|\.(?!\s*[A-Za-z]\.)(?!\w)|'(?!\w)|\s+[-/=]|-\s|/\s*\(?[A-Da-d]\b"
    r"|\s*\(|\s+(?:because|since|as|for|is|was|and|or|but|not|due|given|would|seems|rather|instead|which|with)\b)"
)
_WORDS_BETWEEN = (
    r"(?:(?:either|both|probably|likely|most"
    r" likely|definitely|clearly|certainly|indeed|therefore|thus|simply|also|just"
    r"|the|option|choice|letter|answer|number|indicated by|labell?ed|given by|in)\s+)*"
)
_LETTER = rf"[(\[{{<\"']*(?P<letter>[A-Da-d]){_BEHIND}"
_SAYS = re.compile(
    r"(?:\b(?:answers?|choice|option|solution|response|guess|pick|conclusion)\b(?P<gap>[^.\n:=]{0,100}?)"
    r"(?:\b(?:is|was|are|be|would be|should be|must be|seems to be)\b\s*:?|:|=|\s-)"
    r"|\b(?:choose|chose|choosing|pick|picked|select|selected|go with|going with|went with|opt"
    r" for|vote for)\b"
    r"|\b(?:think|believe|guess|say)(?:\s+that)?\b|\bnot\s+\(?[A-D]\)?,?\s+but(?:\s+rather)?\b"
    r"|\b(?:it|that|this)(?:'s| is| was| has to be| must be| should be| would be| could only be)\b"
    r"|(?:^|[.!?,;]\s+|\n)\W*(?:so|therefore|thus|hence|then|actually|finally|correction)[,:]?(?=\s)"
    r"|(?:答案|选|選)(?:是|为|為|应为|應為)?\s*:?"
    rf")\s*{_WORDS_BETWEEN}{_LETTER}",
    re.IGNORECASE | re.MULTILINE,
)
_RIGHT = re.compile(
    r"(?P<open>\b(?:or|and|nor|not|neither|either)\s+)?(?:\b(?:option|choice|letter)\s+)?"
    r"(?<![\w'-])[(\[]?(?P<letter>[A-D])(?!\w)[)\]]?[.):]?"
    # Up to the verb; in "It may be A, but B is right" another letter is its subject.
    r"(?:\s+\([^()\n]{1,80}\)|(?:(?!\b(?:but|however|yet|while|whereas|although|though),?\s+(?:option\s+|choice\s+)?[(\[]?[A-D]\b)"
    r"[^.\n]){0,80}?)?"
    r"\s+(?:is|was|seems|looks|appears|must be|would be|has to be)\s+"
    r"(?:(?:the|clearly|probably|likely|most|therefore|thus|indeed|definitely|to be|only|one)\s+)*"
    r"(?:correct|right|best|answer|true|accurate|choice|option)\b",
)
_ALONE = re.compile(
    r"^[^\w\n]*(?:(?:so|therefore|thus|hence|actually|yes|no|definitely|probably|likely|maybe|my|the|final|correct|right|answer|option|choice|letter)\b[\s,:]*)*"
    r"[(\[{<\"']*(?P<letter>[A-Da-d])[)\]}>\"']*[.:!?\u3002]?\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_CLOSING = re.compile(r"[.!?]\s+[(\[]?(?P<letter>[A-D])[)\]]?[.!]?\s*\Z")
_MARKED = re.compile(
    r"^[^\w\n]*(?:(?:option|choice|answer|letter)\s+)?"
    r"(?:[(\[](?P<closed>[A-Da-d])[)\]]|(?P<letter>[A-Da-d])(?:[)\]:;]|\.(?!\s*[A-Za-z]\.)|,(?!\w)|\s+[-=(]|-\s)"
    r"|(?P<named>[A-D])(?=\s+(?:because|since|as|due)\b))",
    re.IGNORECASE | re.MULTILINE,
)
_NAMED = re.compile(r"\b(?:answer|choice|option)\b[^.\n:]{0,60}?(?:\bis\b|:)", re.IGNORECASE)
# A second letter beside the first: then the answer has not decided. "B, not C" has.
_ANOTHER = re.compile(
    r"\W{0,3}\s*(?:,|/|\||&|\+|\bor\b|\band\b(?!\s+not\b)|\band/or\b)\s*(?:possibly\s+|maybe\s+|perhaps\s+)?"
    r"(?:option\s+|choice\s+)?[(\[\"']*(?P<letter>[A-Da-d])(?=[)\]\"'.,;:!?]|\s*$|\s*\n|\s*(?:,|/|or\b|and\b)"
    r"|\s+(?:is|are)\s+(?:both\s+)?(?:correct|right))",
    re.IGNORECASE,
)


class _Mention(NamedTuple):
    """A place in an answer that names a choice.

    Attributes:
        end: Where it ends.
        letter: Which choice; None where two are named at once.
    """

    end: int
    letter: str | None


def options_of(question: str) -> dict[str, str]:
    """Returns the options that stand in a question, "A. Paris" a line, by their letters."""
    return {letter: text.strip() for letter, text in _OPTION.findall(question)}


def chosen(answer: str, options: Mapping[str, str]) -> str | None:
    """Returns the letter of the choice that an answer names, A to D; None where that is open.

    Args:
        answer: What was written, reasoning and markup included.
        options: The words of the options, by letter, as far as they are known.
    """
    text = _clean(answer)
    # A model that was shown examples may continue with a question of its own: what it answers to
    # that does not count.
    for found in _NEXT_QUESTION.finditer(text):
        letter = _find_choice(text[: found.start()].strip(), options)
        if letter:
            return letter
    return _find_choice(text, options)


def _clean(answer: str) -> str:
    """Returns the end of an answer without thoughts and markup; of a boxed one what is boxed."""
    # A dash without spaces around it would look like the hyphen of "B-flat".
    text = plain(re.sub("[\u2014\u2015]", " - ", answer[-10 * _LONGEST :]))
    text = _THOUGHTS.split(text)[-1]
    # Long runs of signs and white space would make the expressions slow.
    text = _REPEATED.sub(r"\1\2\3", text).strip()[-_LONGEST:]
    boxed = _BOXED.findall(text)
    if boxed:
        text = boxed[-1]
    # Commands of LaTeX may stand inside of each other.
    while _LATEX.search(text):
        text = _LATEX.sub(r"\1", text)
    return _MARKUP.sub("", text).strip()


def _find_choice(text: str, options: Mapping[str, str]) -> str | None:
    """Returns the choice of an answer that is followed by nothing else."""
    mentions = list(_mentions(text))
    if mentions:
        # The last one counts; of two that end together the one that leaves it open.
        return max(mentions, key=lambda mention: (mention.end, mention.letter is None)).letter
    letter = _by_words(text, options)
    if letter:
        return letter
    marked = set()
    for found in _MARKED.finditer(text):
        named = found["closed"] or found["letter"] or found["named"]
        marked.add(named.upper())
    opening = _MARKED.match(text)
    if len(marked) != 1 or (opening and _ANOTHER.match(text, opening.end() - 1)):
        return None
    return marked.pop()


def _mentions(text: str) -> Iterator[_Mention]:
    """Yields every place that says which choice is right, or that is nothing but a letter."""
    # Each kind of sentence has an expression of its own, since they overlap.
    for found in (*_SAYS.finditer(text), *_ALONE.finditer(text), *_CLOSING.finditer(text)):
        if not _is_article(text, found):
            yield _mention(text, found)
    for found in _RIGHT.finditer(text):
        before = (found["open"] or "").strip().lower()
        if before in ("or", "and", "either"):
            yield _Mention(found.end(), None)
        elif not before:
            yield _mention(text, found)
    # "A or B" may be all that is said.
    first = re.match(
        r"\W*(?:(?:either|both|maybe|perhaps|possibly|option|choice)\s+)*([A-D])(?!\w)", text
    )
    if first and _ANOTHER.match(text, first.end()):
        yield _Mention(first.end(), None)


def _mention(text: str, found: re.Match[str]) -> _Mention:
    letter = found["letter"].upper()
    other = _ANOTHER.match(text, found.end("letter"))
    undecided = other is not None and other["letter"].upper() != letter
    return _Mention(found.end(), None if undecided else letter)


def _is_article(text: str, found: re.Match[str]) -> bool:
    """Whether the "letter" is the word "a", as in "the answer is a as in"."""
    # At the end of a sentence it is a letter.
    return found["letter"] == "a" and re.match(r"\s+\w", text[found.end("letter") :]) is not None


def _by_words(text: str, options: Mapping[str, str]) -> str | None:
    """Returns the option whose words the answer is, or says are right; None where that is open."""
    first_line = text.split("\n", 1)[0]
    said = _NAMED.split(text)[-1]
    for part in (text, first_line, said):
        # The "a" of "A. Berlin" is no article: then the words are compared with it, and no option
        # has them.
        articles = _MARKED.match(part) is not None
        mine = words(part, articles=articles)
        same = []
        for letter, own in options.items():
            if mine and words(own, articles=articles) == mine:
                same.append(letter)
        if len(same) == 1:
            return same[0]
    return None
