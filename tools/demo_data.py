"""Training text and held-out prompts of the demo model.

In        a seeded random.Random.
Out       turns (task, user text, model text), whole conversations, and plain documents.
Split     a turn of a measured task (sums, sequences, JSON) has a key; one key in twelve, chosen by hash, is held out
          and never appears in training.
Not here  tokens (demo_tokenizer.py); the story texts (demo_stories.py).
"""

import hashlib
import json
from dataclasses import dataclass

import demo_words as words
from demo_stories import SKILLS, article, story

MEASURED = ("json", "sequence", "sum")


@dataclass
class Turn:
    task: str
    user: str
    model: str


def held_out(task, key):
    return int.from_bytes(hashlib.sha256(f"{task}:{key}".encode()).digest()[:4], "big") % 12 == 0


# ------------------------------------------------------------------------------------------------------ measured tasks


def sum_turn(rng, want_held_out=False):
    """Two-digit sums. The answer adds tens and ones first, which a small model learns from few examples."""
    while True:
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        if held_out("sum", (min(a, b), max(a, b))) == want_held_out:  # both orders on the same side
            break
    ask = rng.choice(["What is {} + {}?", "{} + {}", "{} + {} =", "Add {} and {}.", "How much is {} plus {}?",
                      "Calculate {} + {}.", "What is {} plus {}?", "{}+{}=", "{} plus {}"])
    ones = a % 10 + b % 10
    return Turn("sum", ask.format(a, b), f"{a} + {b} = {a + b - ones} + {ones} = {a + b}")


def sequence_turn(rng, want_held_out=False):
    """Even steps up or down. The answer first repeats the last two numbers and finds the step between them."""
    while True:
        step, start = rng.randint(1, 10), rng.randint(0, 60)
        up = rng.random() < 0.7
        first = start if up else start + 7 * step
        if held_out("sequence", (first, step, up)) == want_held_out:
            break
    given = rng.choice([3, 4, 4, 5])
    sign = 1 if up else -1
    terms = [first + sign * step * i for i in range(given + 3)]
    shown, after = (", ".join(map(str, part)) for part in (terms[:given], terms[given:]))
    ask = rng.choice(["Continue the sequence: {}", "Continue: {}", "What comes next? {}", "What comes next: {}?",
                      "Which numbers come next? {}, ...", "Continue this sequence: {}, ...", "Next numbers: {}"])
    return Turn("sequence", ask.format(shown), f"From {terms[given - 2]} to {terms[given - 1]} it goes "
                f"{'up' if up else 'down'} by {step}, so next come {after}.")


def invented(rng):
    return "".join(rng.choice(words.SYLLABLES) for _ in range(rng.choice([2, 2, 3]))).capitalize()


def pick(rng, known, share_invented=0.25):
    return invented(rng) if rng.random() < share_invented else rng.choice(known)


def person(rng):
    r = {"name": pick(rng, words.NAMES), "age": rng.randint(5, 95), "city": pick(rng, words.CITIES), "job": rng.choice(words.JOBS)}
    n, a, c, j = r.values()
    return r, [f"{n} is {a} years old and lives in {c}. ~ works as {article(j)}.",
               f"{n}, {a}, is {article(j)} from {c}.", f"My friend {n} lives in {c}, is {a} and works as {article(j)}.",
               f"In {c} there is {article(j)} called {n}, who is {a} years old.",
               f"Hello, my name is {n}. I am {a}, I live in {c} and I am {article(j)}.",
               f"{article(j).capitalize()} named {n} ({a}) moved to {c}."]


def order(rng):
    r = {"item": rng.choice(words.ITEMS), "quantity": rng.randint(2, 99), "price": rng.randint(2, 99),
         "customer": pick(rng, words.NAMES)}
    i, q, p, c = r.values()
    return r, [f"{c} ordered {q} {i} for {p} euros.", f"{q} {i} were sold to {c} at a price of {p} euros.",
               f"Please send {q} {i} to {c}. The price is {p} euros.", f"{c} bought {q} {i} and paid {p} euros.",
               f"Order from {c}: {q} {i}, {p} euros."]


def event(rng):
    r = {"event": rng.choice(words.EVENTS), "day": rng.choice(words.DAYS), "hour": rng.randint(1, 12),
         "place": rng.choice(words.PLACES)}
    e, d, h, p = r.values()
    return r, [f"The {e} is on {d} at {h} o'clock in the {p}.", f"On {d} at {h} there is {article(e)} at the {p}.",
               f"Come to the {p} on {d}, the {e} starts at {h}.", f"Do not forget the {e} at the {p}, {d} at {h} o'clock.",
               f"We meet at the {p} for the {e}, {d}, {h} o'clock."]


def pet(rng):
    r = {"name": pick(rng, words.PET_NAMES), "animal": rng.choice(words.PETS), "color": rng.choice(words.COLORS),
         "owner": pick(rng, words.NAMES)}
    n, a, c, o = r.values()
    return r, [f"{o} has {article(c)} {a} called {n}.", f"{n} is {article(c)} {a} and belongs to {o}.",
               f"The {c} {a} of {o} is named {n}.", f"{o} lost {article(c)} {a}. It listens to the name {n}."]


def json_turn(rng, want_held_out=False):
    while True:
        record, texts = rng.choice([person, person, order, event, pet])(rng)
        if held_out("json", tuple(record.values())) == want_held_out:
            break
    text = rng.choice(texts).replace("~", rng.choice(["He", "She"]))
    wanted = rng.sample(list(record), rng.choice([2, 3, 3, 4]))
    answer = json.dumps({key: record[key] for key in wanted})
    listed = ", ".join(wanted[:-1]) + " and " + wanted[-1]
    ask = rng.choice(["Extract {} as JSON: {}", "Extract {} as JSON: {}", "Extract {} as JSON.\n{}",
                      "Return {} as JSON: {}", "Give me {} as JSON: {}"])
    return Turn("json", ask.format(listed, text), answer)


# --------------------------------------------------------------------------------------------------------- other tasks


def story_turn(rng):
    hero = rng.choice(words.HEROES)
    kind = rng.random()
    if kind < 0.12:
        ask, text = rng.choice(["Tell me a story.", "Write a short story.", "Tell me a bedtime story."]), story(rng, hero)
    elif kind < 0.67:
        ask = rng.choice(["Tell me a story about {}.", "Write a story about {}.", "Tell me a short story about {}.",
                          "A story about {}, please.", "Can you tell me a story about {}?"]).format(article(hero))
        text = story(rng, hero)
    elif kind < 0.85:
        friend = rng.choice([f for f in words.FRIENDS if f != hero])
        ask = rng.choice(["Tell me a story about {} and {}.", "Write a story about {} and {}."]).format(
            article(hero), article(friend))
        text = story(rng, hero, friend=friend)
    else:
        skill = rng.choice(SKILLS)
        ask = rng.choice(["Tell me a story about {} who learns to {}.", "Write a story about {} who wants to {}."]).format(
            article(hero), skill)
        text = story(rng, hero, skill=skill)
    return Turn("story", ask, text)


ABILITIES = ["tell little stories", "add numbers", "continue number sequences", "turn a sentence into JSON",
             "write tiny Python functions", "spell words", "name opposites"]


def abilities(rng):
    a, b, c = rng.sample(ABILITIES, 3)
    return f"{a}, {b} or {c}"


def greeting_turn(rng):
    time = rng.choice(["morning", "afternoon", "evening"])
    kind = rng.randrange(8)
    if kind < 3:
        ask = rng.choice(["Hello!", "Hi!", "Hello", "Hi", "Hey", "Hello there!", "Hi there!", "Hey there!", f"Good {time}!"])
        start = f"Good {time}!" if "Good" in ask else rng.choice(["Hello!", "Hello!", "Hi there!"])
        answer = f"{start} I am the Tandem demo model. I can {abilities(rng)}. What would you like?"
    elif kind == 3:
        ask = rng.choice(["Who are you?", "What are you?", "What is your name?", "Tell me about yourself."])
        answer = ("I am the Tandem demo model, a very small language model that was trained on two processor cores. "
                  + rng.choice(["I know little, but I am quick.", f"I can {abilities(rng)}."]))
    elif kind == 4:
        ask = rng.choice(["What can you do?", "What can I ask you?", "Help", "How can you help me?"])
        answer = f"I can {abilities(rng)}. " + rng.choice(
            ["Try: Tell me a story about a fox.", "Try: What is 27 + 15?", "Try: Continue the sequence: 4, 8, 12, 16"])
    elif kind == 5:
        ask = rng.choice(["How are you?", "How are you today?", f"Good {time}, how are you?", "How do you do?"])
        answer = rng.choice(["I am well, thank you! What can I do for you?",
                             "Very well, thank you for asking! Shall I tell you a story?"])
    elif kind == 6:
        ask = rng.choice(["Thank you!", "Thanks!", "Thanks a lot!", "Great, thank you.", "Well done!"])
        answer = rng.choice(["You are welcome!", "You are welcome! Is there anything else?", "My pleasure!"])
    else:
        ask = rng.choice(["Goodbye!", "Bye!", "Good night!", "See you!", "See you tomorrow!"])
        answer = rng.choice(["Goodbye! Come back soon.", "See you soon! It was nice talking to you.", "Goodbye and take care!"])
    return Turn("greeting", ask, answer)


FUNCTIONS = [
    ("adds two numbers", "add(a, b)", "return a + b"), ("subtracts two numbers", "subtract(a, b)", "return a - b"),
    ("multiplies two numbers", "multiply(a, b)", "return a * b"), ("squares a number", "square(x)", "return x * x"),
    ("doubles a number", "double(x)", "return 2 * x"), ("checks if a number is even", "is_even(n)", "return n % 2 == 0"),
    ("checks if a number is odd", "is_odd(n)", "return n % 2 == 1"),
    ("returns the larger of two numbers", "larger(a, b)", "return a if a > b else b"),
    ("returns the smaller of two numbers", "smaller(a, b)", "return a if a < b else b"),
    ("reverses a string", "reverse(text)", "return text[::-1]"),
    ("counts the words in a text", "count_words(text)", "return len(text.split())"),
    ("returns the last item of a list", "last(items)", "return items[-1]"),
    ("returns the first item of a list", "first(items)", "return items[0]"),
    ("sums a list", "total(items)", "result = 0\n    for item in items:\n        result += item\n    return result"),
    ("finds the largest item of a list", "largest(items)",
     "best = items[0]\n    for item in items:\n        if item > best:\n            best = item\n    return best"),
    ("computes the factorial of a number", "factorial(n)",
     "result = 1\n    for i in range(2, n + 1):\n        result *= i\n    return result"),
    ("greets a person", "greet(name)", "return \"Hello, \" + name + \"!\""),
]


def code_turn(rng):
    if rng.random() < 0.3:
        n, start = rng.randint(2, 40), rng.choice(["", "1, "])
        ask = rng.choice(["Write a Python loop that prints the numbers up to {}.", "Print the numbers up to {} in Python."])
        loop = f"for i in range({start}{n + 1}):\n    print(i)"
        return Turn("code", ask.format(n) + (" Start at 1." if start else ""), f"```python\n{loop}\n```")
    what, head, body = rng.choice(FUNCTIONS)
    ask = rng.choice(["Write a Python function that {}.", "Write a function that {}.", "Show me a Python function that {}."])
    return Turn("code", ask.format(what), f"```python\ndef {head}:\n    {body}\n```")


def fact_turn(rng):
    kind = rng.randrange(6)
    if kind == 0:
        word, other = rng.choice(list(words.OPPOSITES.items()))
        if rng.random() < 0.5:
            word, other = other, word
        return Turn("fact", rng.choice(["What is the opposite of {}?", "Opposite of {}?"]).format(word),
                    f"The opposite of {word} is {other}.")
    if kind == 1:
        country, city = rng.choice(list(words.CAPITALS.items()))
        return Turn("fact", f"What is the capital of {country}?", f"The capital of {country} is {city}.")
    if kind == 2:
        animal, sound = rng.choice(list(words.SOUNDS.items()))
        return Turn("fact", rng.choice([f"What does {article(animal)} say?", f"What sound does {article(animal)} make?"]),
                    f"{article(animal).capitalize()} says {sound}.")
    if kind == 3:
        group, members = rng.choice(list(words.GROUPS.items()))
        count, number = rng.choice([(2, "two"), (3, "three"), (4, "four"), (5, "five")])
        chosen = rng.sample(members, count)
        return Turn("fact", f"Name {number} {group}.", ", ".join(chosen[:-1]) + " and " + chosen[-1])
    if kind == 4:
        word = rng.choice(words.SPELL) if rng.random() < 0.6 else invented(rng).lower()
        return Turn("fact", rng.choice(["Spell {}.", "How do you spell {}?", "Spell the word {}."]).format(word),
                    " - ".join(word))
    first = rng.randint(0, 90)
    last = first + rng.randint(4, 10)
    return Turn("fact", rng.choice(["Count from {} to {}.", "Please count from {} to {}."]).format(first, last),
                ", ".join(map(str, range(first, last + 1))))


def small_sum_turn(rng):
    """Arithmetic that is not measured: one digit, differences, the multiplication table."""
    kind = rng.randrange(3)
    if kind == 0:
        a, b = rng.randint(0, 20), rng.randint(0, 9)
        text, value = f"{a} + {b}", a + b
    elif kind == 1:
        b, c = rng.randint(0, 49), rng.randint(0, 50)
        text, value = f"{b + c} - {b}", c
    else:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        text, value = f"{a} * {b}", a * b
    return Turn("arithmetic", rng.choice(["What is {}?", "{}", "{} =", "Calculate {}."]).format(text), f"{text} = {value}")


UNKNOWN = ["Who won the {} in {}?", "What is the weather in {c}?", "How do I repair my {i}?", "Explain {t} to me.",
           "Why is {t} important?", "What do you think about {t}?", "Translate {i} into French.", "Who invented {t}?",
           "What is the best {i} to buy?", "How far is it from {c} to {d}?", "What is {t}?", "When was {t} invented?"]
TOPICS = """physics, music, history, the moon, the internet, democracy, football, chess, electricity, money, time, love,
chemistry, philosophy, politics, gravity, art, the telephone""".replace("\n", " ").split(", ")


def unknown_turn(rng):
    ask = rng.choice(UNKNOWN)
    if ask.startswith("Who won"):
        ask = ask.format(rng.choice(["world cup", "race", "election", "match"]), rng.randint(1950, 2025))
    else:
        ask = ask.format(c=rng.choice(words.CITIES), d=rng.choice(words.CITIES), i=rng.choice(words.ITEMS),
                         t=rng.choice(TOPICS))
    return Turn("unknown", ask, rng.choice(["That is too hard for me", "I do not know that", "I have not learned that"])
                + f". I am only a small demo model. I can {abilities(rng)}.")


TURNS = [(0.15, sum_turn), (0.45, sequence_turn), (0.15, json_turn), (0.06, story_turn), (0.05, greeting_turn),
         (0.03, code_turn), (0.05, fact_turn), (0.04, small_sum_turn), (0.02, unknown_turn)]


def turn(rng):
    return rng.choices([make for _, make in TURNS], [share for share, _ in TURNS])[0](rng)


def loosen(rng, user):
    """The same request as people type it: sometimes polite, sometimes without capital or full stop."""
    if rng.random() < 0.08 and user.split()[0] in ("Tell", "Write", "Extract", "Add", "Continue", "Calculate", "Name", "Spell"):
        user = "Please " + user[0].lower() + user[1:]
    if rng.random() < 0.12 and "\n" not in user:
        user = user[0].lower() + user[1:]
    if rng.random() < 0.12 and user[-1] in ".!":
        user = user[:-1]
    return user


# ------------------------------------------------------------------------------------------------- whole training texts


STORY_WEIGHT = 0.5  # stories are long and partly chance; the other answers should not drown in them


def render(turns, system=None):
    """Pieces (text, weight in the loss): a conversation in the published chat format; only the model's words count."""
    pieces = [("<bos>" + (f"<|turn>system\n{system}<turn|>\n" if system else ""), 0.0)]
    for t in turns:
        weight = STORY_WEIGHT if t.task == "story" else 1.0
        pieces += [(f"<|turn>user\n{t.user}<turn|>\n<|turn>model\n", 0.0), (t.model + "<turn|>", weight), ("\n", 0.0)]
    return pieces


def prompt_text(user):
    return "".join(text for text, _ in render([Turn("", user, "")]))[:-len("<turn|>\n")]


SYSTEMS = ["You are a helpful assistant.", "Be brief.", "You are a friendly assistant.", "Answer the question.",
           "You are the Tandem demo model."]


def conversation(rng, turns):
    """A conversation of `turns` turns. Sometimes the user gives a name early and asks for it later."""
    made = []
    for _ in range(turns):
        t = turn(rng)
        made.append(Turn(t.task, loosen(rng, t.user), t.model))
    if turns > 2 and rng.random() < 0.4:
        name = pick(rng, words.NAMES)
        first = rng.randrange(turns - 1)
        made[first] = Turn("name", rng.choice(["My name is {}.", "Hi, my name is {}.", "Hello, I am {}.", "I am {}."]).format(name),
                           f"Nice to meet you, {name}! " + rng.choice(["What can I do for you?", "How can I help you?"]))
        for later in rng.sample(range(first + 1, turns), min(2, turns - first - 1)):
            made[later] = Turn("name", rng.choice(["What is my name?", "Do you remember my name?", "Who am I?"]),
                               f"Your name is {name}.")
    return render(made, rng.choice(SYSTEMS) if rng.random() < 0.1 else None)


def document(rng):
    """Text without a chat around it, for the completion interface."""
    kind = rng.randrange(4)
    if kind < 2:
        text = "\n\n".join(story(rng, rng.choice(words.HEROES)) for _ in range(2))
    elif kind == 2:
        first, step = rng.randint(0, 20), rng.randint(1, 12)
        text = ", ".join(str(first + step * i) for i in range(40))
    else:
        text = "\n\n\n".join(code_turn(rng).model[len("```python\n"):-len("\n```")] for _ in range(6))
    return [("<bos>", 0.0), (text + "<eos>", STORY_WEIGHT)]


def heldout_turns(rng, task, count):
    """`count` different prompts of a measured task that training never sees."""
    make = {"sum": sum_turn, "sequence": sequence_turn, "json": json_turn}[task]
    found = {}
    while len(found) < count:
        t = make(rng, want_held_out=True)
        found.setdefault(t.user, t)
    return list(found.values())
