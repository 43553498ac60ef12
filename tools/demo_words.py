"""Word lists of the demo model's training text.

Out       plain lists and dictionaries; no functions.
Not here  how they become prompts and answers (demo_data.py, demo_stories.py).
"""

NAMES = """Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Kate Liam Mia Noah Olga Paul Rosa Sam Tina Victor Wendy
Adam Bella Carlos Diana Eva Frank Gina Henry Iris Jack Karen Leo Maria Nina Oscar Peter Ruth Simon Tom Vera Walter Zoe
Alice Bruno Cora Daniel Elena Fred Grace Hannah Ivan Julia Kevin Laura Max Nora Otto Petra Robin Sara Theo Lucy Mark
Amir Chen Dalia Farid Hana Jamal Kenji Lina Mei Omar Priya Ravi Sofia Tariq Yuki Zara""".split()

CITIES = """Berlin Paris London Rome Madrid Vienna Zurich Oslo Prague Lisbon Dublin Athens Warsaw Basel Bern Munich Milan
Boston Chicago Denver Seattle Austin Dallas Toronto Ottawa Lima Quito Havana Cairo Tunis Nairobi Accra Lagos Delhi Mumbai
Tokyo Osaka Kyoto Seoul Beijing Hanoi Manila Jakarta Sydney Perth Geneva Hamburg Lyon Porto Turin""".split()

JOBS = """teacher doctor baker farmer pilot nurse painter writer singer lawyer cook gardener dentist driver engineer
plumber carpenter librarian musician chemist""".split()

ITEMS = """apples pears pencils books cups plates chairs lamps shirts socks candles boxes bottles spoons forks towels hats
coins stamps cards bricks keys ropes bags""".split()

COLORS = "red blue green yellow black white brown gray orange purple pink".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
EVENTS = "concert meeting party lesson dinner lunch workshop lecture picnic race match parade".split()
PLACES = "park library school museum castle station garden theater hotel office stadium market".split()
PETS = "cat dog rabbit hamster parrot turtle pony goat duck mouse".split()
PET_NAMES = "Bubbles Cookie Daisy Fluffy Ginger Lucky Milo Oreo Patch Rex Rusty Snowy Spot Tiger Whiskers Ziggy".split()

SYLLABLES = """ba be bi bo bu da de di do du ka ke ki ko ku la le li lo lu ma me mi mo mu na ne ni no nu ra re ri ro ru
sa se si so su ta te ti to tu va ve vi vo za ze zi zo dor fen gar hal jor kel lan mar nor pel quin ran sel tor vin wen
xan yor zel""".split()

OPPOSITES = {"hot": "cold", "big": "small", "fast": "slow", "up": "down", "left": "right", "day": "night", "old": "young",
             "happy": "sad", "open": "closed", "light": "dark", "high": "low", "full": "empty", "hard": "soft",
             "early": "late", "rich": "poor", "strong": "weak", "wet": "dry", "near": "far", "long": "short",
             "good": "bad", "loud": "quiet", "clean": "dirty", "thick": "thin", "first": "last"}

CAPITALS = {"France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Austria": "Vienna",
            "Switzerland": "Bern", "Norway": "Oslo", "Portugal": "Lisbon", "Ireland": "Dublin", "Greece": "Athens",
            "Poland": "Warsaw", "England": "London", "Japan": "Tokyo", "China": "Beijing", "Egypt": "Cairo",
            "Kenya": "Nairobi", "Canada": "Ottawa", "Peru": "Lima", "Cuba": "Havana", "Ghana": "Accra"}

SOUNDS = {"dog": "woof", "cat": "meow", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink", "owl": "hoot",
          "frog": "ribbit", "bee": "buzz", "mouse": "squeak", "lion": "roar", "snake": "hiss"}

GROUPS = {"fruits": "apple pear plum cherry peach banana lemon grape".split(),
          "animals": "fox bear owl rabbit horse whale mouse tiger".split(),
          "colors": "red blue green yellow orange purple white black".split(),
          "vegetables": "carrot onion potato pea bean cabbage tomato pepper".split(),
          "planets": "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split(),
          "tools": "hammer saw drill wrench ladder shovel file pliers".split()}

SPELL = """cat dog sun moon tree house river apple bread chair table water stone light green horse mouse cloud train
plant""".split()

# Stories: who may be asked for.
HEROES = """fox rabbit bear owl mouse cat dog hedgehog squirrel frog duck turtle lion tiger elephant monkey penguin whale
dolphin sheep pony bee ant snail wolf deer crow goose otter beaver badger kitten puppy dragon robot unicorn girl boy
princess prince knight wizard witch baker farmer sailor pirate giant fairy ghost gardener king queen painter
fisherman""".split()

HERO_NAMES = """Pip Lulu Benno Tilly Milo Nell Finn Poppy Toby Luna Rufus Hazel Oskar Ruby Bo Pearl Gus Fern Jasper
Minnie Kip Willow Barney Dot Monty Ivy""".split()
FRIENDS = "owl mouse frog turtle crow hedgehog duck rabbit squirrel bear beaver bee snail cat deer otter".split()
