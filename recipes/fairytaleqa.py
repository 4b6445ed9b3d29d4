"""FairytaleQA (Apache-2.0, github.com/uci-soe/FairytaleQAData) in the forms that `longreach` reads.

    python recipes/fairytaleqa.py FOLDER OUT

FOLDER holds section-stories/ and questions/, each with train/ and val/. OUT gets, for each of the
two:
    <split>/stories/<story>.txt     to ingest
    <split>/questions.jsonl         to study and to be measured on: {"document", "question",
    "answers"} <split>/texts.jsonl             to pretrain on: {"text", "questions"}; consecutive
    sections of at most --words
                                    words with the questions about them, and the same with half as
                                    many
    <split>/whole.jsonl             the same of whole stories, once for every eight questions
"""

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def asked(row: dict[str, str]) -> tuple[set[int], dict[str, object]]:
    """The sections that a question is about, counted from 1, and the question with its answers."""
    answers = [row.get(f"answer{n}", "").strip() for n in range(1, 7)]
    sections = {int(number) for number in row["cor_section"].split(",")}
    return sections, {
        "question": row["question"].strip(),
        "answers": [answer for answer in answers if answer],
    }


def windows(sections: list[str], words: int) -> Iterator[range]:
    """Consecutive sections, none twice, of at most so many words together; a longer one alone."""
    start, held = 1, 0
    for number, text in enumerate(sections, 1):
        length = len(text.split())
        if held and held + length > words:
            yield range(start, number)
            start, held = number, 0
        held += length
    yield range(start, len(sections) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--words", type=int, default=360)
    given = parser.parse_args()
    for split in ("train", "val"):
        out = given.out / split
        (out / "stories").mkdir(parents=True, exist_ok=True)
        questions, texts, whole = (
            list[dict[str, object]](),
            list[dict[str, object]](),
            list[dict[str, object]](),
        )
        for path in sorted((given.folder / "section-stories" / split).glob("*-story.csv")):
            story = path.name.removesuffix("-story.csv")
            sections = [" ".join(row["text"].split()) for row in rows(path)]
            known = [
                asked(row)
                for row in rows(given.folder / "questions" / split / f"{story}-questions.csv")
            ]
            (out / "stories" / f"{story}.txt").write_text(
                "\n\n".join(sections) + "\n", encoding="utf-8"
            )
            questions += [{"document": f"{story}.txt"} | question for _, question in known]
            every = [question for _, question in known]
            whole += [
                {"text": "\n\n".join(sections), "questions": every[i : i + 8]}
                for i in range(0, len(every), 8)
            ]
            for span in (
                span
                for words in (given.words, given.words // 2)
                for span in windows(sections, words)
            ):
                inside = [question for of, question in known if of <= set(span)]
                texts.append(
                    {"text": "\n\n".join(sections[n - 1] for n in span), "questions": inside}
                )
        for name, lines in (("questions", questions), ("texts", texts), ("whole", whole)):
            with (out / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        print(f"{split}: {len(questions)} questions, {len(texts)} texts")


if __name__ == "__main__":
    main()
