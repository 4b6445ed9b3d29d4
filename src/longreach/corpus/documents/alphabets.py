"""Letters beyond ASCII that languages are written with, and the signs that English text has."""

import unicodedata


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


_LETTERS = {
    "af": "áèéêëîïóôöúûü",
    "az": "çöüğışə",
    "be": "абвгдежзйклмнопрстуфхцчшыьэюяёіў",
    "bg": "абвгдежзийклмнопрстуфхцчшщъьюяѝ",
    "br": "âêñùü",
    "bs": "ćčđšž",
    "ca": "·àçèéíïòóúü",
    "cs": "áéíóöúüýčďěňřšťůž",
    "cy": "àáâäèéêëìíîïòóôöùúûüÿŵŷẁẃẅỳ",
    "da": "àäåæéöøü",
    "de": "ßäéöü",
    "eo": "ĉĝĥĵŝŭ",
    "es": "áéíñóúü",
    "et": "äéõöüšž",
    "eu": "çñü",
    "fi": "äåéöšž",
    "fo": "áæíðóøúý",
    "fr": "àâæçèéêëîïôùûüÿœ",
    "ga": "áéíóú",
    "gd": "àáèéìòóù",
    "gl": "áéíïñóúü",
    "hr": "ćčđšž",
    "hsb": "óćčěłńřśšźž",
    "hu": "áéíóöúüőű",
    "is": "áæéíðóöúýþ",
    "it": "àèéìíîòóùú",
    "lb": "äèéêëôöûü",
    "lt": "ąčėęšūųž",
    "lv": "ōāčēģīķļņŗšūž",
    "mk": "абвгдежзиклмнопрстуфхцчшѐѓѕјљњќѝџ",
    "mt": "àèìòùċġħż",
    "nl": "áçèéêëíïóöúü",
    "no": "àâåæèéêòóôø",
    "pl": "óąćęłńśźż",
    "pt": "àáâãçéêíòóôõúü",
    "ro": "âîăşţșț",
    "ru": "абвгдежзийклмнопрстуфхцчшщъыьэюяё",
    "sk": "áäéíóôöúüýčďĺľňŕšťž",
    "sl": "ćčđšž",
    "sq": "çë",
    "sr": "абвгдежзиклмнопрстуфхцчшђјљњћџ",
    "sv": "àäåéöü",
    "tr": "âçîöûüğış",
    "uk": "абвгдежзийклмнопрстуфхцчшщьюяєіїґ",
}
ALPHABETS = {language: frozenset(letters) for language, letters in _LETTERS.items()}
"""By the code of the language; only languages written in Latin or Cyrillic letters."""
ENGLISH_WORDS = _words(
    "a all an and are as at be but by for from had has have he her his i in is it its my no not of on or our she so "
    "that the their there they this to was we were what which who will with would you your"
)
LOANWORDS = _words(
    "appliqué attaché blasé café cafés cliché clichés communiqué consommé coöperate coöperation crème crêpe crêpes "
    "débutante décor déjà détente divorcée doppelgänger éclair élan élite émigré émigrés ennui entrée exposé façade "
    "façades fiancé fiancée flambé frappé führer garçon glacé jalapeño maître matinée melée mélange mêlée naïve "
    "naïvely naïveté née negligée piñata pâté première preëminent protégé protégée purée raison raisonné régime "
    "reëlected résumé résumés risqué rôle rôles roué sauté señor señora smörgåsbord soirée soufflé soupçon "
    "tête touché vis-à-vis über à"
)
COMMON_WORDS = {
    "de": _words(
        "für über können könnte müssen würde wäre hätte möchte während natürlich später größe größer große großen "
        "schön früher gehört häuser straße heißt weiß daß muß frühling länder männer zurück fünf zwölf tür öffnen"
    ),
    "es": _words(
        "él más está están también después así sí qué cómo cuándo dónde aquí allí según había día días sólo niño niña "
        "niños señor señora mañana año años español corazón razón habló quién cuál aún además todavía jamás"
    ),
    "fr": _words(
        "à â été être était étaient même très après déjà où là voilà école élève père mère frère première dernière "
        "côté près ça français française après-midi aussitôt bientôt tête fête forêt hôtel supérieur supérieure "
        "général générale société république état États théâtre café thé clé année siècle lumière manière"
    ),
    "it": _words("è perché più già così città può però sarà c'è ciò là lì giù né sì università libertà verità metà"),
    "pt": _words(
        "é não são está também você vocês até há já só mãe pão então avó avô três português estação água após além "
        "país através história ninguém alguém coração razão irmão irmã lá aí às à"
    ),
}
"""Words with letters beyond ASCII that every text in a language has."""


def script_of(character: str) -> str:
    """Returns the script of a letter: "LATIN", "CYRILLIC", "GREEK", "HEBREW", "ARABIC", "THAI", "" for others."""
    if character < "\x80":
        return "LATIN" if character.isalpha() else ""
    if not character.isalpha() or character in "ªºµ":
        return ""
    name = unicodedata.name(character, "").partition(" ")[0]
    return name if name in ("LATIN", "CYRILLIC", "GREEK", "HEBREW", "ARABIC", "THAI") else ""
