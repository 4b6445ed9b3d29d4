"""Names, things and numbers that made-up texts speak of; none of them is a benchmark's.

Names of people, places and registers are put together from syllables, so there are thousands. A
share of every list is kept for validation: no word of it is ever learned.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


def _split(text: str) -> tuple[str, ...]:
    """Returns what stands between commas, each on one line."""
    return tuple(" ".join(part.split()) for part in text.split(","))


_FIRST = _split("""
    Abner, Adela, Albrecht, Aldous, Amabel, Anselm, Barnaby, Bettina, Caspar, Cecily, Clement,
    Cordula, Cuthbert, Delphine, Drusilla, Edmund, Elspeth, Emeric, Ermentrude, Eustace, Felicity,
    Ferdinand, Gideon, Godfrey, Griselda, Gunther, Hedwig, Hester, Ignatius, Isolde, Jasper,
    Jerome, Kerstin, Lambert, Leopold, Lettice, Linnet, Lucian, Mabel, Magnus, Marjorie, Matthias,
    Merrick, Millicent, Nathaniel, Octavia, Odela, Osric, Ottilie, Percival, Perpetua, Quentin,
    Rosamund, Rupert, Sabina, Sebald, Sibyl, Silas, Tabitha, Theobald, Thekla, Ursula, Valentin,
    Walburga, Wilfred, Winifred, Xaver, Yolande, Zacharias, Zelda
""")
_LAST = _split("""
    Abbot, Ashdown, Babbage, Birtwell, Blomfield, Brackley, Cadbury, Cavendish, Colquhoun,
    Crabtree, Cruickshank, Dacre, Dunstable, Eckhart, Entwistle, Fairweather, Farquhar,
    Fothergill, Garside, Gathercole, Grimshaw, Haverford, Heseltine, Hollins, Ingleby, Jessop,
    Kettlewell, Lattimer, Longbottom, Loxley, Maddox, Mompesson, Naismith, Oglethorpe, Ormerod,
    Pargeter, Penhaligon, Pilkington, Quaife, Ramsbottom, Rawnsley, Satterthwaite, Scrope,
    Sedgwick, Snodgrass, Tattersall, Thistlewood, Trelawney, Uttley, Vavasour, Venables,
    Whittaker, Winterbourne, Yardley
""")
_PLACE_BEGINS = _split("""
    Amble, Barn, Bram, Broad, Carl, Crook, Dun, Elder, Fal, Gars, Hal, Hather, Kel, Kirk,
    Lang, Mal, Mar, Nether, Oak, Pen, Quar, Raven, Rook, Sal, Silver, Stan, Thorn, Tre, Up, Wal,
    Winter, Wool, Yar
""")
_PLACE_ENDS = _split("""
    beck, borough, bridge, bury, by, combe, cote, dale, den, ey, field, garth, ham, hithe, holme,
    ing, ley, mere, minster, moor, ness, over, rigg, scar, shaw, stead, stow, thwaite, ton, wick,
    worth
""")
_SYLLABLES = _split("""
    ba, bel, bri, cal, cor, da, dren, du, el, fa, fen, gla, go, gri, hal, hu, il, jor, ka, ken,
    lo, lum, ma, mir, mo, na, nel, ni, or, pa, pel, qua, ra, ren, ri, sa, sel, sko, ta, tel, thra,
    tor, u, va, vel, vi, wen, wy, ya, zan, zo
""")
_TRADES = _split("""
    barrel maker, bell founder, boat builder, bookbinder, candle maker, cheesemonger, clockmaker,
    coal merchant, corn dealer, dressmaker, ferryman, glassblower, gunsmith, harness maker, lace
    maker, lamplighter, locksmith, map engraver, milliner, music teacher, piano tuner, paper maker,
    rope maker, sail maker, schoolmaster, shipwright, silversmith, stonecutter, tea merchant, tide
    surveyor, toll keeper, violin maker, watch repairer, wheelwright, wool buyer
""")
_THINGS = _split("""
    a brass sextant, a bundle of letters, a carved walnut box, a china teapot, a copper kettle, a
    cracked mirror, a folding chessboard, a fur collar, a glass barometer, an iron key, an ivory
    fan, a jar of saffron, a lame pony, a leather trunk, a map of Iceland, a music box, a pair of
    skates, a pewter tankard, a pocket almanac, a prayer book, a red umbrella, a roll of blue silk,
    a sack of barley, a set of spoons, a silver thimble, a spotted terrier, a stuffed heron, a tame
    jackdaw, a tin whistle, a torn banknote, a velvet cloak, a violin without strings, a wooden leg,
    two beehives, three hens
""")
# Every fifth word is kept for validation.
_KEPT = 5


@dataclass(frozen=True)
class Vocabulary:
    """Draws words out of one part of every list.

    Attributes:
        validation: Whether of the part that is kept for validation, or of the one that is learned.
    """

    validation: bool = False

    def person(self, chance: random.Random) -> str:
        """Returns a first name and a family name."""
        return f"{self._pick(chance, _FIRST)} {self._pick(chance, _LAST)}"

    def place(self, chance: random.Random) -> str:
        """Returns the name of a village that is on no map of a benchmark."""
        return self._pick(chance, _PLACE_BEGINS) + chance.choice(_PLACE_ENDS)

    def trade(self, chance: random.Random) -> str:
        """Returns what somebody is."""
        return self._pick(chance, _TRADES)

    def thing(self, chance: random.Random) -> str:
        """Returns what somebody has, with its article."""
        return self._pick(chance, _THINGS)

    def made_up(self, chance: random.Random) -> str:
        """Returns a word of three or four syllables that means nothing."""
        first = self._pick(chance, _SYLLABLES)
        return first + "".join(chance.choices(_SYLLABLES, k=chance.choice((2, 3))))

    def number(self, chance: random.Random, digits: int = 0) -> str:
        """Returns a number; of 3 to 8 digits where `digits` is 0."""
        digits = digits or chance.choice((3, 4, 5, 5, 6, 7, 7, 8))
        return str(chance.randrange(10 ** (digits - 1), 10**digits))

    def mark(self, chance: random.Random) -> str:
        """Returns letters and digits, such as kx-40f7-b2."""
        letters = "abcdefghkmnprstuvwxyz"
        groups = []
        for size in chance.choice(((2, 4), (4, 4), (2, 4, 2), (8, 4, 4))):
            groups.append("".join(chance.choices(letters + "0123456789" * 2, k=size)))
        return "-".join(groups)

    def _pick(self, chance: random.Random, words: tuple[str, ...]) -> str:
        kept = [word for place, word in enumerate(words) if place % _KEPT == 0]
        if self.validation:
            return chance.choice(kept)
        return chance.choice([word for word in words if word not in kept])


def draw_different(make: Callable[[], T], count: int) -> list[T]:
    """Returns a number of different things, in the order they are made."""
    found = dict[T, None]()
    while len(found) < count:
        found[make()] = None
    return list(found)
