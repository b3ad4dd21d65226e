"""A small generated language: short stories with facts about people, and questions whose answers stand in the story.

Every sentence of a story is either a fact (what somebody has, likes, keeps, does, where they live) or filler (weather and
small events). An answer repeats the fact it asks for, so answering is recall over the distance that the filler puts between.

    python stories.py [SEED [COUNT]]          prints COUNT documents (3), an empty line after each

models/tiny/heldout.txt is `python stories.py 20261123 60`, a seed that training did not draw from.
"""

import random
import sys

NAMES = (
    "Anna Ben Clara David Ella Finn Grace Henry Iris Jack Kate Leo Mia Noah Olive Paul Rosa Sam Tara Victor Wendy Zoe Omar"
    " Lucy Hugo Nina"
).split()
COLOURS = "red blue green yellow white black brown pink grey purple orange golden silver".split()
THINGS = (
    "kite ball boat hat lamp drum bell box cup coat book key ring rope cart clock basket mirror flute stone"
).split()
PLACES = [
    "the village",
    "the harbour",
    "a small farm",
    "the old tower",
    "the forest",
    "the mill",
    "a house by the river",
    "the city",
    "the hills",
    "the valley",
    "a tent on the beach",
    "the castle",
]
FOODS = "bread apples cheese soup honey plums rice fish cakes pears nuts milk".split()
ANIMALS = "dog cat horse goat duck fox owl mouse rabbit pony crow hen".split()
JOBS = "baker sailor teacher farmer painter singer doctor miller tailor gardener".split()
WEATHER = [
    "The sun was warm.",
    "It rained all morning.",
    "A cold wind came from the sea.",
    "Snow fell in the night.",
    "The sky was clear.",
    "Fog lay over the fields.",
    "The day was long and quiet.",
]
EVENTS = [
    "{n} walked along the road and sang a song.",
    "{n} sat under a tree and looked at the clouds.",
    "{n} woke up early and opened the window.",
    "{n} went to the market with {m}.",
    "{n} and {m} talked for a long time.",
    "{n} told {m} an old story.",
    "{n} helped {m} carry the wood home.",
    "{n} laughed, and {m} laughed too.",
    "{n} lost the way, but {m} found it again.",
    "{n} waited for {m} near the gate.",
    "In the evening {n} lit a fire.",
    "{n} wrote a letter to {m}.",
    "After lunch {n} slept for an hour.",
    "{n} ran down the hill as fast as the wind.",
    "{n} asked {m} to stay for supper.",
]
OPENINGS = ["Once upon a time. ", "A story. ", ""]


def article(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def fact(r, name, kind):
    """One sentence about `name`, and a question that it answers."""
    if kind == "thing":
        colour, thing = r.choice(COLOURS), r.choice(THINGS)
        questions = [f"What does {name} have?", f"What colour is the {thing} of {name}?"]
        return f"{name} has {article(colour)} {thing}.", r.choice(questions)
    if kind == "place":
        return f"{name} lives in {r.choice(PLACES)}.", f"Where does {name} live?"
    if kind == "food":
        return f"{name} likes {r.choice(FOODS)}.", f"What does {name} like?"
    if kind == "animal":
        animal, animal_name = r.choice(ANIMALS), r.choice(NAMES)
        return f"{name} keeps {article(animal)} named {animal_name}.", f"What does {name} keep?"
    return f"{name} is {article(r.choice(JOBS))}.", f"What is the work of {name}?"


def full_story(r, filler=None, people=(2, 5), facts=(1, 3)):
    """A story as (text, every question that has one answer in it, with the answer).

    It has `filler` filler sentences (1 to 6 if None), and the ranges say how many people it has and facts about each.
    """
    names = r.sample(NAMES, r.randint(*people))
    sentences, questions = [], []
    for name in names:
        for kind in r.sample(["thing", "place", "food", "animal", "job"], r.randint(*facts)):
            sentence, question = fact(r, name, kind)
            sentences.append(sentence)
            questions.append((question, sentence[:-1]))
    for _ in range(r.randint(1, 6) if filler is None else filler):
        n, m = r.sample(names, 2) if r.random() < 0.7 else r.sample(NAMES, 2)
        sentences.append(r.choice(WEATHER) if r.random() < 0.3 else r.choice(EVENTS).format(n=n, m=m))
    r.shuffle(sentences)
    sentences = list(dict.fromkeys(sentences))
    answers = {}
    for question, answer in questions:
        answers.setdefault(question, set()).add(answer)
    questions = [(question, answer) for question, answer in questions if len(answers[question]) == 1]
    return r.choice(OPENINGS) + " ".join(sentences), questions


def story(r, filler=None):
    """A story as (text, two to six of its questions with their answers)."""
    text, questions = full_story(r, filler)
    return text, r.sample(questions, min(len(questions), r.randint(2, 6)))


def ask(question):
    """The prompt after a story; the answer follows it as " answer."."""
    return f"\nQuestion: {question}\nAnswer:"


def document(r, filler=None):
    text, questions = story(r, filler)
    return text + "".join(f"{ask(question)} {answer}." for question, answer in questions) + "\n"


if __name__ == "__main__":
    generator = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 3):
        print(document(generator))
