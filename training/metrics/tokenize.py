"""Caption tokens as COCO's evaluation makes them, without Java.

COCO scores captions on the tokens of Stanford's PTBTokenizer (CoreNLP 3.4.1, `-lowerCase`) less a list of
punctuation (Chen et al. 2015, "Microsoft COCO Captions", section 3). The rules below were written from the
behaviour of that tokenizer, not from its source. Habits of it that look like faults are kept, because scores are
compared with published ones: brackets survive as `-lrb-` and `-rrb-` (the list names them in upper case), and runs
such as `?!` survive (the list names single marks). Two are not kept: whether "sign K." ends in `k` or `k.` depended
on the first word of the *next* caption (here: `k`), and "22 3/4" was one token with a space in it (here: two).
"""

import re

_PUNCTUATION = frozenset("'`\".?!,:-;")
"""Longer marks of COCO's list (`''`, `--`, `...`) are left out one character at a time here."""

_SPELLING = str.maketrans(
    {
        "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": " - ", "\u2014": " - ", "\u2026": ".",
        "\u00bc": " 1/4 ", "\u00bd": " 1/2 ", "\u00be": " 3/4 ", "\u2153": " 1/3 ", "\u2154": " 2/3 ",
        "\u00a2": " cents ", "\u20ac": "$", "\u00a3": "#", "\u00ad": "", "\u200b": "",
        "\u200d": "", "\u2060": " ", "\ufeff": " ",
    }
)  # fmt: skip

_ENTITIES = (("&nbsp;", " "), ("&lt;", " < "), ("&gt;", " > "), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&"))
_BRACKETS = str.maketrans({"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"})

_ABBREVIATIONS = (
    "adj|adm|adv|al|ala|apr|ariz|assn|assoc|aug|ave|bhd|bldg|blvd|brig|bros|calif|capt|cf|cie|cmdr|co|col|colo|"
    "comdr|conn|corp|cos|cpl|ct|dak|dec|dept|det|dr|drs|elec|ens|esq|est|etc|ext|feb|fla|fri|ft|ga|gen|gov|hon|"
    "inc|ind|insp|intl|jan|jos|jr|jul|jun|kan|ky|lieut|lt|ltd|maj|mar|md|messrs|mfg|mich|minn|mme|mo|mon|mont|mr|"
    "mrs|ms|mt|mtg|natl|neb|nev|nov|oct|okla|penn|pfc|ph|plc|prof|pte|pty|pvt|rd|rep|rev|rt|sen|sep|sept|seq|sfc|"
    "sgt|spc|sq|sr|st|ste|supt|sys|tel|tenn|thu|thurs|tue|tues|univ|va|vs|vt|wed|wis|wm|wyo"
)
_STATES = "Ark|ARK|Az|AZ|Del|DEL|Ill|ILL|La|LA|Mass|MASS|Miss|MISS|Ore|ORE|Pa|PA|Tex|TEX|Wash|WASH"
"""Abbreviations only when written with a capital: "la." and "wash." end sentences."""
_SENTENCE_STARTS = (
    "A|About|According|After|An|As|At|But|He|Her|Here|However|If|In|It|Last|Many|More|Now|Once|One|Other|Our|She|"
    "Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|What|When|While|Yet|You"
)
_BEFORE_NUMBERS = "art|ca|figs?|nos?|op|pp|prop"

_L = r"(?:[^\W_\u00b2\u00b3\u00b9]|[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0d7f\u0e31-\u0e4e])"
_CLITIC = rf"(?:'(?:s|m|d|re|ve|ll)(?!{_L})|n't(?!{_L}))"

_TOKEN = re.compile(
    rf"""
      https?://[^\s"<>|()]*[^\s"<>|.!?(){{}},-]
    | [#@][a-z_]\w* | \w[\w.+-]{{0,63}}@[\w-]+(?:\.[\w-]+)*
    | &(?:\#\d+|[a-z]+); | </?[a-z!][^<>]*> | [:;=]-?(?:[()]|[dp](?!{_L})) | c\+\+ | [cf]\#
    | can(?=not(?!{_L})) | gon(?=na(?!{_L})) | wan(?=na(?!{_L})) | got(?=ta(?!{_L})) | (?:le|gi)m(?=me(?!{_L}))
    | {_CLITIC} | 't(?=(?:is|was)(?!{_L})) | '(?:cause|em|n'|n|til|\d0s)(?!{_L})
    | ma'am | ol' | dunkin' | y'(?=all) | [dlo]'{_L}+
    | (?:[a-z]{{1,2}}\.)+[a-z]\.(?!{_L}) | (?:{_ABBREVIATIONS}|(?-i:{_STATES}))\.(?!{_L})
    | [a-z]\.(?!{_L}|\s*$|\s+(?-i:{_SENTENCE_STARTS})(?!{_L}))
    | (?:{_BEFORE_NUMBERS})\.(?=\s?\d)
    | [+-]?\d*(?:[.,:]\d+)+ | [+-]\d+
    | (?-i:[A-Z]+(?:&[A-Z]+)+ | (?:US|HK|A|C|NZ|S|AU)\$)
    | {_L}(?:[-/]?{_L})*?(?={_CLITIC})
    | {_L}+(?:[-_./]{_L}+)*
    | [!?]+ | _+ | [^\s\w]
    """,
    re.VERBOSE | re.IGNORECASE,
)


def tokenize_caption(caption: str) -> tuple[str, ...]:
    """The caption's tokens in order; empty for a caption without words."""
    for entity, character in _ENTITIES:
        caption = caption.replace(entity, character)
    spelled = "".join(letter for letter in caption.translate(_SPELLING) if letter <= "\uffff")
    tokens = (token.lower().translate(_BRACKETS) for token in _TOKEN.findall(spelled))
    return tuple(token for token in tokens if token not in _PUNCTUATION)
