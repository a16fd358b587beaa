import json
import random
import re
import time

import pytest

from whisper_lab import LabError
from whisper_lab.serving import scripts
from whisper_lab.serving.captions import FORMATS, Cue, Segment, Word, cues, edited, from_json, joined, write

SENTENCES = [
    "Regeringen har i dag beslutat att skjuta till tre miljarder kronor till vården, men det räcker inte på länge.",
    "Jag heter Anna Svensson och jag bor i Göteborg.",
    "Ja. Det tror jag också!",
    "Det var en gång en flicka som alltid bar en röd luva när hon gick ut i skogen för att hälsa på sin mormor.",
    "Vi ses kl. 12 på torget, t.ex. vid Fontänen, och sedan går vi till Stora Teatern.",
    "Nej! Vad gör du? Sluta genast.",
    "Höginkomsttagarnas it-system & <taggar> heter a --> b å ä ö Å Ä Ö é",
    "We have known for a long time that this would happen, but nobody wanted to listen.",
]
SPEECH = [
    "Det är ingen som riktigt vet var Anna Svensson bodde den sommaren.",
    "Hela familjen åkte till Öland, och hyrde en stuga där i juli.",
    "Nej, jag tror inte att det blir något regn i morgon heller.",
    "Boken handlar om en ung kvinna som flyttar från Skåne till Lappland!",
    "Polisen söker nu vittnen till olyckan på vägen norr om Uppsala.",
    "Efter lunch fortsatte de arbetet i trädgården tills det blev mörkt.",
    "Kanske kommer hon, kanske inte, men vi väntar på henne ändå här.",
    "Har forskarna hittat spår av vatten på planeten Mars yta igen?",
    "Min bror arbetar på sjukhuset i Umeå sedan tre år tillbaka.",
    "Hon öppnade dörren, tittade ut och såg att det hade börjat snöa.",
]
REMARKS = [
    "Ja.",
    "Nej!",
    "Vad gör du?",
    "Jag vet inte riktigt.",
    "Kom hit, är du snäll!",
    "Det är ju inte sant, eller hur?",
    "Det gick bra till slut, som tur var.",
]
VOCABULARY = " ".join(SENTENCES).split()
COMPOUND = "nordvästersjökustartilleriflygspaningssimulatoranläggningsmaterielunderhållsuppföljningssystemet"


def transcript(seed: int, rate: float = 15, longest: int = 42, clean: bool = True) -> list[Segment]:
    """Random words at `rate` characters a second, with and without times of their own; not `clean`: times that lie."""
    draw = random.Random(seed)
    now, segments = draw.choice([0.0, 2.5]), []
    for _ in range(draw.randint(1, 12)):
        words, begin = [], now
        for _ in range(draw.randint(1, 40)):
            text = draw.choice(VOCABULARY) if draw.random() < 0.97 else "x" * draw.randint(1, longest)
            length = len(text) / rate * draw.uniform(0.3, 2)
            wrong = 0 if clean else draw.choice([0, 0, -1.5, 1.5])
            words.append(Word(text, now + wrong, now + wrong + length))
            now += length + draw.choice([0, 0, 0, 0, 0.2, 0.6, 3])
        text = " ".join(word.text for word in words)
        segments.append(Segment(begin, words[-1].end, text, tuple(words) if draw.random() < 0.7 else ()))
        now += draw.choice([0, 0, 0.4, 1.5, 9])
    return segments


def spoken(segments: list[Segment]) -> list[tuple[str, float, float]]:
    """Every word with its times, where those of a segment without any follow from the place of its characters."""
    rows = []
    for segment in segments:
        if segment.words:
            rows += [(word.text, word.start, word.end) for word in segment.words]
        else:
            tokens = segment.text.split()
            each = (segment.end - segment.start) / sum(map(len, tokens))
            before = 0
            for token in tokens:
                rows.append((token, segment.start + each * before, segment.start + each * (before + len(token))))
                before += len(token)
    return rows


def words_of(shown: list[Cue]) -> list[str]:
    return " ".join(line for cue in shown for line in cue.lines).split()


def check_limits(shown: list[Cue], shortest: float = 1.0) -> None:
    for cue in shown:
        assert 1 <= len(cue.lines) <= 2
        assert all(0 < len(line) <= 42 and line == line.strip() for line in cue.lines)
        assert cue.start >= 0 and shortest <= round(cue.end - cue.start, 3) <= 7
    for before, after in zip(shown, shown[1:]):
        assert before.end <= after.start


@pytest.mark.parametrize("seed", range(150))
def test_ordinary_speech_keeps_to_every_limit_and_loses_no_word(seed):
    segments = transcript(seed)
    shown = cues(segments)
    check_limits(shown)
    assert words_of(shown) == " ".join(segment.text for segment in segments).split()


@pytest.mark.parametrize("seed", range(60))
def test_no_caption_spans_a_pause_or_leaves_its_words(seed):
    segments = transcript(seed, rate=8)
    words = iter(spoken(segments))
    for cue in cues(segments):
        inside = [next(words) for _ in words_of([cue])]
        assert all(after[1] - before[2] < 1.002 for before, after in zip(inside, inside[1:]))
        assert abs(cue.start - inside[0][1]) < 1.002 and inside[-1][1] < cue.end + 1.002


@pytest.mark.parametrize("seed", range(60))
def test_a_caption_without_a_second_of_its_own_joins_a_neighbour_where_both_fit(seed):
    draw = random.Random(seed)
    segments, now = [], 0.0
    for _ in range(25):
        text = draw.choice(REMARKS)
        segments.append(Segment(now, now + len(text) / draw.choice([15, 25, 40, 60]), text))
        now = segments[-1].end + draw.choice([0, 0, 0.1, 0.4, 0.9])
    words = iter(spoken(segments))
    groups = [[next(words) for _ in words_of([cue])] for cue in cues(segments)]
    starts = [group[0][1] for group in groups] + [float("inf")]
    for index, (one, two) in enumerate(zip(groups, groups[1:])):
        if min(starts[index + 1] - starts[index], starts[index + 2] - starts[index + 1]) < 0.998:
            texts = [word[0] for word in one + two]
            widths = [(len(" ".join(texts[:at])), len(" ".join(texts[at:]))) for at in range(len(texts))]
            assert all(max(pair) > 42 for pair in widths) or two[-1][2] - one[0][1] > 6.998, texts


@pytest.mark.parametrize("rate", [30, 60, 150, 1_000])
def test_fast_speech_gets_its_seconds_wherever_two_seconds_of_shift_can_give_them(rate):
    all_of_them = 0
    for seed in range(40):
        segments = transcript(seed, rate=rate)
        shown = cues(segments)
        check_limits(shown, shortest=0.001)
        assert words_of(shown) == " ".join(segment.text for segment in segments).split()
        words, earliest, possible = iter(spoken(segments)), -1.0, True
        for cue in shown:
            start = [next(words) for _ in words_of([cue])][0][1]
            earliest = max(0, start - 2, earliest + 1)
            possible &= earliest < start + 1.99
        if possible:
            all_of_them += 1
            check_limits(shown)
    assert all_of_them > 0


@pytest.mark.parametrize("seed", range(60))
def test_times_that_lie_are_put_in_order(seed):
    segments = transcript(seed, clean=False)
    shown = cues(segments)
    check_limits(shown, shortest=0.001)
    assert words_of(shown) == " ".join(segment.text for segment in segments).split()


def test_a_word_said_to_last_into_the_next_ones_stays_beside_those_before_it():
    words = (Word("Hej", 0, 0.5), Word("på", 0.5, 1), Word("dig.", 1, 20))
    text = "Hon öppnade dörren, tittade ut mot vägen och såg att det hade börjat snöa igen."
    shown = cues([Segment(0, 20, "Hej på dig.", words), Segment(1.5, 6, text)])
    assert (shown[0], shown[1].start) == (Cue(0, 1.5, ("Hej på dig.",)), 1.5)


def test_thousands_of_words_in_one_instant_stay_in_order_and_near_it():
    shown = cues([Segment(5, 5, " ".join(VOCABULARY * 20))])
    check_limits(shown, shortest=0.001)
    assert words_of(shown) == VOCABULARY * 20
    assert shown[0].start >= 3 and shown[-1].start < 8


@pytest.mark.parametrize(
    "lines",
    [
        ("Jag heter Anna Svensson", "och jag bor i Göteborg."),
        ("Jag har arbetat som lärare i tjugo år,", "men nu vill jag göra något annat."),
        ("Nej, det visste jag inte.", "Varför har ingen sagt något till mig?"),
        ("Han sade till henne", "att de skulle träffas på stationen."),
        ("Vi ses på torget kl. 12,", "och sedan går vi till Stora Teatern."),
        ("Nej, jag tror inte att det blir", "något regn i morgon heller."),
        ("Vi köpte huset för ungefär två", "och en halv miljon kronor."),
        ("Statsministern sade att regeringen kommer", "att höja skatten på bensin."),
        ("Företaget omsätter bl.a. 300 miljoner", "kronor om året i Norden."),
        ("I går kväll sade Anna Svensson", "något alldeles annat."),
        ("Boken kom ut första gången", "den 17. september samma år."),
        ("We have known for a long time", "that this would happen."),
    ],
)
def test_two_lines_part_where_the_phrase_does(lines):
    assert [cue.lines for cue in cues([Segment(0, 6, " ".join(lines))])] == [lines]


def test_captions_part_at_sentences_then_at_clauses_then_before_joints():
    captions = [
        "Jag har arbetat som lärare i tjugo år, men nu vill jag göra något annat.",
        "Först ska jag läsa på universitetet i Lund,",
        "sedan ska jag flytta till min syster i Kiruna och öppna ett bageri.",
        "Det var en gång en liten flicka som alltid bar en röd luva",
        "när hon gick ut i skogen för att hälsa på sin sjuka mormor.",
    ]
    text = " ".join(captions)
    assert [" ".join(cue.lines) for cue in cues([Segment(0, len(text) / 15, text)])] == captions


def test_lines_neither_strand_a_word_nor_end_on_one_that_clings_to_the_next():
    clinging, lines = 0, []
    for seed in range(60):
        draw = random.Random(seed)
        words, now = [], 0.0
        for text in " ".join(draw.choice(SPEECH) for _ in range(30)).split():
            words.append(Word(text, now, now + len(text) / 15))
            now = words[-1].end + draw.choice([0, 0, 0, 0, 0.3, 0.6])
        lines += [line.split() for cue in cues([Segment(0, now, "", tuple(words))]) for line in cue.lines]
    for line in lines:
        assert len(line) > 1 or len(line[0]) >= 8, "one short word alone"
        assert len(line) == 1 or line[-2][-1] not in ".!?", "the first word of a sentence cut off"
        clinging += line[-1] in "och att som en i på med till av om för den jag hon".split()
    assert clinging < len(lines) / 100


@pytest.mark.parametrize("at", range(3, 13))
def test_a_pause_parts_captions_where_nothing_else_does(at):
    text = "gamla stora husen stod tomma hela denna långa mörka vinter trots många nya rika unga köpare"
    words, now = [], 0.0
    for index, word in enumerate(text.split()):
        now += 0.8 * (index == at)
        words.append(Word(word, now, now + len(word) / 15))
        now = words[-1].end
    assert [len(words_of([cue])) for cue in cues([Segment(0, now, text, tuple(words))])] == [at, 16 - at]


def test_a_hurried_sentence_shares_the_caption_of_the_neighbour_with_time_to_spare():
    texts = (
        "Vi tar tåget hem i kväll, tror jag.",
        "Det hinner vi inte.",
        "Vi tar bilen hem i kväll, tror jag.",
        "Hon öppnade dörren, tittade ut mot vägen och såg att det hade börjat snöa igen.",
    )
    for lengths, parts in (((4, 1, 1.2, 4.5), [2, 1, 2]), ((1.2, 1, 4, 4.5), [1, 2, 2])):
        segments, now = [], 0.0
        for text, length in zip(texts, lengths):
            segments.append(Segment(now, now + length, text))
            now += length
        assert [len(cue.lines) for cue in cues(segments)] == parts


def test_short_captions_join_their_neighbours_unless_silence_lies_between():
    near = [Segment(0, 0.4, "Ja."), Segment(0.5, 2, "Det tror jag också.")]
    far = [near[0], Segment(1.9, 3.4, near[1].text)]
    assert [cue.lines for cue in cues(near)] == [("Ja. Det tror jag också.",)]
    assert cues(far) == [Cue(0, 1, ("Ja.",)), Cue(1.9, 3.4, ("Det tror jag också.",))]


def test_a_short_caption_takes_the_silence_after_then_before_then_its_neighbours_time():
    full = "å" * 40 + " " + "ä" * 40
    after = cues([Segment(0, 5, full), Segment(6, 6.2, full), Segment(8, 13, full)])
    before = cues([Segment(0, 5, full), Segment(6.5, 6.8, full), Segment(6.8, 11.8, full)])
    neighbours = cues([Segment(0, 0.4, full), Segment(0.4, 0.8, full), Segment(0.8, 6, full)])
    assert after[1].start == 6 and after[1].end >= 7
    assert (before[1].start, before[1].end) == (5.8, 6.8)
    assert [cue.start for cue in neighbours] == [0, 1, 2]


def test_a_caption_stays_until_it_can_be_read_where_silence_allows_it():
    text = "Fyrtionio tecken på tre sekunder går bra att läsa."
    (cue,) = cues([Segment(0, 1, text)])
    assert 17 * (cue.end - cue.start) == pytest.approx(len(text), abs=2)


def test_long_silence_inside_a_segment_ends_a_caption():
    words = [Word("Jag", 0, 0.3), Word("tänkte", 0.3, 0.8), Word("just", 9, 9.4), Word("det.", 9.4, 9.9)]
    assert [cue.lines for cue in cues([Segment(0, 9.9, "Jag tänkte just det.", tuple(words))])] == [
        ("Jag tänkte",),
        ("just det.",),
    ]
    assert cues([Segment(0, 30, "Öööh")]) == [Cue(0, 7, ("Öööh",))]


@pytest.mark.parametrize("word", [COMPOUND, "https://example.se/" + "a1/" * 200, "x" * 43, "x" * 84, "x" * 1_700])
def test_a_word_longer_than_a_line_is_hyphenated(word):
    shown = cues([Segment(0, 60, f"Det heter {word} här.")])
    check_limits(shown)
    lines = [line for cue in shown for line in cue.lines]
    assert "".join(lines).replace("-", "").replace(" ", "") == f"Detheter{word}här.".replace("-", "")
    inside = [line for line in lines if line.endswith("-")]
    assert len(inside) >= (len(word) - 1) // 42


def seconds(clock: str, point: str) -> float:
    hours, minutes, rest = re.fullmatch(rf"(\d\d+):([0-5]\d):([0-5]\d\{point}\d\d\d)", clock).groups()
    return round(3600 * int(hours) + 60 * int(minutes) + float(rest.replace(point, ".")), 3)


def parsed(text: str, form: str) -> list[Cue]:
    """A strict reader of the two caption formats."""
    assert "\r" not in text and "\ufeff" not in text and "\n\n\n" not in text and text[-1:] in ("", "\n")
    blocks = text.removesuffix("\n").split("\n\n") if text else []
    if form == "vtt":
        assert blocks.pop(0) == "WEBVTT"
    found = []
    for number, block in enumerate(blocks, 1):
        lines = block.split("\n")
        if form == "srt":
            assert lines.pop(0) == str(number)
        start, end = (seconds(clock, ",."[form == "vtt"]) for clock in lines.pop(0).split(" --> "))
        assert start < end and lines and all(lines)
        if form == "vtt":
            assert all("-->" not in line and "<" not in line and ">" not in line for line in lines)
            assert not any(re.search("&(?!(amp|lt|gt);)", line) for line in lines)
            lines = [line.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for line in lines]
        found.append(Cue(start, end, tuple(lines)))
    return found


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_a_strict_reader_finds_the_same_captions(form):
    for seed in range(40):
        segments = transcript(seed)
        assert parsed(write(segments, form), form) == cues(segments)
    late = [Segment(359_999.9996, 360_004, "&lt; är <inte> a --> b & c")]
    assert parsed(write(late, form), form) == cues(late)


def test_the_bytes_of_subrip_and_webvtt():
    segments = [Segment(1, 3.5, "Å, en <ö> & en ä!"), Segment(3725.25, 3727, "Slut.")]
    assert write(segments, "srt") == (
        "1\n00:00:01,000 --> 00:00:03,500\nÅ, en <ö> & en ä!\n\n2\n01:02:05,250 --> 01:02:07,000\nSlut.\n"
    )
    assert write(segments, "vtt") == (
        "WEBVTT\n\n00:00:01.000 --> 00:00:03.500\nÅ, en &lt;ö&gt; &amp; en ä!\n\n01:02:05.250 --> 01:02:07.000\nSlut.\n"
    )


def test_plain_text_begins_a_line_after_two_seconds_of_silence():
    segments = [Segment(0, 1, "Hej."), Segment(2.9, 4, "Hallå  där!"), Segment(5, 5.1, ""), Segment(6, 7, "Åter.")]
    assert write(segments, "txt") == "Hej. Hallå där!\nÅter.\n"


def test_json_keeps_the_facts_and_every_time_to_the_millisecond():
    segments = [
        Segment(0, 1.23456, "Hej då.", (Word("Hej", 0, 0.5004, 0.98765), Word("då.", 0.6, 1.23456))),
        Segment(2, 3, "Åh", edited=True),
    ]
    text = write(segments, "json", {"model": "språk", "segments": "not these"})
    assert json.loads(text) == {
        "model": "språk",
        "segments": [
            {
                "start": 0,
                "end": 1.235,
                "text": "Hej då.",
                "words": [
                    {"text": "Hej", "start": 0, "end": 0.5, "probability": 0.988},
                    {"text": "då.", "start": 0.6, "end": 1.235},
                ],
            },
            {"start": 2, "end": 3, "text": "Åh", "edited": True},
        ],
    }
    again, facts = from_json(text)
    assert json.loads(write(again, "json", facts)) == json.loads(text) and facts == {"model": "språk"}
    for wrong in ("", "[]", "{}", '{"segments": [{"text": "Hej"}]}', '{"segments": [1]}', "1"):
        with pytest.raises(LabError, match="no transcript"):
            from_json(wrong)
    assert text.startswith('{\n "model": "språk",\n "segments": [')


SAID = (
    Word("Jag", 1, 1.3, 0.9), Word("hetter", 1.3, 1.6, 0.3), Word("ana", 1.6, 2.2, 0.2), Word("Hej.", 2.5, 3, 0.9)
)  # fmt: skip


@pytest.mark.parametrize(
    "text, changed",
    [
        ("Jag heter Anna, Hej.", [("heter", 1.3, 1.6), ("Anna,", 1.6, 2.2)]),  # one for one
        ("Jag heter Anna Mo. Hej.", [("heter", 1.3, 1.675), ("Anna", 1.675, 1.975), ("Mo.", 1.975, 2.2)]),
        ("Jag hetter ana då Hej.", [("då", 2.2, 2.5)]),  # where there is room
        ("Jag ja hetter ana Hej.", [("ja", 1.18, 1.3)]),  # said with the word before
        ("Nu jag hetter ana Hej.", [("Nu", 1, 1.12), ("jag", 1.12, 1.3)]),
        ("hetter ana HEJ!", [("HEJ!", 2.5, 3)]),
        ("Helt annat", [("Helt", 1, 1.889), ("annat", 1.889, 3)]),
        (" \n", []),
    ],
)
def test_words_that_an_edit_leaves_keep_their_times_and_others_share_what_is_between(text, changed):
    segment = Segment(1, 3, "Jag hetter ana Hej.", SAID)
    new = edited(segment, text)
    assert (new.start, new.end, new.text, new.edited) == (1, 3, " ".join(text.split()), True)
    assert [word.text for word in new.words] == text.split()
    here = {word.text: word for word in new.words}
    assert [(word, round(here[word].start, 3), round(here[word].end, 3)) for word, _, _ in changed] == changed
    assert all(here[word].probability is None for word, _, _ in changed)
    kept = [word for word in SAID if word.text in here]
    assert [here[word.text].probability for word in kept] == [word.probability for word in kept]
    assert all(word == here[word.text] for word in kept if not (text.startswith("Jag ja") and word.text == "Jag"))
    assert all(a.start < a.end <= b.start for a, b in zip(new.words, new.words[1:]))


def test_an_edit_that_changes_nothing_is_none_and_text_without_words_stays_so():
    segment = Segment(1, 3, "Jag hetter ana Hej.", SAID)
    assert edited(segment, " Jag hetter  ana Hej.\n") is segment
    assert edited(Segment(1, 3, "Hej"), "Hej då") == Segment(1, 3, "Hej då", edited=True)
    assert write([edited(segment, "")], "srt") == write([edited(segment, "")], "txt") == ""


@pytest.mark.parametrize("segments", [[], [Segment(0, 2, "")], [Segment(0, 2, " ", (Word("", 0, 1),))]])
def test_silence_makes_an_empty_file(segments):
    assert cues(segments) == []
    assert [write(segments, form) for form in ("txt", "srt", "vtt")] == ["", "", "WEBVTT\n"]


def test_json_of_nothing_has_an_empty_list():
    assert json.loads(write([], "json", {"a": 1})) == {"a": 1, "segments": []}


def test_an_unknown_format_is_answered_with_those_that_exist():
    with pytest.raises(LabError) as error:
        write([], "ass")
    assert "'ass'" in str(error.value) and all(form in str(error.value) for form in FORMATS)


@pytest.mark.parametrize("vocabulary", [VOCABULARY, ["i", "å", "o"]])
def test_an_hour_of_speech_takes_under_two_seconds(vocabulary):
    draw = random.Random(0)
    segments = [
        Segment(at, at + 10, " ".join(draw.choice(vocabulary) for _ in range(25))) for at in range(0, 3_600, 10)
    ]
    began = time.process_time()
    shown = cues(segments)
    assert time.process_time() - began < 2
    check_limits(shown)
    assert len(words_of(shown)) == 9_000


UNSPACED = {
    "Japanese": "今日はとても天気がよかったので、私は友と一緒に公園へ行きました。"
    "そこでサンドイッチを食べて、「楽しかったね」と言いました。",
    "Chinese": "我们昨天一起去了北京的一家图书馆，那里有很多关于历史的书。你喜欢看书吗？我用Python 3写了一个小程序！",
    "Cantonese": "我哋今日一齊去飲茶，點心好好味。",
    "Thai": "วันนี้อากาศดีมาก เราจึงไปเดินเล่นที่สวนสาธารณะด้วยกัน แล้วก็กินข้าวกลางวันที่ร้านเล็กๆ ใกล้แม่น้ำ",
    "Lao": "ມື້ນີ້ອາກາດດີຫຼາຍ ພວກເຮົາໄປຍ່າງຫຼິ້ນນຳກັນທີ່ສວນສາທາລະນະ",
    "Burmese": "ဒီနေ့ရာသီဥတုအရမ်းကောင်းတယ်။ ကျွန်တော်တို့ပန်းခြံကိုအတူတူသွားကြမယ်။",
    "Khmer": "ថ្ងៃនេះអាកាសធាតុល្អណាស់។ យើងទៅដើរលេងនៅសួនច្បារជាមួយគ្នា។",
    "Tibetan": "དེ་རིང་གནམ་གཤིས་ཡག་པོ་འདུག ང་ཚོ་མཉམ་དུ་གླིང་གར་འགྲོ། ཁྱེད་རང་ཕེབས་ཀྱི་ཡིན་པས།",
}


@pytest.mark.parametrize("language", UNSPACED)
def test_without_spaces_lines_end_between_characters_and_nothing_is_added(language):
    text = UNSPACED[language]
    assert "".join(scripts.parts(text)) == text
    words = [Word(part.strip(), i / 5, (i + 1) / 5, glued=part[0] != " ") for i, part in enumerate(scripts.parts(text))]
    assert joined(words) == text
    for segment in (Segment(0, 15, text), Segment(0, len(words) / 5, text, tuple(words))):
        assert write([segment], "txt") == text + "\n"
        shown = cues([segment])
        lines = [line for cue in shown for line in cue.lines]
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert all(line in text and scripts.width(line) <= 42 for line in lines)
        assert not any(scripts.unicodedata.category(line[0])[0] == "M" for line in lines), "a mark without its letter"
        for line in lines:
            assert line[0] not in "。、，！？」ーゃゅょっ" and line[-1] not in "「เแไใโ"


def test_json_says_what_is_glued():
    words = (Word("雨", 0, 1, glued=True), Word("です。", 1, 2, glued=True), Word("Tokyo", 2, 3))
    (row,) = json.loads(write([Segment(0, 3, joined(words), words, glued=True)], "json"))["segments"]
    assert row["text"] == "雨です。 Tokyo" and row["glued"]
    assert [word.get("glued") for word in row["words"]] == [True, True, None]


def test_a_correction_without_spaces_adds_none_and_keeps_the_other_times():
    words = tuple(Word(c, i, i + 1, 0.4, True) for i, c in enumerate(scripts.parts("私は東京に行く。")))
    corrected = edited(Segment(0, 7, joined(words), words, glued=True), "私は京都に行く。")
    assert corrected.text == joined(corrected.words) == "私は京都に行く。" and corrected.glued
    assert [(word.start, word.end) for word in corrected.words[:2]] == [(0, 1), (1, 2)]
    assert corrected.words[-1] == words[-1]
    assert from_json(write([corrected], "json"))[0] == [corrected]


def test_lines_of_japanese_part_where_the_phrase_does():
    """16 characters to a line, after 。 and 、, else where a particle ends a phrase, and not within 一緒."""
    shown = cues([Segment(0, 13, UNSPACED["Japanese"])])
    assert [cue.lines for cue in shown] == [
        ("今日はとても天気がよかったので、", "私は友と一緒に公園へ行きました。"),
        ("そこでサンドイッチを食べて、", "「楽しかったね」と言いました。"),
    ]
    text = "昨日の午後私は古い友達と駅前で一緒に珈琲を飲んだ"
    assert [cue.lines for cue in cues([Segment(0, 6, text)])] == [
        ("昨日の午後私は古い友達と", "駅前で一緒に珈琲を飲んだ")
    ]


def test_latin_words_among_characters_stay_whole():
    shown = cues([Segment(0, 9, "我们在Stockholm用TensorFlow和PyTorch训练了一个很大的神经网络模型")])
    lines = [line for cue in shown for line in cue.lines]
    assert len(lines) > 1
    for word in ("Stockholm", "TensorFlow", "PyTorch"):
        assert sum(word in line for line in lines) == 1


def test_wide_characters_take_longer_to_read():
    (latin,), (wide,) = cues([Segment(0, 1, "a" * 30)]), cues([Segment(0, 1, "字" * 30)])
    assert wide.end - wide.start == pytest.approx(2.6 * (latin.end - latin.start), abs=0.1)


@pytest.mark.parametrize("text", ["مرحبا، كيف حالك؟ أنا من GPS.", "שלום, מה שלומך היום?"])
def test_lines_from_right_to_left_are_marked_in_subrip_alone(text):
    """Its players take a line for left to right, and put the full stop at the wrong end."""
    segments = [Segment(0, 2, text)]
    assert write(segments, "srt").split("\n")[2] == f"\u202b{text}\u202c"
    assert write(segments, "vtt").split("\n")[3] == text
    assert write(segments, "txt") == text + "\n"
    assert "\u202b" not in write([Segment(0, 2, "Hej då! שלום")], "srt")
