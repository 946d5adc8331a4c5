"""What ProbTree asks: chat turns with worked examples, which are our own and in no data set. What all attempts of a
kind have in common comes first, so that its KV is shared."""

from __future__ import annotations

from reason.tasks.prompts import Prompt, Worked

__all__ = ["CHILD", "CLOSED", "DECOMPOSE", "OPEN"]

_ENDING = (
    'Explain in one or two sentences, then end with "So the answer is:" and the answer, in as few words as possible.'
)

CLOSED = Prompt(
    template="Question: {problem}\n" + _ENDING,
    worked=(
        Worked(
            "Who was the mother of the author of Frankenstein?",
            "The author of Frankenstein is Mary Shelley. The mother of Mary Shelley was Mary Wollstonecraft. "
            "So the answer is: Mary Wollstonecraft.",
        ),
        Worked(
            "Which was finished first, the Eiffel Tower or the Empire State Building?",
            "The Eiffel Tower was finished in 1889. The Empire State Building was finished in 1931. "
            "So the answer is: the Eiffel Tower.",
        ),
        Worked(
            "In which country was Marie Curie born?",
            "Marie Curie was born in Warsaw, which is in Poland. So the answer is: Poland.",
        ),
    ),
)
"""From what the model knows."""

OPEN = Prompt(
    template="{problem}\nIf the passages do not tell, the answer is Unknown. " + _ENDING,
    worked=(
        Worked(
            "[1] Oda Lind: Oda Lind is a Norwegian potter who was born in Tromsø.\n\n"
            "[2] Tromsø: Tromsø is a city in Northern Norway, with a cable car up Storsteinen.\n\n"
            "Question: Which mountain does a cable car go up in the town where Oda Lind was born?",
            "Oda Lind was born in Tromsø. The cable car in Tromsø goes up Storsteinen. So the answer is: Storsteinen.",
        ),
        Worked(
            "[1] Salt Road: Salt Road is a film of 1969 by the director Lena Orlow.\n\n"
            "[2] Brenn: Brenn is a village on the river Ola, in the district of Hest.\n\n"
            "Question: Who composed the music of Salt Road?",
            "The passages tell the director of Salt Road, but not its composer. So the answer is: Unknown.",
        ),
        Worked(
            "[1] The Glass Orchard: The Glass Orchard is a film of 1974, directed by Ivo Maran.\n\n"
            "[2] Salt Road: Salt Road is a film of 1969 by the director Lena Orlow.\n\n"
            "Question: Who directed Salt Road?",
            "Salt Road is a film by the director Lena Orlow. So the answer is: Lena Orlow.",
        ),
    ),
)
"""From passages; the problem is the passages and the question."""

CHILD = Prompt(
    template="{problem}\n" + _ENDING,
    worked=(
        Worked(
            "Where was Oda Lind born? Tromsø\n"
            "Which mountain does a cable car go up in Tromsø? Storsteinen\n\n"
            "Question: Which mountain does a cable car go up in the town where Oda Lind was born?",
            "Oda Lind was born in Tromsø. The cable car in Tromsø goes up Storsteinen. So the answer is: Storsteinen.",
        ),
        Worked(
            "When did The Glass Orchard come out? 1974\n"
            "When did Salt Road come out? 1969\n\n"
            "Question: Which film came out first, The Glass Orchard or Salt Road?",
            "The Glass Orchard came out in 1974. Salt Road came out in 1969, which is earlier. "
            "So the answer is: Salt Road.",
        ),
    ),
)
"""From the answers of a question's parts; the problem is a line for each, and the question."""

DECOMPOSE = Prompt(
    template=(
        "Question: {problem}\n"
        "Take the question apart into the simple questions that lead to its answer. Write one JSON object: each "
        "question that has parts, with the list of its parts. Each part is a whole question that names what it is "
        "about; #1 in it stands for the answer of the first part of the same list, #2 for that of the second. A simple "
        "question has the empty list."
    ),
    worked=(
        Worked("Who directed The Glass Orchard?", '{"Who directed The Glass Orchard?": []}'),
        Worked(
            "Which mountain does a cable car go up in the town where Oda Lind was born?",
            '{"Which mountain does a cable car go up in the town where Oda Lind was born?": '
            '["Where was Oda Lind born?", "Which mountain does a cable car go up in #1?"]}',
        ),
        Worked(
            "Which film came out first, The Glass Orchard or Salt Road?",
            '{"Which film came out first, The Glass Orchard or Salt Road?": '
            '["When did The Glass Orchard come out?", "When did Salt Road come out?"]}',
        ),
        Worked(
            "Which river flows through the birthplace of the director of Salt Road?",
            '{"Which river flows through the birthplace of the director of Salt Road?": '
            '["What is the birthplace of the director of Salt Road?", "Which river flows through #1?"], '
            '"What is the birthplace of the director of Salt Road?": '
            '["Who is the director of Salt Road?", "Where was #1 born?"]}',
        ),
    ),
)
"""The tree of questions."""
