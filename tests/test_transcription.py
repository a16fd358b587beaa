import copy
import shutil

import numpy as np
import pytest
import torch
from browser import GREEDY
from conftest import JAPANESE

from whisper_lab import LabError, files
from whisper_lab.corpora import corpus
from whisper_lab.scores import hypotheses, scoring
from whisper_lab.serving import scripts, transcription
from whisper_lab.serving.captions import Word, cues, joined
from whisper_lab.serving.transcription import Cancelled, Progress, Transcriber
from whisper_lab.speech import audio, voice
from whisper_lab.speech.audio import SAMPLE_RATE
from whisper_lab.speech.features import FRAMES, FrontEnd, pad
from whisper_lab.whisper import backends, checkpoint
from whisper_lab.whisper.decoding import AUTO, MAX_NEW_TOKENS, POSITIONS, Decoded, Decoding


@pytest.fixture(scope="module")
def clips():
    """Two that the untuned model hears, also in one window."""
    return corpus.read("sample", "sv-SE", ["test"]).splits["test"][5:7]


@pytest.fixture(scope="module")
def sounds(clips) -> list[np.ndarray]:
    return [audio.read(clip.path) for clip in clips]


@pytest.fixture(scope="module")
def base() -> Transcriber:
    return Transcriber("sample")


@pytest.fixture(scope="module")
def base_in_transformers() -> Transcriber:
    return Transcriber("sample", "transformers", precision="float32")


@pytest.fixture
def short(tiny, tmp_path, monkeypatch) -> Transcriber:
    """A model that says it learnt windows of 3 and 6 s."""
    monkeypatch.setenv("WHISPER_LAB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "short"
    shutil.copytree(tiny, folder)
    config = files.read_json(folder / "config.json") | {"trained_windows": [300, 600, FRAMES]}
    files.write_json(folder / "config.json", config)
    return Transcriber(str(folder))


def test_both_engines_write_the_same(base, base_in_transformers, sounds):
    """The same weights in float32; what int8 costs is measured by benchmarks/transcription.py. Of words, they are as
    sure."""
    exact = copy.copy(base)
    exact.backend = backends.CTranslate2(exact.folder, "cpu", 2, precision="float32")
    ours, theirs = ([one.text(sound, GREEDY) for sound in sounds] for one in (exact, base_in_transformers))
    assert all(ours) and scoring.scores(theirs, ours)["wer_normalised"].value <= 1
    sure = []
    for transcriber in (exact, base_in_transformers):
        (segment,) = transcriber.segments(sounds[0], GREEDY, words=True)
        sure.append({word.text: word.probability for word in segment.words})
    assert sure[0] == pytest.approx(sure[1], abs=0.02) and min(sure[0].values()) < 0.6 < max(sure[0].values()) < 1


def test_the_terminal_reads_what_the_scores_read(base_in_transformers, clips, sounds):
    """hypotheses.transcribe, of training-pipeline.py, over the same clip."""
    from whisper_lab.whisper.batches import Collator

    class Split:
        rows = [
            {"id": clip.path, "sentence": clip.sentence, "features": FrontEnd().log_mel(sound), "labels": [1] * 5}
            for clip, sound in zip(clips[:1], sounds)
        ]

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, i):
            return self.rows[i]

        def column(self, name):
            return [row["features"].shape[1] if name == "frames" else row[name] for row in self.rows]

    t = base_in_transformers
    token = t.tokenizer.convert_tokens_to_ids
    heard = hypotheses.transcribe(
        t.backend.model,
        Split(),
        t.tokenizer,
        Collator(token("<|startoftranscript|>"), token("<|endoftext|>")),
        checkpoint.prompt_ids(t.tokenizer, "sv"),
        [FRAMES],
        3,
        "scores",
    )
    assert heard.texts == [t.text(sounds[0])]


def widths(transcriber, sound) -> list[int]:
    """The frames of every window that the engine is given."""
    given, encode = [], transcriber.backend.encode
    transcriber.backend.encode = lambda features: given.append(features.shape[-1]) or encode(features)
    try:
        list(transcriber.segments(sound))
    finally:
        transcriber.backend.encode = encode
    return given


def test_only_a_model_that_learnt_short_windows_is_given_them(base, short, sounds):
    assert base.lengths == [FRAMES] and widths(base, sounds[0]) == [FRAMES]
    first = widths(short, sounds[0])[0]
    frames = FrontEnd().log_mel(sounds[0]).shape[1]
    assert first == (300 if frames <= 300 else 600)
    assert short.longest == 6 and base.longest == 30


@pytest.mark.parametrize("engine", backends.NAMES)
def test_words_have_times_in_order_that_fit_what_is_said(engine, base, base_in_transformers, clips, sounds):
    transcriber = base if engine == "ctranslate2" else base_in_transformers
    pause = np.zeros(2 * SAMPLE_RATE, np.float32)
    sound = np.concatenate([pause, sounds[0], pause, sounds[1]])
    segments = list(transcriber.segments(sound, GREEDY, words=True))
    words = [word for segment in segments for word in segment.words]
    assert len(words) > 5 and all(word.text == word.text.strip() for word in words)
    assert all(word.start <= word.end and 0 < word.probability <= 1 for word in words)
    assert all(a.end <= b.start + 1e-6 for a, b in zip(words, words[1:]))
    assert 1.8 < words[0].start < 3 and words[-1].end < 4.1 + (sounds[0].size + sounds[1].size) / SAMPLE_RATE
    middle = 2 + sounds[0].size / SAMPLE_RATE
    assert not [word for word in words if middle + 0.3 < word.start < middle + 1.5]
    for segment in segments:
        assert segment.text == " ".join(word.text for word in segment.words)


def test_a_part_of_a_recording_keeps_its_own_times(base, clips, sounds):
    length = sounds[0].size / SAMPLE_RATE
    whole = np.concatenate([sounds[0], np.zeros(SAMPLE_RATE, np.float32), sounds[1]])
    (segment,) = base.segments(whole, GREEDY, start=length + 0.5)
    assert segment.text == base.text(whole[int((length + 0.5) * SAMPLE_RATE) :], GREEDY)
    assert segment.start >= length + 0.5 - 1e-6


def test_a_file_and_its_samples_give_the_same(base, clips, sounds):
    assert [s.text for s in base.segments(clips[0].path, GREEDY)] == [base.text(sounds[0], GREEDY)]


def noises() -> dict[str, np.ndarray]:
    """Twelve seconds each of what is not speech."""
    rng, t = np.random.default_rng(0), np.arange(12 * SAMPLE_RATE) / SAMPLE_RATE
    spectrum = np.fft.rfft(rng.standard_normal(t.size))
    spectrum[1:] /= np.sqrt(np.arange(1, spectrum.size))
    pink = np.fft.irfft(spectrum)

    def notes(pitches, seconds, overtones):
        tune = []
        for pitch in pitches:
            n = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
            tones = (a * np.sin(2 * np.pi * pitch * (k + 1) * n) for k, a in enumerate(overtones))
            tune.append(sum(tones) * np.minimum(1, n / 0.02) * np.exp(-2 * n))
        return np.resize(np.concatenate(tune), t.size)

    scale = [261.6, 293.7, 329.6, 392.0, 440.0, 523.3]
    tune = notes(rng.choice(scale, 30), 0.4, (1, 0.5, 0.25, 0.12))
    chords = notes(rng.choice([130.8, 174.6, 196.0], 8), 1.6, (1, 0.7, 0.5, 0.3))
    sounds = {
        "silence": 0 * t,
        "faint hiss": 1e-3 * rng.standard_normal(t.size),
        "white noise": 0.1 * rng.standard_normal(t.size),
        "pink noise": 0.3 * pink / np.abs(pink).max(),
        "a tone": 0.3 * np.sin(2 * np.pi * 440 * t),
        "ringing": 0.3 * np.sin(2 * np.pi * 425 * t) * (t % 5 < 1),
        "keys": 0.2 * (np.sin(2 * np.pi * 697 * t) + np.sin(2 * np.pi * 1209 * t)) * (t % 1 < 0.5),
        "a sweep": 0.3 * np.sin(2 * np.pi * (100 * t + 150 * t * t)),
        "clicks": 0.8 * (np.arange(t.size) % 8_000 == 0),
        "hold music": 0.3 * (tune + 0.7 * chords) / np.abs(tune + 0.7 * chords).max(),
    }
    return {name: sound.astype(np.float32) for name, sound in sounds.items()}


NOISES = noises()


@pytest.mark.parametrize("name", NOISES)
def test_nothing_is_invented(base, name):
    assert list(base.segments(NOISES[name])) == []


def test_music_before_and_after_adds_no_words(base, clips, sounds):
    said = clips[0].sentence.split()
    music, pause = NOISES["hold music"], np.zeros(SAMPLE_RATE, np.float32)
    among = base.text(np.concatenate([music, pause, sounds[0], pause, music])).split()
    assert 0 < len(among) <= len(said) + 1


def test_speech_that_is_not_detected_is_written_where_the_model_is_sure(base, sounds, monkeypatch, request):
    expected = base.text(sounds[0], GREEDY)
    request.getfixturevalue("no_speech_detected")
    assert expected and base.text(sounds[0], GREEDY).split()[1:-1] == expected.split()[1:-1]
    monkeypatch.setattr(transcription, "SURE", 0.0)
    assert base.text(sounds[0], GREEDY) == ""


def test_a_sentence_that_is_said_six_times_is_written_six_times(base, sounds):
    """Whisper writes it once or twice and stops; what is missing is decoded in pieces."""
    once = base.text(sounds[0], GREEDY).split()
    pause = np.zeros(SAMPLE_RATE // 4, np.float32)
    spoken = list(base.segments(np.concatenate([sounds[0], pause] * 6), GREEDY, words=True))
    assert len(joined(spoken).split()) >= 5 * len(once)
    words = [word for segment in spoken for word in segment.words]
    assert all(word.end - word.start >= transcription.BRIEF for word in words)
    assert all(a.end <= b.start + 1e-6 for a, b in zip(words, words[1:]))


def test_words_of_no_length_share_the_time_of_the_nearer_neighbour():
    words = [Word("ja", 1, 1), Word("det", 1.2, 1.8), Word("är", 1.8, 1.8), Word("jag", 3, 3.5), Word("som", 4, 4)]
    timed = transcription._with_length(words)
    assert [word.text for word in timed] == [word.text for word in words]
    assert [(round(word.start, 2), round(word.end, 2)) for word in timed] == [
        (1.0, 1.23),
        (1.23, 1.57),
        (1.57, 1.8),
        (3.0, 3.5),
        (3.5, 4.0),
    ]


def test_segments_come_out_before_all_is_read_and_it_can_be_cancelled(short, sounds):
    talk = np.concatenate([np.pad(sound, (0, SAMPLE_RATE)) for sound in sounds * 24])
    progress, seen, stop = Progress(), [], []
    found = short.segments(talk, progress=progress, cancelled=lambda: bool(stop))
    next(found)
    assert 0 < progress.done < progress.total == talk.size / SAMPLE_RATE
    seen.append(progress.done)
    stop.append(True)
    with pytest.raises(Cancelled):
        list(found)
    assert progress.done < progress.total


def test_expected_words_are_given_as_if_just_said(base):
    ids = base.prompt(Decoding(prompt="Skövde, Örebro"))
    assert base.tokenizer.decode(ids) == (
        "<|startofprev|> Skövde, Örebro<|startoftranscript|><|sv|><|transcribe|><|notimestamps|>"
    )
    longest = base.prompt(Decoding(prompt="ord " * 1_000))
    assert len(longest) + MAX_NEW_TOKENS == POSITIONS
    assert base.prompt(Decoding("en", "translate"))[1:3] == base.tokenizer.convert_tokens_to_ids(
        ["<|en|>", "<|translate|>"]
    )


def test_options_change_what_is_read_in_both_engines(base, base_in_transformers, sounds):
    for decoding in (Decoding(beams=3), Decoding(fallback=True), Decoding(prompt="Skövde " * 300)):
        assert base.text(sounds[0], decoding)
    assert base_in_transformers.text(sounds[0], Decoding(beams=2, fallback=True, prompt="Skövde " * 300))


def test_a_model_is_converted_once_for_the_same_content(tiny, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("WHISPER_LAB_CACHE", str(tmp_path / "cache"))
    one = backends.convert(tiny, "int8")
    capfd.readouterr()
    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)
    assert backends.convert(copy, "int8") == one and not capfd.readouterr().err
    settings = files.read_json(copy / "generation_config.json")
    files.write_json(copy / "generation_config.json", settings | {"suppress_tokens": [1, 2]})
    other = backends.convert(copy, "int8")
    assert other != one and "Converting" in capfd.readouterr().err
    assert files.read_json(other / "config.json")["suppress_ids"] == [1, 2]
    assert backends.convert(one, "int8") == one  # a folder of CTranslate2's is taken as it is


SCRIPTS = (
    " 私は友達と一緒に映画を見ました。「とても楽しかった」です！",
    "我用Python写代码，很好！你呢？",
    " สวัสดีครับ วันนี้อากาศดีมาก",
    "မင်္ဂလာပါ။ နေကောင်းလား",
    " ខ្ញុំស្រឡាញ់ភាសាខ្មែរ។ អរគុណ",
    "བོད་སྐད་སྙན་པོ་ཡོད།",
    " مرحبا، كيف حالك؟ أنا بخير۔ شكرا",
    " Hej då – säger han. 3,5 °C? 👩‍👩‍👧 🎉",
)


@pytest.mark.parametrize("text", SCRIPTS)
def test_words_are_all_of_the_text_and_part_no_character(base, text):
    tokens = base.tokenizer(text, add_special_tokens=False).input_ids
    words = base.words_of(tokens)
    assert [token for word in words for token in word] == tokens
    assert "".join(map(base.decoded, words)) == text
    spaces = len(text.split())
    assert len(words) == spaces if scripts.UNSPACED.search(text) is None else len(words) > 2 * spaces
    seconds = len(tokens) / 5
    window = voice.Window(0, np.zeros(int(seconds * SAMPLE_RATE), np.float32), [(0, seconds)])
    aligned = backends.Alignment(np.arange(len(tokens) + 1) / 5, np.ones(len(tokens)))
    segments = list(base._segments_of(window, Decoded(tokens, 0, 0, True), aligned))
    assert joined(segments) == text.strip()
    for segment in segments:
        assert segment.text == joined(segment.words)
        assert all(word.start < word.end <= word.start + 4 for word in segment.words)
    ends = sum(text.count(mark) for mark in "。！？។؟۔") - text.count("！")  # the last ends with the text
    assert len(segments) >= ends


def test_japanese_has_times_by_character_and_captions_without_hyphens(base, espeak):
    sound = audio.read(espeak("ja", JAPANESE))
    segments = list(base.segments(sound, Decoding("ja", beams=1), words=True))
    words = [word for segment in segments for word in segment.words]
    assert len(words) > 10 and all(0 <= word.end - word.start < 1.5 for word in words)
    assert joined(segments) == base.text(sound, Decoding("ja", beams=1))
    lines = [line for cue in cues(segments) for line in cue.lines]
    assert len(lines) > 1 and "".join(lines) == joined(segments).replace(" ", "")
    assert all(scripts.width(line) <= 42 for line in lines)


def test_a_character_that_was_never_finished_takes_no_other_with_it(base):
    whole = base.tokenizer("映画映画", add_special_tokens=False).input_ids
    cut = [*whole[:1], *whole]  # the first token is two bytes of three
    assert [token for word in base.words_of(cut) for token in word] == cut
    assert len(base.words_of(cut)) >= 4


@pytest.mark.parametrize("engine", backends.NAMES)
def test_the_language_is_detected_as_whisper_does(engine, base, base_in_transformers, espeak):
    transcriber = base if engine == "ctranslate2" else base_in_transformers
    sound = audio.read(espeak("ja", JAPANESE))
    mel = pad(transcriber.front_end.log_mel(sound), FRAMES)[None]
    (likely,) = transcriber.backend.languages(transcriber.backend.encode(mel))
    assert sum(likely.values()) == pytest.approx(1, abs=1e-3) and len(likely) == 99
    model = base_in_transformers.backend.model
    token = model.detect_language(input_features=torch.from_numpy(mel), generation_config=model.generation_config)
    assert max(likely, key=likely.get) == base.tokenizer.decode(token).strip("<|>") == "ja"
    progress = Progress()
    segments = list(transcriber.segments(sound, Decoding(AUTO, beams=1), progress=progress))
    assert [s.text for s in segments] == [s.text for s in transcriber.segments(sound, Decoding("ja", beams=1))]
    assert progress.language == ("ja", pytest.approx(likely["ja"], abs=0.3))
    assert progress.facts()["language"] == "ja" and 0.5 < progress.facts()["language_probability"] <= 1


def test_the_language_is_that_of_most_of_the_speech(base, monkeypatch):
    """Not of its first words: 30 s and then 15."""
    likely = iter([[{"sv": 0.6, "ja": 0.4}], [{"sv": 0.1, "ja": 0.9}]])
    monkeypatch.setattr(base.backend, "encode", lambda features: None)
    monkeypatch.setattr(base.backend, "languages", lambda encoded: next(likely))
    assert base.detected(np.zeros(45 * SAMPLE_RATE, np.float32)) == ("ja", pytest.approx((2 * 0.4 + 0.9) / 3))


def test_a_tuned_model_that_is_not_certain_has_its_own_language(short, sounds, monkeypatch):
    assert short.tuned_to is None and short.detected(sounds[0])[1] < 0.5
    monkeypatch.setitem(short.__dict__, "tuned_to", "fi")
    assert short.detected(sounds[0])[0] == "fi" == short.language


def test_without_speech_no_language_is_detected(base):
    progress = Progress()
    assert not list(base.segments(np.zeros(SAMPLE_RATE, np.float32), Decoding(AUTO), progress=progress))
    assert progress.language is None and progress.facts() == {}


def test_wrong_names_are_said(tiny):
    with pytest.raises(LabError, match="ctranslate2 or transformers"):
        Transcriber(str(tiny), "onnx")
