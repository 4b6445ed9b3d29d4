"""Letters beyond ASCII that languages are written with, and the signs that English text has."""

import unicodedata


def _split(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Letters that words of the language have, some of its usual loanwords among them.
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
FUNCTION_WORDS = {
    "da": _split(
        "af at blev de den der det en er et for fra han har hun ikke jeg med og om sig som til var"
        " ved vi"
    ),
    "de": _split(
        "aber als am an auch auf aus bei bis das dem den der des die diese durch ein eine einem"
        " einen einer es hat ich im in ist man mit nach nicht noch nur oder sich sie sind so um und"
        " von vor war werden wie wird zu zum zur"
    ),
    "en": _split(
        "a all an and are as at be but by for from had has have he her his i in is it its my no not"
        " of on or our she so that the their there they this to was we were what which who will"
        " with would you your"
    ),
    "es": _split(
        "al como con de del el en entre era es esta este fue ha hasta la las le lo los muy no o"
        " para pero por que se sin sobre su sus todo un una y ya"
    ),
    "fi": _split(
        "ei eli en he ja joka jos kanssa kuin kun mutta myös ne niin nyt oli olla on ovat sen se"
        " tai vain voi"
    ),
    "fr": _split(
        "au aux avec ce ces cette comme dans de des du elle en est et il ils je la le les leur lui"
        " mais ne nous on ou par pas plus pour qu que qui sa sans se ses son sont sur un une vous"
    ),
    "it": _split(
        "al alla anche che chi come con da dei del della delle di e gli ha i il in io la le lo ma"
        " nel nella non per questo se si sono sua suo sul tra un una"
    ),
    "nl": _split(
        "aan al als bij dat de den der die dit door een en er haar heeft het hij hij ik in is maar"
        " met naar niet nog of om onder ook op over te tot uit van voor was werd wordt ze zich zij"
        " zijn"
    ),
    "no": _split(
        "at av ble de den der det du en er et for fra han har hun ikke jeg med og om som seg til"
        " var ved vi"
    ),
    "pt": _split(
        "ao as com como da das de do dos e ela ele em entre era foi mais mas na nas no nos o os ou"
        " para pela pelo por quando que se sem seu sua um uma"
    ),
    "sv": _split(
        "att av de den det du en ett har hon han i inte jag kan med men och om som till var vi vid"
    ),
}
"""The most frequent words of ASCII in western languages."""
LOANWORDS = _split(
    "cyclopædia cyclopædias formulæ minutiæ personæ tempêtes tempête vitæ abbé abbés adiós alençon"
    " algæ alumnæ ampère antennæ anæmia anæmic anæsthetic appliqué archæological archæologist"
    " archæology arrière arête attaché belle-mère besançon blasé bohème boëtes boötes brontë"
    " brontës brûlée bâton béarnaise béchamel bête bœuf café café-chantant cafés canapé carrière"
    " cañon cañons charité chloë château châteaux chère citroën cliché clichés cloisonné communiqué"
    " compiègne confrère confrères congé consommé cortège coöperate coöperation crèche crème"
    " création crêpe crêpes crœsus curaçao curaçoa cæsar cæsarean cæsars cœur d'état diarrhœa"
    " divorcée doppelgänger doña dæmon dæmons débris début débutante débutantes déclassé"
    " décolletage décolleté décor dégagé déjeuner déjà dénouement dépôt déshabillé détente détour"
    " dürer encyclopædia encyclopædic entrepôt entrée entrées españa español exposé façade façades"
    " faïence fenêtre fiancé fiancée fiancées fiancés flambé français française françois françoise"
    " frappé frère frères fæces fête fêted fêtes führer fœtal fœtus garçon garçons genève glacé"
    " gruyère grâce gynæcology général gênes göttingen habitué habitués hors-d'œuvre hors-d'œuvres"
    " hæmoglobin hæmorrhage hérault hôtel hôtels idée ingénue israël jalapeño jardinière jörg köln"
    " københavn kümmel larvæ liège lumière lumières lèse lübeck macédoine malmö manœuvre manœuvred"
    " manœuvres manœuvring marché matinée matinées maître maîtresse mañana mediæval melée molière"
    " moët märchen mère mélange ménage mésalliance métier métro mêlée müller münchen mœurs naïf"
    " naïve naïvely naïveness naïvety naïveté nebulæ niño noël née négligé nîmes nürnberg nœud"
    " orléans outré palæolithic palæontology papier-mâché parvenü peña phœbe phœbus phœnician"
    " phœnicians phœnix phœnixes pied-à-terre pièce pièces piñata piñatas première preëminent"
    " primæval procès protégé protégée protégées protégés provençal provençale précis prétexte"
    " purée pâté pæan pæans père pères quæstor québec química raisonné retroussé reëlected risqué"
    " roué roués réchauffé rédaction régime régimes répertoire résumé résumés rôle rôles sauté"
    " saône señor señora señoras señores señorita señoritas siècle smörgåsbord soirée soirées"
    " soufflé soufflés soupçon subpœna sèvres séance séances thé théâtre touché tromsø très tête"
    " tête-à-tête vicuña vis-à-vis voilà zoë zoölogical zoölogy zürich à ångström århus ægean ægis"
    " æneas æneid æolian æon æons æsculapius æsop æsthete æsthetic æsthetics æther æthereal éclair"
    " éclat élan élite élysée élysées émigré émigrés époque étude études über œconomy œcumenical"
    " œdipus œsophagus œuvre œuvres"
)
"""Words with letters beyond ASCII in English prose."""
COMMON_WORDS = {
    "de": _split(
        "für über können könnte müssen würde wäre hätte möchte während natürlich später größe"
        " größer große großen schön früher gehört häuser straße heißt weiß daß muß frühling länder"
        " männer zurück fünf zwölf tür öffnen"
    ),
    "es": _split(
        "él más está están también después así sí qué cómo cuándo dónde aquí allí según había día"
        " días sólo niño niña niños señor señora mañana año años español corazón razón habló quién"
        " cuál aún además todavía jamás"
    ),
    "fr": _split(
        "à â été être était étaient même très après déjà où là voilà école élève père mère frère"
        " première dernière côté près ça français française après-midi aussitôt bientôt tête fête"
        " forêt hôtel supérieur supérieure général générale société république état États théâtre"
        " café thé clé année siècle lumière manière"
    ),
    "it": _split(
        "è perché più già così città può però sarà c'è ciò là lì giù né sì università libertà"
        " verità metà"
    ),
    "pt": _split(
        "é não são está também você vocês até há já só mãe pão então avó avô três português estação"
        " água após além país através história ninguém alguém coração razão irmão irmã lá aí às à"
    ),
}
"""Words with letters beyond ASCII that every text in a language has."""


def find_script(character: str) -> str:
    """Returns the script of a letter, such as "LATIN" or "GREEK"; "" for those not listed."""
    if character < "\x80":
        return "LATIN" if character.isalpha() else ""
    if not character.isalpha() or character in "ªºµ":
        return ""
    name = unicodedata.name(character, "").partition(" ")[0]
    return name if name in ("LATIN", "CYRILLIC", "GREEK", "HEBREW", "ARABIC", "THAI") else ""
