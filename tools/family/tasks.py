"""The two tasks that the siblings were trained for: facts about services, hidden in prose, and questions about them.

A context starts with "Operations handbook.", goes on with paragraphs that are separated by blank lines (prose, and one sentence
for each service), and ends with a blank line. A finder names one value of one service, a clerk writes its whole record as JSON.
"""
import json
import random
import re
from dataclasses import dataclass

TITLE = "Operations handbook."
MEMBERS = ("finder", "clerk")
END = "<|im_end|>\n"

ADJECTIVES = """
amber arctic basalt birch bronze cedar cobalt copper coral crimson delta ember falcon fern flint frost garnet glacier granite
harbor hazel heron indigo iron ivory jade juniper kestrel lagoon larch linden lunar maple marble meadow mesa mistral nickel onyx
opal orchid osprey pearl pebble pine prairie quartz raven ridge river ruby saffron sage scarlet shale sierra silver slate solar
sparrow spruce summit teal thistle timber topaz tundra umber velvet violet walnut willow winter zephyr""".split()

NOUNS = """
archive auth backup batch billing broker cache catalog checkout cluster console crawler dispatch edge export feed gateway graph
import index ingest inventory invoice ledger lookup mailer matcher metrics monitor notifier orders payments planner proxy queue
quota ranker registry relay render report resolver router scheduler search session shipping signer store stream sync tracker
upload vault worker""".split()

FIRST_NAMES = """
Ada Amir Anika Bela Bruno Carla Chidi Clara Dario Dina Elena Emil Farid Fiona Gita Goran Hana Hugo Ines Ivan Jana Jonas Kaito
Katya Lars Leila Lucia Malik Marta Mei Milan Nadia Nils Noor Olga Omar Paula Pavel Priya Rafael Rina Samir Selma Soren Tara Tomas
Uma Viktor Wanda Yara Yusuf Zoe""".split()

LAST_NAMES = """
Abara Almeida Andersen Baker Becker Castro Chen Cohen Costa Dubois Eriksen Farkas Fischer Garcia Haddad Hansen Ito Ivanov Jensen
Kaya Khan Kim Kowalski Larsen Lopez Marin Meyer Mori Nair Novak Okafor Olsen Park Petrov Quist Rao Rossi Santos Sato Silva Singh
Suzuki Tanaka Torres Varga Vogel Wang Weber Yilmaz Zhang""".split()

CITIES = """
Accra Athens Austin Berlin Bogota Boston Cairo Chennai Dakar Denver Dublin Geneva Hanoi Havana Helsinki Jakarta Kyoto Lagos Leeds
Lima Lisbon London Lyon Madrid Malmo Manila Mumbai Munich Nairobi Osaka Oslo Paris Perth Porto Prague Quito Riga Rome Seoul
Seville Sofia Sydney Taipei Tunis Turin Vienna Warsaw Zagreb""".split()

PORTS = range(1024, 10000)

FORMS = (
    "The {service} service is owned by {owner}, listens on port {port} and runs in {site}.",
    "Note for the on-call team: {service} (port {port}) is hosted in {site}; its owner is {owner}.",
    "{owner} maintains {service}, which runs in {site} on port {port}.",
    "In {site} the {service} service answers on port {port}. Its owner is {owner}.",
    "Owner of {service}: {owner}. Port: {port}. Site: {site}.",
)

FINDER_QUESTIONS = {
    "port": "Which port does {service} listen on?",
    "site": "Where does {service} run?",
    "owner": "Who owns {service}?",
}
CLERK_QUESTION = "Write the record of {service}."


@dataclass(frozen=True)
class Fact:
    service: str
    owner: str
    port: int
    site: str

    def sentence(self, form):
        return form.format(**vars(self))

    def record(self):
        return json.dumps(vars(self), separators=(",", ":"), ensure_ascii=False)


def draw_facts(rng, n):
    """n facts with distinct services and ports; owners and sites may repeat."""
    names = rng.sample([f"{a}-{b}" for a in ADJECTIVES for b in NOUNS], n)
    ports = rng.sample(PORTS, n)
    return [
        Fact(name, f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}", port, rng.choice(CITIES))
        for name, port in zip(names, ports)
    ]


def build_context(rng, paragraphs, facts):
    """Puts each fact, in a form of its own, at a random place between the paragraphs."""
    items = list(paragraphs)
    for fact in facts:
        items.insert(rng.randrange(len(items) + 1), fact.sentence(rng.choice(FORMS)))
    return "\n\n".join([TITLE, *items]) + "\n\n"


def draw_questions(rng, member, facts, n):
    """n different (question, answer) pairs for a member; fewer when the facts do not give as many."""
    if member == "clerk":
        return [(CLERK_QUESTION.format(service=f.service), f.record()) for f in rng.sample(facts, min(n, len(facts)))]
    if member == "finder":
        choices = [(f, key) for f in facts for key in FINDER_QUESTIONS]
        chosen = rng.sample(choices, min(n, len(choices)))
        return [(FINDER_QUESTIONS[key].format(service=f.service), str(getattr(f, key))) for f, key in chosen]
    raise ValueError(f"no such member: {member}")


def chat(context, question, first=True):
    """The model's turns: the context is a prefix that all questions share (design: prompt layout)."""
    opening = "<|im_start|>user\n" + (context if first else "")
    return opening, f"{question}<|im_end|>\n<|im_start|>assistant\n"


_PATTERNS = tuple(
    re.compile(
        "^"
        + re.sub(
            r"\\{(\w+)\\}",
            lambda m: {
                "service": r"(?P<service>[a-z]+-[a-z]+)",
                "owner": r"(?P<owner>[A-Z][a-z]+ [A-Z][a-z]+)",
                "port": r"(?P<port>[0-9]{4})",
                "site": r"(?P<site>[A-Z][a-z]+)",
            }[m.group(1)],
            re.escape(form),
        )
        + "$"
    )
    for form in FORMS
)


def read_facts(context):
    """The facts of a context, read back from its text alone: what a perfect reader would find."""
    facts = []
    for paragraph in context.split("\n\n"):
        for pattern in _PATTERNS:
            found = pattern.match(paragraph)
            if found:
                facts.append(Fact(found["service"], found["owner"], int(found["port"]), found["site"]))
    return facts


def answer_from(context, member, question):
    """The answer that follows from a context's text; None when it does not follow."""
    for fact in read_facts(context):
        if member == "clerk" and question == CLERK_QUESTION.format(service=fact.service):
            return fact.record()
        for key, form in FINDER_QUESTIONS.items():
            if member == "finder" and question == form.format(service=fact.service):
                return str(getattr(fact, key))
    return None
