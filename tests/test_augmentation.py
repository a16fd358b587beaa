import concurrent.futures
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from whisper_lab import LabError, files
from whisper_lab.corpora import corpus
from whisper_lab.corpora.corpus import Clip
from whisper_lab.speech.audio import SAMPLE_RATE, AudioError, read
from whisper_lab.speech.features import FRAMES, Extract, FrontEnd, pad
from whisper_lab.stores import engine, store
from whisper_lab.text import cleaned
from whisper_lab.tuning import augmentation, recipes
from whisper_lab.tuning.augmentation import PERTURBATIONS, Augmentation
from whisper_lab.tuning.merges import Merges
from whisper_lab.whisper import checkpoint
from whisper_lab.whisper.windows import shortest

CLIPS = corpus.read("sample", "sv-SE", ["train"], limit=8).splits["train"]
ODD = [
    "Åke åt ÄTTIOÅTTA öl, é ñ ß Œ!",
    "日本語 и 𝒳 🙂👩‍👩‍👧",
    "a\u030a o\u0308 \u200b…  två  mellanslag",
    "1 000,50 kr – 3×4=12?",
    '\'t "s"',
]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def of(path: Path) -> Clip:
    return Clip(path.stem, str(path), "")


def feature_set(folder, processor, made_of: dict, clips: dict[str, list[corpus.Clip]]) -> store.FeatureSet:
    settings = {"corpus": made_of, "train_splits": ["train"], "language": "sv", "front_end": FrontEnd().settings()}
    rows = {}
    for split, some in clips.items():
        labels = checkpoint.label_ids(processor.tokenizer, [clip.sentence for clip in some], "sv")
        rows[split] = [vars(clip) | {"labels": ids} for clip, ids in zip(some, labels)]
    store.build(folder, settings, rows, Extract(FrontEnd()), engine.Local(1))
    return store.FeatureSet(folder)


@pytest.fixture(scope="module")
def features(tmp_path_factory, processor) -> store.FeatureSet:
    """Of 8 clips of the sample."""
    made_of = {"name": "sample", "version": "2.0", "language": "sv-SE"}
    return feature_set(tmp_path_factory.mktemp("augmentation") / "set", processor, made_of, {"train": CLIPS})


@pytest.fixture(scope="module")
def rows(features) -> list[dict]:
    return list(features.split("train"))


@pytest.fixture(scope="module")
def merges(processor) -> Merges:
    return Merges.of(processor.tokenizer)


@pytest.fixture(scope="module")
def everything(features, processor) -> Augmentation:
    return augmentation.build(features, processor.tokenizer, True, PERTURBATIONS, 0.3)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def decibels(ratio) -> float:
    return 10 * np.log10(ratio)


def power(samples) -> float:
    return np.mean(np.square(samples, dtype=np.float64))


# --- as a whole


def test_what_is_not_asked_for_stays_as_it_is(features, processor, rows, everything):
    assert augmentation.build(features, processor.tokenizer) is None
    assert Augmentation()(rows[0], rng()) is rows[0]
    masks = Augmentation(masks=True)(rows[0], rng())
    assert {key for key in masks if not np.array_equal(masks[key], rows[0][key])} == {"features"}
    labels = Augmentation(bpe_dropout=0.5, merges=everything.merges)(rows[0], rng())
    assert {key for key in labels if not np.array_equal(labels[key], rows[0][key])} == {"labels"}


def test_the_row_that_is_given_never_changes(rows, everything):
    for seed, row in enumerate(rows):
        before = pickle.dumps(row)
        assert not same(everything(row, rng(seed)), row)
        assert pickle.dumps(row) == before


def test_a_seed_gives_the_same_row_in_another_process(rows, everything):
    here = [everything(row, rng(seed)) for seed, row in enumerate(rows)]
    assert not same(here[0], everything(rows[0], rng(99)))
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        there = list(pool.map(everything, rows, map(rng, range(len(rows)))))
    assert all(map(same, here, there))


def test_a_joined_row_is_masked_and_its_sound_left_alone(rows, everything):
    joined = rows[0] | {"id": "a+b", "given": 3}
    for seed in range(10):
        out = everything(joined, rng(seed))
        assert out["frames"] == joined["frames"] and out["features"].shape == joined["features"].shape
        assert (out["features"] != joined["features"]).any()


@pytest.mark.parametrize("wrong", [{"perturb": ("noize",)}, {"bpe_dropout": 1.0}, {"bpe_dropout": -0.1}])
def test_what_cannot_be_done_is_said(features, processor, wrong):
    with pytest.raises(LabError, match="noise|from 0 to below 1"):
        augmentation.build(features, processor.tokenizer, **wrong)


# --- masks


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("frames", [12, 410, 2990])
def test_masks_cover_no_more_than_their_share_of_the_clip_and_none_of_the_padding(mels, frames):
    log_mel = rng().uniform(-1, 1, (mels, frames + 9)).astype(np.float16)
    log_mel.flags.writeable = False
    masked_time, masked_mels = [], []
    for seed in range(100):
        out = augmentation.mask(log_mel, frames, rng(seed))
        changed = out != log_mel
        assert not changed[:, frames:].any()
        assert np.ptp(out[changed]) == 0 if changed.any() else True
        masked_time.append((changed.mean(axis=0)[:frames] > 0.9).mean())
        masked_mels.append((changed[:, :frames].mean(axis=1) > 0.9).mean())
    assert max(masked_time) <= 5 * min(0.05, 100 / frames) and max(masked_mels) <= 2 * 27 / 80
    assert np.mean(masked_mels) == pytest.approx(0.3, abs=0.06)  # 1/3, less where the two meet
    if frames == 410:
        assert np.mean(masked_time) == pytest.approx(0.11, abs=0.025)


def test_masks_hold_the_mean_and_leave_the_silence_after_the_clip_as_it_was(rows):
    for seed, row in enumerate(rows * 5):
        out = augmentation.mask(row["features"], row["frames"], rng(seed))
        changed = out != row["features"]
        assert changed.any() and np.unique(out[changed]) == np.float16(row["features"].astype(np.float32).mean())
        padded, plain = pad(out, FRAMES), pad(row["features"], FRAMES)
        assert (padded[:, row["frames"] :] == plain[:, row["frames"] :]).all()


# --- the sound


def test_perturbed_rows_fit_where_they_are_to_go(rows, everything):
    speeds = []
    for seed in range(6):
        for number, row in enumerate(rows[:4]):
            for limit in (None, row["frames"], FRAMES):
                out = everything.perturbed(row, rng(10 * seed + number), limit)
                assert out["features"].shape == (80, out["frames"]) and out["features"].dtype == np.float16
                assert out["frames"] == -(-round(out["seconds"] * SAMPLE_RATE) // 160) + 3
                assert out["frames"] <= (shortest(row["frames"]) if limit is None else limit)
                speeds.append(round(row["seconds"] / out["seconds"], 3))
    assert set(speeds) == {0.9, 1.0, 1.1}


def test_a_clip_that_a_speed_would_make_longer_than_30_s_keeps_its_own(rows, tmp_path):
    long = np.tile(read(CLIPS[0].path), 20)[: 28 * SAMPLE_RATE]
    soundfile.write(tmp_path / "long.wav", long, SAMPLE_RATE)
    row = rows[0] | {"id": "long", "seconds": 28.0, "frames": 2803}
    slow = Augmentation(perturb=("speed",), front_end=FrontEnd(), sounds={"long": of(tmp_path / "long.wav")})
    seconds = {round(slow.perturbed(row, rng(seed), FRAMES)["seconds"], 2) for seed in range(20)}
    assert seconds == {28.0, 25.45}


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_speed_changes_length_and_pitch_by_its_factor(speed):
    tone = np.sin(2 * np.pi * 1000 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    out = augmentation.at_speed(tone, speed)
    assert out.size == pytest.approx(tone.size / speed, abs=1) and out.dtype == np.float32
    loudest = np.fft.rfftfreq(out.size, 1 / SAMPLE_RATE)[np.abs(np.fft.rfft(out)).argmax()]
    assert loudest == pytest.approx(1000 * speed, abs=1)


@pytest.mark.parametrize("snr, colour", [(10, 0), (20, 1), (30, 2)])
def test_noise_is_as_loud_and_as_coloured_as_asked(snr, colour):
    speech = read(CLIPS[0].path)
    noise = augmentation.with_noise(speech, snr, colour, rng()).astype(np.float64) - speech
    assert decibels(power(speech) / power(noise)) == pytest.approx(snr, abs=0.05)
    spectrum, hertz = np.abs(np.fft.rfft(noise)) ** 2, np.fft.rfftfreq(noise.size, 1 / SAMPLE_RATE)
    octaves = [spectrum[(hertz >= low) & (hertz < 2 * low)].mean() for low in (125, 250, 500, 1000, 2000, 4000)]
    slope = np.polyfit(np.arange(6), decibels(np.array(octaves)), 1)[0]  # dB an octave
    assert slope == pytest.approx(-colour * decibels(2), abs=0.4)


@pytest.mark.parametrize("rt60", [0.1, 0.3, 0.6])
def test_a_room_falls_silent_in_the_time_asked(rt60):
    response = augmentation.impulse_response(rt60, 5, rng()).astype(np.float64)
    assert decibels(1 / np.sum(response[1:] ** 2)) == pytest.approx(5, abs=0.01)
    left = decibels(np.cumsum(response[:0:-1] ** 2)[::-1])  # Schroeder 1965: the power still to come
    left -= left[0]
    span = (left < -5) & (left > -25)
    slope = np.polyfit(np.flatnonzero(span) / SAMPLE_RATE, left[span], 1)[0]  # dB a second
    assert -60 / slope == pytest.approx(rt60, rel=0.12)


def test_in_a_room_speech_is_as_long_as_loud_and_as_early_as_before():
    speech = read(CLIPS[0].path)
    click = np.zeros(800, np.float32)
    click[0] = 1
    assert np.allclose(augmentation.in_room(speech, click), speech, atol=1e-5)
    heard = augmentation.in_room(speech, augmentation.impulse_response(0.5, 3, rng()))
    assert heard.shape == speech.shape and heard.dtype == np.float32
    assert decibels(power(heard) / power(speech)) == pytest.approx(0, abs=0.01)
    alike = np.fft.irfft(np.fft.rfft(heard) * np.fft.rfft(speech).conj(), speech.size)
    assert alike.argmax() == 0 and not np.allclose(heard, speech, atol=0.01)


def test_gain_stays_within_its_range_and_below_full_scale(tmp_path):
    samples = (0.4 * rng().standard_normal(SAMPLE_RATE)).clip(-0.7, 0.7)
    soundfile.write(tmp_path / "loud.wav", samples, SAMPLE_RATE, "FLOAT")
    plain = FrontEnd().log_mel(read(tmp_path / "loud.wav")).astype(np.float16)
    row = {"id": "loud", "seconds": 1.0, "frames": plain.shape[1], "features": plain}
    louder = Augmentation(perturb=("gain",), front_end=FrontEnd(), sounds={"loud": of(tmp_path / "loud.wav")})
    gains = []
    for seed in range(60):
        out = louder.perturbed(row, rng(seed))
        gain = (
            np.median(out["features"].astype(np.float32) - plain.astype(np.float32)) * 40
        )  # dB: the log-mel is log10 of power over 4
        assert (out is row) == (gain == 0)
        gains.append(gain)
    assert min(gains) == pytest.approx(-12, abs=1.5) and max(gains) == pytest.approx(decibels(1 / 0.49), abs=0.1)


def test_silence_stays_silence(tmp_path, everything):
    soundfile.write(tmp_path / "silence.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    row = {"id": "silence", "seconds": 1.0, "frames": 103, "features": np.full((80, 103), -1.5, np.float16)}
    quiet = Augmentation(perturb=PERTURBATIONS, front_end=FrontEnd(), sounds={"silence": of(tmp_path / "silence.wav")})
    assert all((quiet.perturbed(row, rng(seed))["features"] == -1.5).all() for seed in range(20))


# --- where the sound is


def test_the_sound_of_the_sample_is_found_by_itself_and_elsewhere_where_it_is_said(features, release):
    found = augmentation.sounds(features)
    assert found == {clip.id: clip for clip in CLIPS}
    elsewhere = augmentation.sounds(features, str(release))
    assert elsewhere.keys() == found.keys()
    assert all(Path(clip.path).is_relative_to(release) for clip in elsewhere.values())


def test_the_sound_of_a_hub_dataset_is_found_by_its_name_and_commit(processor, tmp_path, monkeypatch):
    """Read once, it is on this disk: there is no network here."""
    monkeypatch.setenv("WHISPER_LAB_CACHE", str(tmp_path / "cache"))
    read_once = tmp_path / "cache" / "corpora" / "hub-lab--speech--sv-0123456789ab"
    read_once.mkdir(parents=True)
    listed = {}
    for split, clips in {"train": CLIPS[:3], "dev": CLIPS[3:5], "test": CLIPS[4:6]}.items():
        audio = [{"bytes": Path(clip.path).read_bytes(), "path": f"{n}.mp3"} for n, clip in enumerate(clips)]
        table = pyarrow.table({"audio": audio, "sentence": [clip.sentence for clip in clips]})
        pyarrow.parquet.write_table(table, tmp_path / f"{split}.parquet")
        listed[split] = [str(tmp_path / f"{split}.parquet")]
    files.write_json(read_once / "origin.json", {"splits": listed, "licence": None})
    made_of = corpus.read("hub:lab/speech:sv@0123456789ab", "sv")
    clips = {split: made_of.splits[split] for split in ("train", "dev", "test")}
    found = augmentation.sounds(feature_set(tmp_path / "set", processor, made_of.identity(), clips))
    assert found == {clip.id: clip for clip in made_of.splits["train"]} and len(found) == 3


def test_the_sound_of_a_table_whose_columns_were_named_and_of_parts_of_its_files(processor, tmp_path):
    lines = [f"{clip.path};{clip.sentence};0.5;{1.5 + n / 4}" for n, clip in enumerate(CLIPS[:4])]
    (tmp_path / "mine.csv").write_text("\n".join(["fil;ord;från;start", *lines]), encoding="utf-8")
    columns = {"audio": "fil", "text": "ord", "start": "från", "end": "start"}
    made_of = corpus.read(str(tmp_path / "mine.csv"), "sv-SE", columns=columns)
    features = feature_set(tmp_path / "set", processor, made_of.identity(), made_of.splits)
    chosen = {"perturb": ("gain",), "source": str(tmp_path / "mine.csv")}
    with pytest.raises(LabError, match="no column known as audio"):
        augmentation.build(features, processor.tokenizer, **chosen)
    louder = augmentation.build(features, processor.tokenizer, **chosen, columns=columns)
    clip, row = made_of.splits["train"][0], features.split("train")[0]
    assert louder.sounds[clip.id] == clip and row["seconds"] == clip.end - 0.5
    heard = next(one for seed in range(20) if (one := louder.perturbed(row, rng(seed))) is not row)
    assert heard["seconds"] == row["seconds"] and heard["frames"] == row["frames"]
    options = recipes.Options(columns=("audio=fil", "text=ord=x"))
    assert options.named_columns == {"audio": "fil", "text": "ord=x"}
    assert "--columns audio=fil text=ord=x" in options.command_line()


def test_sound_that_is_not_there_is_said_with_the_way_out(features, release, tmp_path, monkeypatch):
    table = release / "sv-SE" / "train.tsv"
    clip = release / "sv-SE" / "clips" / Path(CLIPS[3].path).name
    clip.rename(tmp_path / "moved.mp3")
    with pytest.raises(
        LabError, match=f"1 of the 8 clips of train are gone, such as {CLIPS[3].id};.*--audio.*--perturb"
    ):
        augmentation.sounds(features, str(release))
    (tmp_path / "moved.mp3").rename(clip)
    table.write_text(table.read_text(encoding="utf-8").replace(CLIPS[5].sentence, "Något annat."), encoding="utf-8")
    with pytest.raises(LabError, match=f"[0-9] of the 8 clips of train are not in it, such as {CLIPS[5].id}"):
        augmentation.sounds(features, str(release))
    monkeypatch.setitem(features.manifest["corpus"], "name", "Common Voice")
    with pytest.raises(LabError, match="--perturb needs the sound of Common Voice 2.0; say where it is: --audio"):
        augmentation.sounds(features)


def test_a_clip_that_went_while_training_is_named(rows, everything, tmp_path):
    gone = Augmentation(perturb=PERTURBATIONS, front_end=FrontEnd(), sounds={rows[0]["id"]: of(tmp_path / "gone.mp3")})
    with pytest.raises(AudioError, match="gone.mp3: missing file"):
        [gone(rows[0], rng(seed)) for seed in range(20)]


# --- BPE dropout


def labels_of(processor, sentence: str) -> list[int]:
    return checkpoint.label_ids(processor.tokenizer, [sentence], "sv")[0]


@pytest.mark.parametrize("sentence", [*ODD, *(clip.sentence for clip in CLIPS)])
def test_bpe_dropout_keeps_the_text_and_without_it_the_tokens(processor, merges, sentence):
    labels = labels_of(processor, sentence)
    assert merges.encoded_again(labels, 0.0, rng()) == labels
    for seed in range(5):
        again = merges.encoded_again(labels, 0.3, rng(seed))
        assert again[:3] == labels[:3] and again[-1] == labels[-1]
        assert processor.tokenizer.decode(again[3:-1]) == f" {cleaned(sentence)}"
        assert again == merges.encoded_again(labels, 0.3, rng(seed))


def test_more_dropout_gives_more_tokens(merges, processor):
    labels = labels_of(processor, "Järnvägsstationen ligger bredvid sjukhuset i Örnsköldsvik.")
    lengths = [np.mean([len(merges.encoded_again(labels, p, rng(s))) for s in range(20)]) for p in (0, 0.1, 0.3, 0.9)]
    assert lengths == sorted(set(lengths)) and lengths[0] == len(labels)


def test_bpe_dropout_leaves_timestamps_and_parts_of_letters_where_they_are(processor, merges):
    stamps = processor.tokenizer.convert_tokens_to_ids(["<|0.00|>", "<|2.40|>", "<|2.60|>", "<|5.00|>"])
    first, second = (labels_of(processor, text)[3:-1] for text in ("Sjön är djup.", "Å, så vackert!"))
    labels = [50273, 50359, stamps[0], *first, stamps[1], stamps[2], *second, stamps[3], 50257]
    again = merges.encoded_again(labels, 0.6, rng())
    assert again != labels and [t for t in again if t >= 50257] == [t for t in labels if t >= 50257]
    cut = again.index(stamps[1])
    assert processor.tokenizer.decode(again[3:cut]) == " Sjön är djup."
    half = processor.tokenizer("å", add_special_tokens=False).input_ids
    letters = [merges.bytes[piece] for piece in merges.pieces[half[0]]][:1]  # the first of the two bytes of å
    assert merges.encoded_again(letters, 0.5, rng()) == letters


def test_labels_that_the_decoder_has_no_room_for_stay_plain(processor, merges, rows):
    dropout = Augmentation(bpe_dropout=0.9, merges=merges)
    words = rows[0] | {"labels": labels_of(processor, "och " * 300)}
    assert len(words["labels"]) < 448 and dropout.relabelled(words, rng()) is words
    assert len(dropout.relabelled(rows[0], rng())["labels"]) > len(rows[0]["labels"])
    full = rows[0] | {"before": [0] * (448 - len(rows[0]["labels"]))}
    assert dropout.relabelled(full, rng()) is full
