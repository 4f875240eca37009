"""The text that every Python installation carries: the language reference behind `help("TOPIC")`."""

import re

from ssljax.types import BadInputError

UNDERLINE = re.compile(r"^([*=\-^~\"])\1{2,}$")
RULES = re.compile(r"[+|]?[-=]{3,}[+|]?|\|")  # the lines of tables


def python_topics() -> list[list[str]]:
    """Documents of paragraphs, from `pydoc_data.topics` of the running Python.

    Some topics repeat others in whole. A paragraph is kept where it comes first, longest topics first, so that no
    text occurs twice and a held-out document is not found in another.

    Returns:
        A document a section, in order of its topic; each a list of paragraphs of one line, the heading first.

    Raises:
        BadInputError: this Python was installed without its documentation topics.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise BadInputError(
            "pydoc_data.topics is missing from this Python; install the whole standard library, or give --data DIR."
        ) from error
    seen: set[str] = set()
    documents = []
    for _, text in sorted(topics.items(), key=lambda item: (-len(item[1]), item[0])):
        for section in _sections(text):
            fresh = [paragraph for paragraph in section if paragraph not in seen]
            seen.update(fresh)
            if fresh:
                documents.append(fresh)
    return documents


def as_text(documents: list[list[str]]) -> str:
    """A line a paragraph and an empty line between documents, as `prepare` reads them."""
    return "\n\n".join("\n".join(document) for document in documents) + "\n"


def _sections(text: str) -> list[list[str]]:
    sections: list[list[str]] = [[]]
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = [line.strip() for line in block.splitlines()]
        if len(lines) == 2 and UNDERLINE.match(lines[1]):
            sections.append([lines[0]])
        elif words := " ".join(RULES.sub(" ", " ".join(lines)).split()):
            sections[-1].append(words)
    return [section for section in sections if section]
