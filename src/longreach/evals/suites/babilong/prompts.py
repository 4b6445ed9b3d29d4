"""What BABILong says around its contexts, task by task.

The wording is that of booydar/babilong (Apache-2.0), slips included: scores hang on it.
"""

from typing import NamedTuple


class TaskPrompt(NamedTuple):
    """What a task says before the context."""

    instruction: str
    examples: str
    post_prompt: str


_CARRIED = (
    "You need to answer the question based only on the information from the facts.\n"
    "If a person got an item in the first location and travelled to the second location "
    "the item is also in the second location. "
    "If a person dropped an item in the first location and moved to the second location "
    "the item remains in the first location."
)
_GIVE_CONTEXT = (
    "I give you context with the facts about locations and actions of different persons "
)


def _example(facts: str, answer: str) -> str:
    return f"<example>\n{facts}\nAnswer: {answer}\n</example>"


PROMPTS = {
    "qa1": TaskPrompt(
        "I will give you context with the facts about positions of different persons hidden in some"
        " random text and a question. You need to answer the question based only on the information"
        " from the facts. If a person was in different locations, use the latest location to answer"
        " the question.",
        _example(
            "Charlie went to the hallway. Judith come back to the kitchen. Charlie travelled to"
            " balcony. Where is Charlie?",
            "The most recent location of Charlie is balcony.",
        )
        + "\n\n"
        + _example(
            "Alan moved to the garage. Charlie went to the beach. Alan went to the shop. Rouse "
            "travelled to balcony. Where is Alan?",
            "The most recent location of Alan is shop.",
        ),
        "Always return your answer in the following format: "
        "The most recent location of ’person’ is ’location’. Do not write anything else after"
        " that.",
    ),
    "qa2": TaskPrompt(
        f"{_GIVE_CONTEXT}hidden in some random text and a question.{_CARRIED}",
        _example(
            "Charlie went to the kitchen. Charlie got a bottle. Charlie moved to the balcony. Where"
            " is the bottle?",
            "The bottle is in the balcony.",
        )
        + "\n"
        + _example(
            "Alan moved to the garage. Alan got a screw driver. Alan moved to the kitchen. Where is"
            " the screw driver?",
            "The screw driver is in the kitchen.",
        ),
        "Always return your answer in the following format: The ’item’ is in ’location’. "
        "Do not write anything else after that.",
    ),
    "qa3": TaskPrompt(
        f"{_GIVE_CONTEXT}hidden in some random text and a question. {_CARRIED}",
        _example(
            "John journeyed to the bedroom. Mary grabbed the apple. Mary went back to the bathroom."
            " Daniel journeyed to the bedroom. Daniel moved to the garden. Mary travelled to the"
            " kitchen. Where was the apple before the kitchen?",
            "Before the kitchen the apple was in the bathroom.",
        )
        + "\n"
        + _example(
            "John went back to the bedroom. John went back to the garden. John went back to the"
            " kitchen. Sandra took the football. Sandra travelled to the garden. Sandra journeyed"
            " to the bedroom. Where was the football before the bedroom?",
            "Before the bedroom the football was in the garden.",
        ),
        "Always return your answer in the following format: Before the $location_1$ the $item$ was"
        " in the $location_2$. Do not write anything else after that.",
    ),
    "qa4": TaskPrompt(
        "I will give you context with the facts about different people, their location and actions,"
        " hidden in some random text and a question. You need to answer the question based only on"
        " the information from the facts.",
        _example(
            "The hallway is south of the kitchen. The bedroom is north of the kitchen. What is the"
            " kitchen south of?",
            "bedroom",
        )
        + "\n"
        + _example(
            "The garden is west of the bedroom. The bedroom is west of the kitchen. What is west of"
            " the bedroom?",
            "garden",
        ),
        "Your answer should contain only one word - location. Do not write anything else after"
        " that.",
    ),
    "qa5": TaskPrompt(
        "I will give you context with the facts about locations and their relations hidden in some"
        " random text and a question. You need to answer the question based only on the information"
        " from the facts.",
        _example(
            "Mary picked up the apple there. Mary gave the apple to Fred. Mary moved to the"
            " bedroom. Bill took the milk there. Who did Mary give the apple to?",
            "Fred",
        )
        + "\n"
        + _example(
            "Jeff took the football there. Jeff passed the football to Fred. Jeff got the milk"
            " there. Bill travelled to the bedroom. Who gave the football?",
            "Jeff",
        )
        + "\n"
        + _example(
            "Fred picked up the apple there. Fred handed the apple to Bill. Bill journeyed to the"
            " bedroom. Jeff went back to the garden. What did Fred give to Bill?",
            "apple",
        ),
        "Your answer should contain only one word. Do not write anything else after that. Do not"
        " explain your answer.",
    ),
}
