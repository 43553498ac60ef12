"""Little stories for the demo model: seven plots, each a chain of sentences with interchangeable wording.

In        a seeded random.Random, and optionally what the reader asked for.
Out       one story as text, paragraphs separated by a blank line.
Not here  the prompts that ask for stories (demo_data.py).
"""

from demo_words import FRIENDS, HERO_NAMES

TRAITS = "little brave curious gentle clever shy cheerful kind sleepy tiny".split()
HOMES = ["at the edge of a quiet forest", "beside a slow green river", "in a small house on a hill",
         "near an old stone bridge", "in a valley full of flowers", "not far from the sea", "under a tall oak tree",
         "at the end of a long road"]
THINGS = "lantern, kite, drum, red scarf, silver key, map, bell, whistle, blue hat, music box".split(", ")
FOODS = ["apples", "berries", "nuts", "honey cakes", "warm bread", "carrots", "plums"]
SKILLS = ["swim", "sing", "dance", "whistle", "climb", "paint", "skate", "bake"]
GOALS = ["the top of the mountain", "the sea", "the old lighthouse", "the hidden lake", "the end of the rainbow",
         "the big city"]
LESSONS = {"lost": "Good friends find more than lost things.", "storm": "Courage is being afraid and helping anyway.",
           "learn": "Nobody learns a new thing in one day.", "gift": "The best presents are made with care.",
           "journey": "Every long road begins with one small step.", "night": "Many things look smaller in the light.",
           "share": "What you share comes back to you."}
SKILL_PLACES = {"swim": "the pond", "sing": "the meadow", "dance": "the barn", "whistle": "the garden gate",
                "climb": "the old pear tree", "paint": "the white wall", "skate": "the frozen lake", "bake": "the kitchen"}


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


class Cast:
    """Who and what a story is about; fixed before the first sentence."""

    def __init__(self, rng, hero, friend=None, skill=None):
        self.hero, self.friend = hero, friend or rng.choice([f for f in FRIENDS if f != hero])
        self.name, self.friend_name = rng.sample(HERO_NAMES, 2)
        self.trait = rng.choice(TRAITS)
        self.he, self.his, self.him = rng.choice([("he", "his", "him"), ("she", "her", "her")])
        self.thing, self.food, self.goal = rng.choice(THINGS), rng.choice(FOODS), rng.choice(GOALS)
        self.skill = skill or rng.choice(SKILLS)
        self.home = rng.choice(HOMES)


def opening(rng, c):
    start = rng.choice(["Once upon a time", "Long ago", "Once upon a time"])
    return f"{start}, a {c.trait} {c.hero} named {c.name} lived {c.home}."


def plot_lost(rng, c):
    places = rng.sample(["under the bed", "behind the barn", "in the tall grass", "by the well", "along the path",
                         "between the stones"], 2)
    found = rng.choice(["in a nest high above the ground", "under a pile of leaves", "inside an empty log"])
    return [
        f"{c.name} owned {article(c.thing)} and loved it more than anything. One {rng.choice(['morning', 'evening'])} "
        f"it was gone.",
        f"{c.name} looked {places[0]}. Nothing. Then {c.he} looked {places[1]}. Nothing again.",
        rng.choice([f"\"Why are you so sad?\" asked {article(c.friend)} named {c.friend_name}.",
                    f"Just then {article(c.friend)} named {c.friend_name} came by. \"What is wrong?\""]),
        f"\"I have lost my {c.thing},\" said {c.name}. \"Then we will look together,\" said {c.friend_name}.",
        f"They searched until the sun was low, and at last they found the {c.thing} {found}.",
        f"{c.name} laughed and hugged {c.friend_name}. From that day on they were friends.",
    ], "lost"


def plot_storm(rng, c):
    tool = rng.choice(["a long rope", "a strong branch", "an old ladder"])
    trouble = rng.choice(["was stuck in the mud", "was caught between two rocks", "had fallen into a deep hole"])
    return [
        f"One night a great storm came. The wind {rng.choice(['howled', 'roared', 'sang'])} and the rain fell for hours.",
        f"In the dark {c.name} heard a small voice. \"Help! Please help me!\"",
        f"It was {article(c.friend)} named {c.friend_name}, who {trouble}.",
        f"{c.name} was afraid, but {c.he} took {tool} and ran out into the rain.",
        f"{c.he.capitalize()} pulled once. {c.he.capitalize()} pulled twice. The third time, {c.friend_name} was free.",
        f"\"Thank you,\" said {c.friend_name}. They sat by the fire and drank {rng.choice(['warm milk', 'hot soup', 'sweet tea'])} "
        f"until the storm was over.",
    ], "storm"


def plot_learn(rng, c):
    return [
        f"{c.name} had one big wish: {c.he} wanted to learn to {c.skill}.",
        f"Every day {c.he} went to {SKILL_PLACES[c.skill]} and tried. It never went well.",
        rng.choice([f"The others laughed. \"{article(c.hero).capitalize()} who can {c.skill}? Never!\"",
                    f"\"Maybe it is not for me,\" {c.he} said, and sat down with a sigh."]),
        f"Then an old {c.friend} named {c.friend_name} came along. \"Do it slowly,\" said {c.friend_name}. "
        f"\"First one small part, then the next.\"",
        f"So {c.name} tried again, {rng.choice(['slowly', 'carefully', 'step by step'])}, on the first day, the second day and the third day.",
        f"On the {rng.choice(['fourth', 'fifth', 'seventh'])} day it worked! {c.name} could {c.skill}, and everyone came to see it.",
    ], "learn"


def plot_gift(rng, c):
    made = rng.choice(["necklace of shells", "little wooden chair", "small clay bowl", "cake with " + c.food, "soft blanket"])
    return [
        f"Tomorrow was the birthday of {c.friend_name} the {c.friend}, and {c.name} had no present.",
        f"{c.he.capitalize()} had no money, only {rng.choice(['two hands', 'a bag of odds and ends', 'a whole afternoon'])} and a good idea.",
        f"All {rng.choice(['evening', 'night', 'afternoon'])} {c.name} worked, and in the end {c.he} had made a {made}.",
        f"At the party there were many big presents. {c.name} felt {rng.choice(['small', 'shy', 'worried'])}.",
        f"But when {c.friend_name} saw the {made}, the {c.friend} smiled from ear to ear. \"You made this for me?\"",
        f"They {rng.choice(['danced', 'laughed', 'sang'])} until the moon was high.",
    ], "gift"


def plot_journey(rng, c):
    obstacle = rng.choice(["a wide river", "a dark wood", "a high wall", "a field of thorns"])
    return [
        f"{c.name} had heard of {c.goal} and wanted to see it.",
        f"So {c.he} packed some {c.food}, {article(c.thing)} and a blanket, and set out at sunrise.",
        f"Soon {c.he} came to {obstacle}. \"I can not go on,\" thought {c.name}.",
        f"But there sat {article(c.friend)} named {c.friend_name}. \"I know the way,\" said the {c.friend}. "
        f"\"Give me some {c.food}, and I will show you.\"",
        f"They walked for {rng.choice(['two', 'three', 'four'])} days, told each other jokes and slept under the stars.",
        f"When they reached {c.goal}, it was even more beautiful than {c.name} had dreamed.",
    ], "journey"


def plot_night(rng, c):
    noise = rng.choice(["tap, tap, tap", "hoo, hoo, hoo", "scratch, scratch, scratch"])
    return [
        f"{c.name} was not afraid of much, but {c.he} was afraid of the dark.",
        f"One night there was a noise at the {rng.choice(['window', 'door'])}: {noise}.",
        f"{c.name} pulled the blanket over {c.his} head. The noise came again: {noise}.",
        f"At last {c.he} took {c.his} {rng.choice(['lantern', 'candle'])}, counted to three and looked.",
        f"There stood a very small {c.friend}. \"I am {c.friend_name},\" it said. \"I can not sleep. It is so dark.\"",
        f"{c.name} had to laugh. \"Come in,\" {c.he} said. \"We will be brave together.\"",
    ], "night"


def plot_share(rng, c):
    return [
        f"One autumn day {c.name} found a whole basket of {c.food}. \"All for me!\" {c.he} thought.",
        f"On the way home {c.he} met {article(c.friend)} named {c.friend_name}, who had eaten nothing all day.",
        f"{c.name} looked at the basket and then at the {c.friend}. {rng.choice(['It was not easy', 'It took a while'])}, "
        f"but {c.he} said, \"Take half of it.\"",
        f"The winter was long and cold. Soon {c.name} had no more {c.food}.",
        f"Then there was a knock at the door. It was {c.friend_name} with a pot of {rng.choice(['hot soup', 'porridge', 'stew'])}. "
        f"\"You shared with me,\" said the {c.friend}. \"Now I share with you.\"",
        f"They ate together, and the cold night felt warm.",
    ], "share"


PLOTS = [plot_lost, plot_storm, plot_learn, plot_gift, plot_journey, plot_night, plot_share]


def story(rng, hero, friend=None, skill=None):
    """One story of about 130 words. `skill` selects the plot about learning it."""
    c = Cast(rng, hero, friend, skill)
    sentences, lesson = (plot_learn if skill else rng.choice(PLOTS))(rng, c)
    body = opening(rng, c) + " " + sentences[0] + "\n\n" + " ".join(sentences[1:4]) + "\n\n" + " ".join(sentences[4:])
    return body + " " + rng.choice([LESSONS[lesson], LESSONS[lesson], "The end."])
