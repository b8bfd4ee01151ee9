"""Paragraphs of real English prose out of installed documentation, in an order that depends on the files only.

Text files give their blank-line separated blocks, HTML files their <p> elements. Kept are blocks of 120 to 900 characters that
read like prose and end like a sentence. The documentation that the siblings were trained on is left out (TRAINED_ON).
"""
import gzip
import html
import os
import re

SYSTEM_DIRECTORIES = ("/usr/share/common-licenses", "/usr/share/doc")
BUILT_IN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "share", "demo", "prose.txt")
TRAINED_ON = re.compile(r"postgres|python|jargon", re.IGNORECASE)

SHORTEST, LONGEST = 120, 900
_NOT_PROSE_FILES = re.compile(r"changelog|copyright|authors|\.(c|h|py|pl|sh|conf|cfg|css|js|svg|png|json|xml|ya?ml)(\.gz)?$", re.I)
_SKIPPED_ELEMENTS = re.compile(r"<(script|style|pre|table|nav|header|footer)\b.*?</\1>", re.I | re.S)
_PARAGRAPH_ELEMENT = re.compile(r"<p\b[^>]*>(.*?)</p>", re.I | re.S)
_LARGEST_FILE = 4 << 20


def _read(path):
    """A file's text, '' when it is no text."""
    opener = gzip.open if path.endswith(".gz") else open
    try:
        if os.path.getsize(path) > _LARGEST_FILE:
            return ""
        with opener(path, "rb") as file:
            return file.read(_LARGEST_FILE).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError):
        return ""


def _is_prose(text):
    if not SHORTEST <= len(text) <= LONGEST or text[-1] not in ".!?:" or not text.isascii():
        return False
    letters = sum(c.isalpha() or c == " " for c in text)
    words = text.split()
    return text[0].isupper() and letters >= 0.9 * len(text) and "<|" not in text and max(map(len, words)) <= 40


def paragraphs_of(text, is_html):
    """The paragraphs of one file that are prose, white space squeezed."""
    if is_html:
        blocks = (re.sub(r"<[^>]+>", "", p) for p in _PARAGRAPH_ELEMENT.findall(_SKIPPED_ELEMENTS.sub(" ", text)))
        blocks = map(html.unescape, blocks)
    else:
        blocks = re.split(r"\n[ \t\r]*\n", text)
    squeezed = (re.sub(r"\s+", " ", block).strip() for block in blocks)
    return [block for block in squeezed if block and _is_prose(block)]


def _files(directory):
    for folder, subfolders, names in os.walk(directory):
        subfolders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def collect(directories, at_least, exclude=TRAINED_ON, per_package=200):
    """Paragraphs below the directories, each once; at most per_package from one sub-directory, so that none prevails; paths that
    match exclude are left out. With fewer than at_least, those of the built-in file. Returns (paragraphs, where they are from)."""
    found = {}
    for directory in directories:
        taken = {}
        for path in _files(directory):
            if _NOT_PROSE_FILES.search(path) or exclude is not None and exclude.search(path):
                continue
            package = os.path.relpath(path, directory).split(os.sep)[0]
            for paragraph in paragraphs_of(_read(path), re.search(r"\.html?(\.gz)?$", path) is not None):
                if taken.get(package, 0) < per_package and paragraph not in found:
                    taken[package] = taken.get(package, 0) + 1
                    found[paragraph] = None
    if len(found) >= at_least:
        return list(found), " ".join(directories)
    with open(BUILT_IN, encoding="utf-8") as file:
        return paragraphs_of(file.read(), False), "share/demo/prose.txt"
