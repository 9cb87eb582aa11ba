"""What the rules for sentences look at: the marks of all scripts, abbreviations, and what stands after ordinals."""

# ruff: noqa: RUF001 - full-width punctuation and typographic quotes are meant
import re


def _characters(ranges: str) -> str:
    """All characters of code points like `2e 61d-61f`."""
    ends = [[int(end, 16) for end in part.split("-")] for part in ranges.split()]
    return "".join(chr(i) for first, *last in ends for i in range(first, (last or [first])[0] + 1))


SENTENCE_TERMINALS = _characters(
    """
    21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e 1735-1736 17d4-17d5 1803
    1809 1944-1945 1aa8-1aab 1b4e-1b4f 1b5a-1b5b 1b5e-1b5f 1b7d-1b7f 1c3b-1c3c 1c7e-1c7f 2024 203c-203d 2047-2049
    2cf9-2cfb 2e2e 2e3c 2e53-2e54 2e60-2e61 3002 a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f
    aaf0-aaf1 abeb fe12 fe15-fe16 fe52 fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048
    110be-110c1 11141-11143 111c5-111c6 111cd 111de-111df 11238-11239 1123b-1123c 112a9 113d4-113d5 1144b-1144c
    115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946 11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8
    11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 16d6e-16d6f 16e98 1bc9f 1da88
    """
)
"""Unicode's property Sentence_Terminal: full stops, question and exclamation marks of all scripts."""

FULL_STOPS = frozenset(SENTENCE_TERMINALS + "…")
DOTS = frozenset(".․﹒．")
"""Unicode's ATerm: full stops that stand in numbers and after abbreviations, too."""
NEED_SPACE = frozenset(".!?…․")
"""Those that mean something else within a word, as in example.org."""
CLOSING = "\"'”’»）)]」』】》〉"
GOES_ON = frozenset(",-:;՝،؍߸᠂᠈–—、︐︑︓︔︱︲﹐﹑﹔﹕﹘﹣，－：；､\u037e")
"""Unicode's SContinue: right after a mark, they show that the sentence goes on."""

HALF_WIDTH_AFTER = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Han and Kana: a half-width mark after them needs no space."""

ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        """mr mrs ms dr prof rev gen sen rep hon capt lt col sgt st mt jr sr vs viz cf ca approx al resp incl fig figs
        eq eqs sec ch vol vols pp ed eds art op e.g i.e z.b d.h u.a u.s bzw vgl evtl ggf sog bspw nr abb tab hr fr mme
        mlle mgr av bd dept univ assn bros no jan feb mar apr jun jul aug sep sept oct nov dec mrz okt dez abs abschn
        anm aufl bes betr bzgl dipl ehem einschl engl entspr erg exkl frz geb gegr gem gest hrsg ing inkl insb jh jhd
        kap lat lfd mind mio mrd o.ä s.o s.u st.-nr str tel u.u usw v.a zit zzgl abzgl""",
    )
)
ONLY_BEFORE_DIGITS = frozenset(
    re.findall(
        r"\S+", "no art ch ed sec mar sep dec jan fig figs eq eqs vol pp nr tab abs kap lat mind str tel usw erg"
    )
)
AFTER_ORDINAL = re.compile(
    r"""(?:Januar|Jänner|Februar|Feber|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember|Jahrhunderts?)
    \b|(?:Jan|Feb|Mrz|Apr|Jun|Jul|Aug|Sept?|Okt|Nov|Dez|Jh|Jhd)\.""",
    re.VERBOSE,
)
"""German words before which a number with a full stop is an ordinal."""
