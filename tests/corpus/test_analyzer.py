"""What is the same word to a reader is the same term, in any script."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longreach.corpus.search.analyzer import cut_passages, cut_question, fold, has_content


def terms(text):
    return cut_passages([text])[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("café", "cafe\u0301"),
        ("Ångström", "A\u030angstro\u0308m"),
        ("final offer", "ﬁnal oﬀer"),
        ("ABC 123", "ＡＢＣ　１２３"),
        ("contract", "con\u00adtract"),  # soft hyphen
        ("contract", "con\u200btract"),  # zero-width space
        ("contract", "\ufeffcon\u2060tract\u200d"),
        ("é", "e\u034f\u0301"),  # a grapheme joiner keeps an accent apart from its letter
        ("heart ❤", "heart ❤\ufe0f"),
        ("Straße", "STRASSE"),
        ("Straße", "STRAẞE"),
        ("σοφός", "ΣΟΦΌΣ"),  # final sigma
        ("İstanbul", "istanbul"),
        ("ısparta", "ISPARTA"),  # dotless i
        ("ﾊﾞｽ停", "バス停"),  # half-width katakana
        ("한국어", unicodedata.normalize("NFD", "한국어")),
        ("می\u200cخواهم", "میخواهم"),
        ("x²", "x2"),
        ("Ⅳ", "iv"),
        ("㈱", "(株)"),
        ("ſelf", "self"),
        ("ŉ", "ʼn"),
    ],
)
def test_the_same_word_is_the_same_term(one, other):
    assert terms(one) == terms(other) != []
    assert cut_question(one) == cut_question(other) != []


def test_different_words_stay_different():
    for one, other in [("cafe", "café"), ("schon", "schön"), ("ха", "xa"), ("が", "か"), ("1", "11")]:
        assert terms(one) != terms(other)


def test_scripts_without_spaces_are_cut_into_pairs():
    assert cut_question("租金是多少？") == ["租金", "金是", "是多", "多少"]
    assert terms("租金") == ["租", "金", "租金"]
    assert cut_question("임대료는 얼마") == ["임대", "대료", "료는", "얼마"]
    assert cut_question("アイスー") == ["アイ", "イス", "スー"]
    for text in ("ราคาเท่าไร", "ລາຄາເທົ່າໃດ", "តម្លៃប៉ុន្មាន", "ဈေးဘယ်လောက်လဲ", "ㄅㄆㄇ"):
        assert set(cut_question(text)) <= set(terms(text)) and {len(term) for term in cut_question(text)} == {2}


@pytest.mark.parametrize("question", ["租", "金", "집", "ア", "々", "ก"])
def test_a_single_character_is_looked_for(question):
    assert cut_question(question) == [question]
    assert question in terms(f"合同规定租金。{question}{question}합니다 アイス กขค 佐々木 집에서")


def test_a_single_ideogram_among_kana_is_a_word():
    assert cut_question("猫は好き？") == ["猫", "好", "猫は", "は好", "好き"]
    assert "猫" in terms("黒い猫が庭にいる")


def test_mixed_scripts_are_cut_where_they_change():
    assert cut_question("iPhone手机多少钱") == [cut_question("iPhone")[0], "手机", "机多", "多少", "少钱"]
    assert cut_question("第3条 COVID-19感染症") == ["第", "3", "条", "covid", "19", "感染", "染症"]
    assert cut_question("Tシャツ") == ["t", "シャ", "ャツ"]


def test_words_with_spaces_stay_whole_with_their_marks():
    assert terms("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert terms("سَلَام") == ["سَلَام"]
    assert len(terms("max_batch_size Привет мир")) == 3
    assert terms("Section 7 B") == ["section", "7", "b"]


def test_stop_words_are_left_out_unless_asked_for():
    assert terms("The end of the lease") == terms("END LEASE") == ["end", "leas"]
    assert cut_question("to be or not to be") == []
    assert cut_question("to be or not to be", stop_words=True) == ["to", "be", "or", "not", "to", "be"]
    assert cut_passages(["The end", ""], stop_words=True) == [["the", "end"], []]
    assert cut_question("?! 🙂") == []


@pytest.mark.parametrize(
    "question", ["How is it?", "WHO are they, and what about you?", "to be or not to be", "?!", ""]
)
def test_a_question_may_name_nothing(question):
    assert not has_content(question)


@pytest.mark.parametrize("question", ["How is the weather?", "whales", "租金是多少？", "Wer ist es?"])
def test_a_question_may_name_something(question):
    assert has_content(question)


@given(st.text(max_size=60))
def test_folding_is_done_once_and_for_all(text):
    once = fold(text)
    assert fold(once) == once == fold(unicodedata.normalize("NFD", once)) and "\u00ad" not in once
    for form in ("NFC", "NFD"):
        assert fold(unicodedata.normalize(form, text)) == once


@given(st.text(max_size=60))
def test_a_text_is_found_by_itself(text):
    assert set(cut_question(text, stop_words=True)) <= set(cut_passages([text], stop_words=True)[0])
