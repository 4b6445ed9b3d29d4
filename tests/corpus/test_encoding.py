import contextlib
import random

import pytest

from longreach.corpus.documents.encodings.decode import decode_html, decode_text
from longreach.errors import DocumentError


def page(label, text, after=""):
    return f'<html><head><meta charset="{label}">{after}</head><body><p>{text}</p></body></html>'


# --- undeclared: exact or refused -------------------------------------------------------------------------------------

SENTENCES = {
    "Az első szerződő fél a bérlő.": ["cp1250", "iso8859-2", "cp852"],
    "Árvíztűrő tükörfúrógép, mondta az öreg a hídon.": ["cp1250", "iso8859-2", "mac_latin2"],
    "Toplantı yarın sabah yapılacak.": ["cp1254", "iso8859-9", "cp857", "mac_turkish"],
    "Yılın kapısı açıldı ve çocuklar şarkı söyledi, güneş doğdu.": ["cp1254", "iso8859-9"],
    "Zażółć gęślą jaźń, powiedział król do swojej żony.": ["cp1250", "iso8859-2", "cp852"],
    "Příliš žluťoučký kůň úpěl ďábelské ódy.": ["cp1250", "iso8859-2", "cp852"],
    "Nájomca je povinný zaplatiť nájomné vopred.": ["cp1250", "iso8859-2"],
    "Najemnik mora plačati najemnino do petega v mesecu, če ni dogovorjeno drugače.": ["cp1250", "iso8859-2"],
    "Zakupnik mora platiti najamninu do petog u mjesecu, osim ako je drukčije određeno.": ["cp1250"],
    "Chiriașul plătește chiria în fiecare lună, până la data de cinci.": ["iso8859-16"],
    "Qiramarrësi duhet të paguajë qiranë çdo muaj.": ["cp1250", "cp1252"],
    "Nuomininkas privalo mokėti nuomos mokestį kiekvieną mėnesį.": ["cp1257", "iso8859-13"],
    "Īrniekam jāmaksā īres maksa katru mēnesi.": ["cp1257", "iso8859-4"],
    "Üürnik peab üüri maksma iga kuu viiendaks päevaks.": ["cp1257", "iso8859-15", "cp1252"],
    "Leigjandinn skal greiða leiguna fyrir fimmta dag hvers mánaðar.": ["cp1252", "mac_iceland"],
    "Le locataire doit régler le loyer avant le cinq; à défaut, le bail cesse.": ["cp1252", "mac_roman", "cp850"],
    "Der Mieter trägt die Kosten für kleinere Schäden.": ["cp1252", "mac_roman", "cp437"],
    "El señor alquiló la habitación durante un año.": ["cp1252", "mac_roman", "cp850"],
    "O locatário não poderá sublocar o imóvel sem autorização.": ["cp1252", "mac_roman", "cp860"],
    "La luanto devas pagi ĉiun monaton ĝis la kvina.": ["iso8859-3"],
    "Người thuê phải trả tiền hằng tháng.": ["cp1258"],
    "Арендатор обязан платить аренду каждый месяц.": ["cp1251", "koi8_r", "iso8859-5", "cp866", "mac_cyrillic"],
    "Орендар зобов'язаний сплачувати щомісяця.": ["cp1251", "koi8_u", "cp1125"],
    "Ο ενοικιαστής πληρώνει το ενοίκιο κάθε μήνα.": ["cp1253", "iso8859-7", "cp737"],
    "השוכר ישלם את דמי השכירות מדי חודש.": ["cp1255", "cp862"],
    "يدفع المستأجر الإيجار كل شهر.": ["cp1256", "iso8859-6", "cp720"],
    "ผู้เช่าต้องชำระค่าเช่าทุกเดือน": ["cp874"],
    "借主は毎月家賃を支払う。": ["cp932", "euc_jp"],
    "임차인은 매월 임대료를 지급한다.": ["cp949", "johab"],
    "承租人每月支付租金。": ["gb18030", "big5hkscs"],
    "The tenant pays the rent.": ["cp037", "cp500"],
    "Dvořák and Mucha met Čapek in the café.": ["cp1250", "iso8859-2"],
    "The naïve visitor liked Łódź.": ["cp1250"],
    "Il va … à Nîmes, voilà.": ["cp850", "cp437", "mac_roman"],
    "č. 5 a č. 6": ["cp1250"],
}
CASES = [(text, encoding) for text, encodings in SENTENCES.items() for encoding in encodings]


@pytest.mark.parametrize("times", [1, 40])
@pytest.mark.parametrize(("text", "encoding"), CASES)
def test_undeclared_text_is_read_exactly_or_refused(text, encoding, times):
    text = (text + "\r\n") * times
    raw = text.encode(encoding, "ignore")
    try:
        read = decode_text(raw, "t.txt")
    except DocumentError as error:
        assert "iconv" in str(error)
    else:
        assert read == raw.decode(encoding)


LONGER = [
    (
        "Az első szerződő fél a bérlő. A bérleti szerződés egy évre szól, és írásban kell megkötni. A bérlő köteles a "
        "bérleti díjat minden hónap ötödik napjáig megfizetni; a késedelem esetére kamat jár.",
        ["cp1250", "iso8859-2"],
    ),
    (
        "Toplantı yarın sabah yapılacak. Kiracı, kira bedelini her ayın beşinci gününe kadar ödemekle yükümlüdür. "
        "Sözleşmenin süresi bir yıldır ve yazılı olarak uzatılabilir.",
        ["cp1254", "iso8859-9"],
    ),
    (
        "Najemca jest zobowiązany płacić czynsz do piątego dnia każdego miesiąca. Umowa zostaje zawarta na czas "
        "określony jednego roku i może być przedłużona na piśmie.",
        ["cp1250", "iso8859-2"],
    ),
    (
        "Nájemce je povinen platit nájemné do pátého dne každého měsíce. Smlouva se uzavírá na dobu jednoho roku a "
        "může být prodloužena písemně, pokud se strany dohodnou.",
        ["cp1250", "iso8859-2"],
    ),
    ("Арендатор обязан платить аренду каждый месяц. Договор заключён на один год.", ["cp1251", "koi8_r", "cp866"]),
    ("Ο ενοικιαστής πληρώνει το ενοίκιο κάθε μήνα. Η σύμβαση ισχύει για ένα έτος.", ["cp1253", "iso8859-7"]),
    ("השוכר ישלם את דמי השכירות מדי חודש. החוזה תקף לשנה אחת בלבד.", ["cp1255"]),
    (
        "Le locataire doit régler le loyer avant le cinq; à défaut, le bail cesse. L'été dernier, il a été décidé que "
        "le dépôt de garantie serait restitué.",
        ["cp1252"],
    ),
    ("The price was £5 – “a bargain”, he said… It’s in § 7 of the naïve résumé.", ["cp1252"]),
    ("借主は毎月家賃を支払う。契約の期間は一年とし、書面により更新することができる。", ["cp932", "euc_jp"]),
]


@pytest.mark.parametrize(("text", "encoding"), [(text, encoding) for text, codecs in LONGER for encoding in codecs])
def test_a_few_sentences_prove_their_encoding(text, encoding):
    assert decode_text(text.encode(encoding), "t.txt") == text
    html = f"<p class=x>{text}</p>"
    assert decode_html(html.encode(encoding), "t.html") == html


# Plain words and typographic signs prove these, with a few words from elsewhere.
WESTERN = [
    (
        "“It’s not that I don’t like it,” she said – and laughed. “But they’re all at the café with Chloë, and that’s "
        "where I’d be, too, for £5…”",
        ["cp1252", "cp1254", "mac_roman"],
    ),
    (
        "The façade of the Français was grey; Hélène Mercœur of Sacré-Cœur and her frère were naïve enough to "
        "believe in the señor. They had been there with Thérèse.",
        ["cp1252", "iso8859-15", "mac_roman", "cp1254"],
    ),
    (
        "The crème brûlée of the château and the pâté were what the garçon had for us. That was all.",
        ["cp1252", "mac_roman", "cp850", "cp437"],
    ),
    (
        "„Wir müssen die Bäume im Garten fällen“, sagte er – aber nicht in diesem Jahr. „Das ist schön für dich, und "
        "die Nachbarn hören es nicht gern.“",
        ["cp1252", "cp1250", "cp1254", "mac_roman"],
    ),
    (
        "L’élève n’était pas là : « C’est à lui que le maître l’a demandé », dit-elle. Il est allé à la forêt avec sa "
        "sœur et le frère de Hélène, où les chênes étaient très vieux.",
        ["cp1252", "mac_roman", "iso8859-15"],
    ),
    (
        "¿Qué es lo que pasó? No lo sé, señor: la mañana era fría y el niño se fue con su hermano. ¡Así es la vida!",
        ["cp1252", "mac_roman", "cp850", "iso8859-15"],
    ),
    (
        "Hon sade att det är för sent, och han gick över ån till de små husen där den gamle mannen bor med sin son. "
        "”Jag kommer i kväll”, sade han.",
        ["cp1252", "mac_roman"],
    ),
]


@pytest.mark.parametrize(("text", "encoding"), [(text, encoding) for text, codecs in WESTERN for encoding in codecs])
def test_western_prose_is_read(text, encoding):
    raw = text.encode(encoding, "ignore")
    assert decode_text(raw, "t.txt") == raw.decode(encoding)


@pytest.mark.parametrize(
    ("text", "encodings"),
    [
        # Only the names differ, and none is known: è or č, æ or ć.
        ("The house of the Lefèvres was at the end of the road, and they had it from their uncle.", ["cp1252"]),
        ("The house of the Mlčochs was at the end of the road, and they had it from their uncle.", ["cp1250"]),
        ("“That’s the letter of Ćosić,” he said, “and it’s not for you.”", ["cp1250"]),
        ("“Reykjavík’s Þóra was there,” he said, “and it’s not for you.”", ["cp1252"]),
        ("“Istanbul’s Doğan was there,” he said, “and it’s not for you.”", ["cp1254"]),
        ("The letters “ą”, “ę” and “ł” of the Polish alphabet are in all of their names.", ["cp1250", "cp1257"]),
        ("The letters ą, ę and ł of the Polish alphabet are in all of their names.", ["cp1250", "iso8859-2"]),
        ("The word “быть” is what they all had in their books, and it’s not easy.", ["cp1251", "mac_cyrillic"]),
        ("The word λόγος is what they all had in their books, and the words πόλις and λόγος.", ["cp1253"]),
        ("The word 東京 is what they all had in their books, and the name of 大阪.", ["cp932", "gb18030", "euc_jp"]),
        ("It is … as they say … the best of all, and so on …", ["cp1252", "mac_roman"]),
        ("It is à la mode, they say, and the best of all; voilà: the end of it.", ["cp850", "cp437"]),
        ("The Æsop of the school was with us – that was all, and the rest of it.", ["cp850", "cp1252"]),
        ("The agreement of the parties (umowa została zawarta, a strony są zgodne) is in the book.", ["cp1250"]),
    ],
)
def test_names_and_words_that_encodings_read_in_different_ways_are_exact_or_refused(text, encodings):
    for encoding in encodings:
        for times in (1, 30):
            raw = "\n".join([text] * times).encode(encoding, "ignore")
            with contextlib.suppress(DocumentError):
                assert decode_text(raw, "t.txt") == raw.decode(encoding), encoding


def test_one_known_word_decides_for_the_names_beside_it():
    text = "The tête-à-tête with Lefèvre and Mlle. Gèze was in the garden, and it was what they had all said."
    assert decode_text(text.encode("cp1252"), "t.txt") == text


def test_words_of_a_hostile_text_are_judged_in_linear_time():
    prose = b"the end of the road and the house of the man was in it "
    for raw in (b"a" * 100_000 + b"\xe9", b"\x93" * 100_000, b"\xe9a" * 50_000, b"a\x93b " * 50_000):
        with contextlib.suppress(DocumentError):
            decode_text(prose * 2000 + raw, "t.txt")


def test_a_rare_character_that_two_encodings_read_in_two_ways_is_no_guess():
    text = "Le locataire doit régler le loyer; à défaut, le bail cesse. Il a été décidé. " * 5
    for rare in ("5 ½ tasses", "un cœur, une œuvre", "100 ¤"):
        for encoding in ("cp1252", "iso8859-15"):
            raw = (text + rare).encode(encoding, "ignore")
            with contextlib.suppress(DocumentError):
                assert decode_text(raw, "t.txt") == raw.decode(encoding)


# --- bytes of ASCII that are no ASCII ---------------------------------------------------------------------------------

JAPANESE = "賃貸契約書、第１条。ｱﾊﾟｰﾄ ABC"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("賃貸契約書".encode("iso2022_jp"), "賃貸契約書"),
        (JAPANESE.encode("iso2022_jp_ext"), JAPANESE),
        (b"\x1b$B-!-j\x1b(B 1\r\n", "①㈱ 1\r\n"),
        (b"\x1b(J\\~\x1b(B\\~", "¥‾\\~"),
        ("임대차 계약서".encode("iso2022_kr"), "임대차 계약서"),
        ("承租人支付租金。".encode("hz"), "承租人支付租金。"),
        ("Toplantı yarın sabah yapılacak.".encode("utf-7"), "Toplantı yarın sabah yapılacak."),
    ],
)
def test_seven_bit_encodings_are_decoded_in_text(raw, text):
    assert raw.isascii() and decode_text(raw, "t.txt") == text


@pytest.mark.parametrize(
    "raw",
    [
        b"\x1b$BDBB_7@Ls\x1b(B caf\xe9",
        b"\x1b$BDBB_7\x1b(B",
        b"\x1b$A<:\x1b(B",
        b"\x1b$)A\x0e<:\x0f",
        b"\x1b$B\x01\x02\x1b(B",
    ],
)
def test_broken_or_unknown_escapes_are_refused(raw):
    with pytest.raises(DocumentError, match="iconv"):
        decode_text(raw, "t.txt")


@pytest.mark.parametrize(
    "text",
    [
        "C++ a+b-c, +49-30-1234, 1+1-2, +100-200, x+y",
        "A+ANY-one",
        "caf+AOk-",
        "name~{x}, $~{a~}, ~{ab~}, a ~~ b, ~}",
        "\x1b[31mred\x1b[0m \x1b(B\x1b[m done",
        "echo -e '\x1b]0;title\x07'",
        "+++ b/file.py\n--- a/file.py\n@@ -1,5 +1,7 @@",
        "https://a.b/c?q=one+two+three-four+five-six",
    ],
)
def test_plain_text_stays_as_it_is(text):
    assert decode_text(text.encode(), "t.txt") == text


def test_random_text_of_ascii_stays_as_it_is():
    for seed in range(300):
        source = random.Random(seed)
        text = "".join(source.choices("ab +-~{}AB10/\n", k=200))
        assert decode_text(text.encode(), "t.txt") == text, seed


# --- declared ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "text", "codec"),
    [
        ("iso-8859-9", "Toplantı “yarın” – €5", "cp1254"),
        ("latin5", "Toplantı “yarın”", "cp1254"),
        ("iso-8859-1", "“Größe” – €5", "cp1252"),
        ("us-ascii", "“Größe”", "cp1252"),
        ("gb2312", "镕, 瞭, 囧", "gbk"),
        ("x-gbk", "镕", "gbk"),
        ("gbk", "㐀", "gb18030"),
        ("shift_jis", "①㈱髙﨑", "cp932"),
        ("x-sjis", "～−".replace("−", "－"), "cp932"),
        ("euc-kr", "똠방각하", "cp949"),
        ("ks_c_5601-1987", "펲", "cp949"),
        ("big5", "啫喱, 嘅", "big5hkscs"),
        ("tis-620", "“ภาษาไทย”…", "cp874"),
        ("iso-8859-11", "“ภาษา”", "cp874"),
        ("windows-1250", "Az első szerződő fél a bérlő.", "cp1250"),
        ("ISO-8859-2", "Az első szerződő fél a bérlő.", "iso8859-2"),
        ("koi8-r", "Договор", "koi8_r"),
        ("csisolatincyrillic", "Договор", "iso8859-5"),
        ("macintosh", "Größe “1”", "mac_roman"),
        ("euc-jp", "賃貸契約書", "euc_jp"),
        ("x-user-defined", "Größe", "cp1252"),
        (" Windows-1252 ", "Größe", "cp1252"),
        ("cp437", "Größe ½", "cp437"),
        ("iso-2022-jp", "賃貸契約書", "iso2022_jp"),
        ("utf-7", "Größe", "utf-7"),
        ("hz-gb-2312", "租金", "hz"),
        ("iso-2022-kr", "계약", "iso2022_kr"),
    ],
)
def test_labels_mean_what_the_standard_says(label, text, codec):
    html = page(label, text)
    assert decode_html(html.encode(codec), "a.html") == html


def test_euc_jp_has_the_characters_in_use():
    html = page("euc-jp", "_")
    raw = html.encode().replace(b"_", b"\xad\xa1\xad\xea\x8e\xb1\xa1\xc1")
    assert decode_html(raw, "a.html") == page("euc-jp", "①㈱ｱ～")


@pytest.mark.parametrize("label", ["utf-16", "utf-16le", "UTF-16BE", "utf8", "unicode-1-1-utf-8"])
def test_a_page_that_could_be_read_up_to_its_label_is_not_utf_16(label):
    html = page(label, "Größe 日本")
    assert decode_html(html.encode(), "a.html") == html


@pytest.mark.parametrize("label", ["iso-2022-cn", "replacement", "iso-2022-jp", "hz-gb-2312"])
def test_what_is_declared_and_cannot_be_read_is_refused(label):
    with pytest.raises(DocumentError, match=f"says that it is in {label}.*iconv"):
        decode_html(page(label, "\x1b$B~{\x0e~").encode(), "a.html")


def test_where_a_label_counts():
    turkish = "Toplantı yarın"
    for head in (
        "<meta http-equiv=Content-Type content='text/html; charset=iso-8859-9'>",
        "<META CHARSET=iso-8859-9>",
        "<!-- <meta charset=utf-8> --><meta charset='iso-8859-9'>",
        "<title>x</title>" + "<link rel=x>" * 500 + "<meta charset=iso-8859-9>",
        "<?xml version='1.0' encoding='iso-8859-9'?><html>",
    ):
        html = f"{head}<p>{turkish}"
        assert decode_html(html.encode("cp1254"), "a.html") == html
    html = page("iso-8859-9", turkish)
    assert decode_html(b"\xef\xbb\xbf" + html.encode(), "a.html") == html
    assert decode_html(("\ufeff" + html).encode("utf-16"), "a.html").lstrip("\ufeff") == html
    # A wrong label on a page that is UTF-8 beyond doubt.
    assert decode_html(html.encode() + "ığüşöç".encode(), "a.html") == html + "ığüşöç"


@pytest.mark.parametrize(
    ("label", "raw"),
    [
        ("iso-8859-2", "„Umowa” o najem".encode("cp1250")),
        ("windows-1252", b"a\x81b"),
        ("shift_jis", b"\xff\xff"),
        ("gb2312", b"\xff\xff"),
        ("utf-8", b"caf\xe9 na\xefve"),
        ("no-such-label", b"caf\xe9 na\xefve"),
        ("unicode_escape", b"caf\xe9 \\u0041"),
        ("rot13", b"caf\xe9"),
        ("idna", b"caf\xe9"),
    ],
)
def test_a_wrong_label_is_found_out(label, raw):
    html = page(label, "_").encode().replace(b"_", raw)
    with pytest.raises(DocumentError, match="iconv"):
        decode_html(html, "a.html")


def test_hostile_pages_are_decoded_in_linear_time():
    for raw in (b"<meta " * 100_000, b"<!--" * 100_000, b"<" * 300_000, b"<a href='" * 50_000):
        assert decode_html(raw, "a.html") == raw.decode()
