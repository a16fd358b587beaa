"""Makes the sample corpus: synthetic Swedish in exactly the layout of a Common Voice release.

    python sample/make.py            # needs espeak-ng (Debian: apt install espeak-ng); rewrites sample/cv-corpus-…

Every sentence was written, or put together from phrases written, for this project; every voice is espeak-ng's, with
its own variant, rate, pitch and room, in its own background noise. No sentence and no voice is in two splits.
`out_of_domain` is a fifth split that no release has: another synthesiser (espeak-ng's Klatt voices), other rooms and
noise, longer and unrelated sentences. Nothing is tuned on it: it shows what a recipe forgets.
"""

import hashlib
import itertools
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr

RELEASE = Path(__file__).parent / "cv-corpus-sample-1.0"
LOCALE = "sv-SE"
RATE = 32_000  # Hz, as the newer Common Voice releases
COLUMNS = (
    "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale segment"
).split()
CLIPS = {"train": 220, "dev": 30, "test": 50}
VOICES = {  # espeak-ng's variants, told apart further by rate (words a minute) and pitch (0 to 99)
    "train": "m1 m2 m4 m5 m7 f1 f3 f5 Alex Andy Annie Denis Gene Lee Mario Michael steph zac Hugo max".split(),
    "dev": "m3 f2 Mike Alicia".split(),
    "test": "m6 m8 f4 Jacky edward linda".split(),
    "out_of_domain": "klatt klatt2 klatt3 klatt4".split(),
}

PEOPLE = "Anna,Björn,Åsa,Märta,Göran,läraren,grannen,min syster,hennes bror,farmor".split(",")
FOOD = (
    "nybakat bröd,tre gröna äpplen,färsk fisk,en påse jordgubbar,ost och smör,två flaskor mjölk,"
    "rödbetor och lök,en stor tårta,kaffe och bullar,fyra ägg"
).split(",")
SHOPS = "på torget,i affären,vid stationen,hos bagaren,i hamnen,på marknaden".split(",")
CITIES = "Göteborg,Malmö,Umeå,Örebro,Växjö,Kiruna,Norrköping,Skövde".split(",")
TRACKS = "ett,två,tre,fem,sju,åtta,tolv".split(",")
TIMES = "i morgon,i kväll,på lördag,på söndag,nästa vecka,om en timme,efter lunch".split(",")
WEATHER = "snöar,regnar,blåser,åskar".split(",")
CHORES = (
    "tända lampan,stänga fönstret,vattna blommorna,diska tallrikarna,hämta stegen,sänka musiken,"
    "öppna dörren,mata hönsen"
).split(",")
ROOMS = "i köket,på vinden,i trädgården,i källaren,på övervåningen".split(",")
PLANS = (
    "bada i sjön,plocka blåbär,måla båten,åka skidor,besöka mormor,spela fotboll,titta på stjärnorna,städa garaget"
).split(",")
THINGS = "nyckeln,plånboken,väskan,jackan,glasögonen,handsken,läxan".split(",")
LEFT_AT = "på bussen,hemma,i skolan,under sängen,på kontoret,hos tandläkaren".split(",")
COMPANY = "tillsammans,igen,hela dagen".split(",")
CREATURES = "barnen,hundarna,katterna,kycklingarna,fåren".split(",")
DOINGS = "leker,sover,springer,väntar".split(",")
PLACES = "bakom huset,vid ån,under äppelträdet,på ängen,längs stigen".split(",")

PATTERNS = (
    ("{} köpte {} {}.", PEOPLE, FOOD, SHOPS),
    ("{} går tåget till {} från spår {}.", TIMES, CITIES, TRACKS),
    ("det {} i {} {}.", WEATHER, CITIES, TIMES),
    ("kan du {} {} {}?", CHORES, ROOMS, TIMES),
    ("{} ska {} och jag {} {}.", TIMES, PEOPLE, PLANS, COMPANY),
    ("{} glömde {} {}.", PEOPLE, THINGS, LEFT_AT),
    ("jag vill ha {} och {}, tack.", FOOD, FOOD),
    ("{} {} {} {}.", CREATURES, DOINGS, PLACES, TIMES),
)

OUT_OF_DOMAIN = (
    "När vi kom fram till stugan hade solen redan gått ner, men isen på sjön lyste fortfarande svagt i skymningen.",
    "Kommunen meddelade på onsdagen att bron mellan de båda stadsdelarna stängs för reparation under hela hösten.",
    "Hon läste brevet två gånger, vek ihop det försiktigt och lade det i lådan där hennes mor förvarade fotografier.",
    "Forskarna har under flera år undersökt hur fåglar hittar hem, och nu tror de att doften spelar en viktig roll.",
    "Den som vill lära sig spela fiol måste ha tålamod, eftersom de första åren sällan låter särskilt vackert.",
    "Trots att laget förlorade matchen var tränaren nöjd med hur de unga spelarna hade kämpat ända till slutet.",
    "Receptet är enkelt: blanda mjöl och socker, tillsätt smält smör och grädda kakan i ungefär fyrtio minuter.",
    "På museet finns en gammal karta som visar hur kusten såg ut innan landet höjde sig ur havet.",
    "Regeringen föreslår att fler ungdomar ska få sommarjobb, men oppositionen anser att pengarna inte räcker.",
    "Min farfar berättade ofta om vintern när snön låg så hög att de fick gräva en tunnel till ladugården.",
    "Biblioteket håller öppet längre på torsdagar, och då brukar en författare komma dit och läsa ur sina böcker.",
    "Efter olyckan satte polisen upp nya skyltar vid korsningen och sänkte farten till trettio kilometer i timmen.",
)


def sentences(rng: random.Random) -> list[str]:
    """As many sentences as the splits need, each pattern equally often, no two alike, first letter capital."""
    pools = []
    for pattern, *slots in PATTERNS:
        pool = [pattern.format(*words) for words in itertools.product(*slots) if len(set(words)) == len(words)]
        pools.append(rng.sample(pool, -(-sum(CLIPS.values()) // len(PATTERNS))))
    mixed = [s for group in zip(*pools) for s in group][: sum(CLIPS.values())]
    rng.shuffle(mixed)
    return [s[0].upper() + s[1:] for s in mixed]


def speak(sentence: str, variant: str, words_a_minute: int, pitch: int) -> np.ndarray:
    """espeak-ng's reading of `sentence`, (samples,) at `RATE`, peak 1."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = ["espeak-ng", "-v", f"sv+{variant}", "-s", str(words_a_minute), "-p", str(pitch), "-w", file.name]
        subprocess.run([*command, sentence], check=True)
        samples, rate = soundfile.read(file.name)
    return soxr.resample(samples / np.abs(samples).max(), rate, RATE)


def in_a_room(speech: np.ndarray, decay_seconds: float, rng: np.random.Generator) -> np.ndarray:
    """`speech` with the echo of a room: convolved with noise that dies away, by 60 dB in `decay_seconds`."""
    t = np.arange(int(decay_seconds * RATE)) / RATE
    echo = rng.standard_normal(t.size) * 10 ** (-3 * t / decay_seconds) * 0.03
    echo[0] = 1
    size = speech.size + echo.size
    wet = np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(echo, size), size)
    return wet / np.abs(wet).max()


def coloured_noise(size: int, slope: float, rng: np.random.Generator) -> np.ndarray:
    """Noise whose power falls as 1/f^`slope`, from 60 Hz to 6 kHz, root mean square 1."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    band = (hertz > 60) & (hertz < 6_000)
    spectrum *= np.where(band, np.maximum(hertz, 60) ** (-slope / 2), 0)
    noise = np.fft.irfft(spectrum, size)
    return noise / np.sqrt(np.mean(noise**2))


def record(sentence: str, variant: str, seed: int, snr_db: tuple[float, float]) -> np.ndarray:
    """One clip: a voice, in its room, in its noise, with a little silence around it; (samples,), peak 0.7."""
    voice = random.Random(f"voice {variant}")  # the same for all clips of a voice
    rng = np.random.default_rng(seed)
    speech = speak(sentence, variant, voice.randint(135, 185), voice.randint(25, 75))
    speech = in_a_room(speech, voice.uniform(0.15, 0.5), rng)
    speech = np.pad(speech, [int(rng.uniform(0.1, 0.4) * RATE) for _ in range(2)])
    noise = coloured_noise(speech.size, voice.uniform(0.5, 2), rng)
    loudness = np.sqrt(np.mean(speech**2))
    mixed = speech + noise * loudness * 10 ** (-rng.uniform(*snr_db) / 20)
    return 0.7 * mixed / np.abs(mixed).max()


def write_tsv(path: Path, columns: list[str], rows: list[dict]) -> None:
    lines = ["\t".join(columns)] + ["\t".join(str(row.get(c, "")) for c in columns) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    shutil.rmtree(RELEASE, ignore_errors=True)
    clips = RELEASE / LOCALE / "clips"
    clips.mkdir(parents=True)
    rng = random.Random(2026)
    pool = iter(sentences(rng))
    splits = {name: list(itertools.islice(pool, count)) for name, count in CLIPS.items()}
    splits["out_of_domain"] = list(OUT_OF_DOMAIN)
    durations, validated, number = [], [], 1_000_000
    for split, texts in splits.items():
        rows = []
        for sentence, variant in zip(texts, itertools.cycle(VOICES[split])):
            number += 1
            snr_db = (12, 20) if split == "out_of_domain" else (4, 12)
            samples = record(sentence, variant, number, snr_db)
            name = f"common_voice_{LOCALE}_{number}.mp3"
            soundfile.write(clips / name, samples, RATE, bitrate_mode="CONSTANT", compression_level=0.99)
            rows.append({
                "client_id": hashlib.sha512(variant.encode()).hexdigest(),
                "path": name,
                "sentence_id": hashlib.sha256(sentence.encode()).hexdigest(),
                "sentence": sentence,
                "up_votes": 2,
                "down_votes": 0,
                "locale": LOCALE,
            })  # fmt: skip
            durations.append({"clip": name, "duration[ms]": round(1000 * samples.size / RATE)})
        write_tsv(RELEASE / LOCALE / f"{split}.tsv", COLUMNS, rows)
        validated += rows if split != "out_of_domain" else []
    write_tsv(RELEASE / LOCALE / "validated.tsv", COLUMNS, validated)
    write_tsv(RELEASE / LOCALE / "clip_durations.tsv", ["clip", "duration[ms]"], durations)


if __name__ == "__main__":
    main()
