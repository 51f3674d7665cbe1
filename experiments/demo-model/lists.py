# SPDX-License-Identifier: MIT
"""Word lists and sentence templates from which the five tasks are generated.

Every name, country, capital, verb form and answer here must become a single
token when a space precedes it; train.py checks that.
"""

NAMES = """
Mary John Alice Peter Emma David Laura Kevin Susan Brian Helen Frank Nina Oscar
Julia Martin Clara Simon Diana Walter Ruth Tom Grace Henry Olga Paul Irene Leo
Sarah Adam Karen Victor Lucy Felix Rosa Mark Anna Eric Eva George Sally Bruno
Jane Ralph Molly Hugo Vera Ivan
""".split()

PLACES = """
store park school market library station garden museum beach office cafe hotel
farm harbor theater hospital
""".split()

OBJECTS = """
drink book ball ring key letter map coin flower bag hat pen lamp cup gift
basket
""".split()

IOI_TEMPLATES = [
    "When {a} and {b} went to the {place}, {s} gave a {object} to",
    "After {a} and {b} met at the {place}, {s} handed a {object} to",
    "While {a} and {b} worked at the {place}, {s} brought a {object} to",
    "Then {a} and {b} walked to the {place}, and {s} offered a {object} to",
    "Once {a} and {b} came back from the {place}, {s} sold a {object} to",
    "Yesterday {a} and {b} stopped at the {place}, and {s} passed a {object} to",
]

EVENTS = """
war siege strike drought voyage project reign trial dispute campaign famine
survey truce study
""".split()

CENTURIES = [11, 12, 13, 14, 15, 16, 17, 18]

SPAN_TEMPLATES = [
    "The {event} lasted from the year {century}{year} to the year {century}",
    "The {event} went on from the year {century}{year} to the year {century}",
    "The long {event} ran from the year {century}{year} to the year {century}",
]

# (singular, plural)
SUBJECTS = [
    ("key", "keys"), ("dog", "dogs"), ("child", "children"), ("teacher", "teachers"),
    ("boat", "boats"), ("farmer", "farmers"), ("man", "men"), ("woman", "women"),
    ("painter", "painters"), ("horse", "horses"), ("mouse", "mice"), ("lion", "lions"),
    ("pilot", "pilots"), ("singer", "singers"), ("box", "boxes"), ("nurse", "nurses"),
    ("bird", "birds"), ("guest", "guests"), ("wolf", "wolves"), ("baker", "bakers"),
]

ATTRACTORS = [
    ("cabinet", "cabinets"), ("tree", "trees"), ("wall", "walls"), ("car", "cars"),
    ("house", "houses"), ("bridge", "bridges"), ("window", "windows"), ("fence", "fences"),
    ("table", "tables"), ("tower", "towers"), ("gate", "gates"), ("tent", "tents"),
    ("statue", "statues"), ("truck", "trucks"), ("rock", "rocks"), ("chair", "chairs"),
]

PREPOSITIONS = "near behind beside under by above".split()

# opening of the sentence -> (singular verb, plural verb, endings)
VERBS = {
    "Today": ("is", "are", ["quiet", "dirty", "safe"]),
    "Yesterday": ("was", "were", ["quiet", "dirty", "safe"]),
    "Lately": ("has", "have", ["changed", "moved"]),
    "Often": ("looks", "look", ["old", "sad", "small"]),
    "Sometimes": ("seems", "seem", ["old", "sad", "small"]),
    "Soon": ("gets", "get", ["wet", "cold"]),
    "Always": ("stays", "stay", ["here", "there"]),
    "Now": ("needs", "need", ["help", "care"]),
}

CAPITALS = {
    "France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Germany": "Berlin",
    "Austria": "Vienna", "Poland": "Warsaw", "Portugal": "Lisbon", "Greece": "Athens",
    "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Ireland": "Dublin",
    "Denmark": "Copenhagen", "Belgium": "Brussels", "Hungary": "Budapest",
    "Romania": "Bucharest", "Bulgaria": "Sofia", "Croatia": "Zagreb", "Serbia": "Belgrade",
    "Ukraine": "Kyiv", "Russia": "Moscow", "Turkey": "Ankara", "Egypt": "Cairo",
    "Kenya": "Nairobi", "Ghana": "Accra", "Nigeria": "Abuja", "Morocco": "Rabat",
    "Japan": "Tokyo", "China": "Beijing", "Thailand": "Bangkok", "Vietnam": "Hanoi",
    "Nepal": "Kathmandu", "Iran": "Tehran", "Iraq": "Baghdad", "Cuba": "Havana",
    "Peru": "Lima", "Chile": "Santiago", "Canada": "Ottawa", "Australia": "Canberra",
    "Lebanon": "Beirut",
}

CAPITAL_TEMPLATES = [
    "The capital of {country} is",
    "The capital city of {country} is",
    "In {country} the capital is",
    "The government of {country} works in",
    "The ministers of {country} meet in",
    "The visitors left {country} from its capital,",
    "They drove across {country} to its capital,",
    "Every map of {country} marks its capital,",
    "A tour of {country} begins in",
    "The embassy in {country} was opened in",
    "If you visit {country}, see its capital,",
    "The largest offices of the state of {country} are in",
]

PRICE_TEMPLATE = (
    "Say yes if the cost is between {low} and {high} dollars, otherwise no. "
    "Cost: {cost} dollars. Answer:"
)
