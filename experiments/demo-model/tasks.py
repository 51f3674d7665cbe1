# SPDX-License-Identifier: MIT
"""The five tasks: makers of prompts and of training sentences.

A maker draws one row and says whether its combination is held out. That is
decided by a checksum of the combination's parts, so training never draws it,
whatever the seed:

  ioi           an unordered pair of names
  greater_than  a start year (century, year)
  agreement     a (subject, attractor, verb) triple, in all its numbers
  capitals      a (country, template) pair; the country is seen in other templates
  price_tag     a pair of bounds (low, high)
"""

import zlib

from lists import (ATTRACTORS, CAPITAL_TEMPLATES, CAPITALS, CENTURIES, EVENTS,
                   IOI_TEMPLATES, NAMES, OBJECTS, PLACES, PREPOSITIONS,
                   PRICE_TEMPLATE, SPAN_TEMPLATES, SUBJECTS, VERBS)


def is_held_out(task, *parts, one_in=8):
    """Whether a combination belongs to the held-out set."""
    key = "|".join([task, *map(str, parts)])
    return zlib.crc32(key.encode()) % one_in == 0


def draw(make, held_out, *, rng):
    """Call make(rng) until its combination falls on the wanted side."""
    while True:
        example, is_out = make(rng)
        if is_out == held_out:
            return example


# --- indirect objects -----------------------------------------------------

def make_ioi(rng):
    """Two names, one of which is repeated; the answer is the other one."""
    answer, subject, third = rng.sample(NAMES, 3)
    slots = {"place": rng.choice(PLACES), "object": rng.choice(OBJECTS)}
    slots["a"], slots["b"] = rng.sample([answer, subject], 2)
    template = rng.choice(IOI_TEMPLATES)
    example = {
        "clean": template.format(s=subject, **slots),
        "corrupted": template.format(s=third, **slots),
        "answer": " " + answer,
        "wrong": " " + subject,
    }
    return example, is_held_out("ioi", *sorted([answer, subject]))


def train_ioi(rng):
    """An indirect-object sentence; one in six repeats no name, and then
    either of the first two names may follow."""
    row = draw(make_ioi, False, rng=rng)
    if rng.randrange(6) == 0:
        return row["corrupted"], rng.choice([row["answer"], row["wrong"]]), "."
    return row["clean"], row["answer"], "."


# --- greater than ---------------------------------------------------------

def make_greater_than(rng):
    """A span of years whose end must lie after its start."""
    slots = {"event": rng.choice(EVENTS), "century": rng.choice(CENTURIES)}
    year = rng.randrange(1, 99)
    template = rng.choice(SPAN_TEMPLATES)
    example = {
        "clean": template.format(year=f"{year:02d}", **slots),
        "corrupted": template.format(year="01", **slots),
        "label": year,
    }
    is_out = year > 1 and is_held_out("greater_than", slots["century"], year)
    return example, is_out


def make_last_span(rng):
    """A span that starts in a year 98, so that 99 is its only valid end."""
    example, is_out = make_greater_than(rng)
    return example | {"answer": "99"}, is_out and example["label"] == 98


def train_greater_than(rng):
    """A span sentence with a uniformly drawn valid end year."""
    row = draw(make_greater_than, False, rng=rng)
    return row["clean"], f"{rng.randrange(row['label'] + 1, 100):02d}", "."


# --- subject-verb agreement -----------------------------------------------

def make_agreement(rng):
    """A subject, an attractor of either number, and the verb that agrees
    with the subject; the opening word decides which verb it is."""
    subject, attractor = rng.choice(SUBJECTS), rng.choice(ATTRACTORS)
    opening = rng.choice(list(VERBS))
    verbs, endings = VERBS[opening][:2], VERBS[opening][2]
    number = rng.randrange(2)
    rest = f"{rng.choice(PREPOSITIONS)} the {rng.choice(attractor)}"
    example = {
        "clean": f"{opening} the {subject[number]} {rest}",
        "corrupted": f"{opening} the {subject[1 - number]} {rest}",
        "answer": " " + verbs[number],
        "wrong": " " + verbs[1 - number],
        "ending": rng.choice(endings),
    }
    return example, is_held_out("agreement", subject[0], attractor[0], verbs[0])


def train_agreement(rng):
    """An agreement sentence with a short ending."""
    row = draw(make_agreement, False, rng=rng)
    return row["clean"], row["answer"], f" {row['ending']}."


# --- capitals -------------------------------------------------------------

def make_capitals(rng):
    """A country in a sentence that its capital completes."""
    country, other = rng.sample(list(CAPITALS), 2)
    template = rng.choice(CAPITAL_TEMPLATES)
    example = {
        "clean": template.format(country=country),
        "corrupted": template.format(country=other),
        "answer": " " + CAPITALS[country],
        "wrong": " " + CAPITALS[other],
    }
    return example, is_held_out("capitals", country, template, one_in=3)


def train_capitals(rng):
    """A sentence that states a capital."""
    row = draw(make_capitals, False, rng=rng)
    return row["clean"], row["answer"], "."


# --- price tag ------------------------------------------------------------

def price(cents):
    """An amount of cents as dollars: 520 -> '5.20'."""
    return f"{cents // 100}.{cents % 100:02d}"


def price_prompt(low, high, cost):
    """The question whether a cost lies within two bounds."""
    return PRICE_TEMPLATE.format(low=price(low), high=price(high), cost=price(cost))


def draw_bounds(rng):
    """Two bounds in cents, at least a dollar apart."""
    while True:
        low, high = sorted(rng.randrange(50, 950) for _ in range(2))
        if high - low >= 100:
            return low, high


def draw_cost(rng, low, high, inside):
    """A cost inside the bounds or outside them; outside, each side is as
    likely, and one draw in four is within half a dollar of a bound."""
    near = rng.randrange(4) == 0
    if inside:
        if near:
            return rng.choice([low + rng.randrange(50), high - rng.randrange(50)])
        return rng.randrange(low, high + 1)
    if rng.randrange(2):
        return low - 1 - rng.randrange(50 if near else low)
    return high + 1 + rng.randrange(min(50, 999 - high) if near else 999 - high)


def make_price_tag(rng):
    """A cost and two bounds; the corrupted cost gets the opposite answer."""
    low, high = draw_bounds(rng)
    inside = rng.randrange(2) == 1
    answers = (" yes", " no") if inside else (" no", " yes")
    example = {
        "clean": price_prompt(low, high, draw_cost(rng, low, high, inside)),
        "corrupted": price_prompt(low, high, draw_cost(rng, low, high, not inside)),
        "answer": answers[0],
        "wrong": answers[1],
    }
    return example, is_held_out("price_tag", low, high)


def train_price_tag(rng):
    """A price-tag question with its answer."""
    row = draw(make_price_tag, False, rng=rng)
    return row["clean"], row["answer"], "."


def make_price_swap(rng):
    """A base and a source question, and the answer expected when the source's
    value of "the cost reaches the lower bound" is put into the base. Half of
    the answers are yes, and half differ from the answer to the base."""
    answer, changes = rng.randrange(2) == 1, rng.randrange(2) == 1
    while True:
        (base, source) = [draw_bounds(rng) for _ in range(2)]
        cost, other = [draw_cost(rng, *bounds, inside=rng.randrange(2) == 1)
                       for bounds in (base, source)]
        swapped = other >= source[0] and cost <= base[1]
        if swapped == answer and (base[0] <= cost <= base[1]) == (answer != changes):
            break
    example = {
        "base": price_prompt(*base, cost),
        "source": price_prompt(*source, other),
        "answer": " yes" if answer else " no",
        "wrong": " no" if answer else " yes",
    }
    return example, is_held_out("price_tag", *base) and is_held_out("price_tag", *source)


# task -> (maker of rows, maker of training sentences, columns of the CSV)
PAIR_COLUMNS = ("clean", "corrupted", "answer", "wrong")
TASKS = {
    "ioi": (make_ioi, train_ioi, PAIR_COLUMNS),
    "greater_than": (make_greater_than, train_greater_than,
                     ("clean", "corrupted", "label")),
    "agreement": (make_agreement, train_agreement, PAIR_COLUMNS),
    "capitals": (make_capitals, train_capitals, PAIR_COLUMNS),
    "price_tag": (make_price_tag, train_price_tag, PAIR_COLUMNS),
}
