import http.server
import threading

import av
import numpy as np
import psutil
import pytest
import soundfile

from whisper_lab.speech import audio


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_channels_become_the_same_16_khz_mono(tmp_path, rate, channels):
    file = tmp_path / "tone.wav"
    soundfile.write(file, np.stack([tone(1, rate)] * channels, axis=1), rate)
    heard = audio.read(file)
    assert heard.dtype == np.float32 and heard.ndim == 1
    assert heard.size == pytest.approx(16_000, abs=2)
    middle = slice(1_000, 15_000)  # resampling rings at the ends
    np.testing.assert_allclose(heard[middle], tone(1, 16_000)[middle], atol=2e-3)


@pytest.mark.parametrize("kind", ["mp3", "flac", "ogg", "wav"])
def test_formats(tmp_path, kind):
    file = tmp_path / f"tone.{kind}"
    soundfile.write(file, tone(2, 48_000), 48_000)
    heard = audio.read(file, expected_seconds=2)
    assert heard.size == pytest.approx(32_000, abs=2_000)
    assert np.abs(heard).max() == pytest.approx(0.5, abs=0.05)


def test_channels_are_averaged_unless_they_cancel_each_other(tmp_path):
    left, right, file = tone(2.5, 16_000), tone(2.5, 16_000, 300), tmp_path / "two.wav"
    for second, wanted in ((right, (left + right) / 2), (-left, left), (-0.9 * left, left), (0 * left, left / 2)):
        soundfile.write(file, np.stack([left, second], axis=1), 16_000, subtype="FLOAT")
        np.testing.assert_allclose(audio.read(file), wanted, atol=1e-6)
        np.testing.assert_allclose(np.concatenate([*audio.blocks(file, seconds=0.7)]), wanted, atol=1e-6)


@pytest.mark.parametrize("offset, level", [(0.1, 0.05), (-0.8, 0.15), (0.02, 0.01)])
def test_a_constant_offset_is_taken_off(tmp_path, offset, level):
    file, wanted = tmp_path / "offset.wav", level * chirp(3, 44_100)
    soundfile.write(file, wanted + offset, 44_100, subtype="FLOAT")
    heard, plain = audio.read(file), audio.from_samples(44_100, wanted)
    for same in (heard, audio.from_samples(44_100, wanted + offset), np.concatenate([*audio.blocks(file, 0, 3, 1)])):
        np.testing.assert_allclose(same[800:-800], plain[800:-800], atol=level / 20)


@pytest.mark.parametrize(
    "reason, spoil",
    [
        ("missing file", lambda file: file.unlink()),
        ("empty file", lambda file: file.write_bytes(b"")),
        ("not audio", lambda file: file.write_bytes(b"<html>404 Not Found</html>" * 100)),
        ("truncated", lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])),
    ],
)
@pytest.mark.parametrize("kind", ["mp3", "wav", "flac"])
def test_a_spoilt_file_says_how(tmp_path, kind, reason, spoil):
    file = tmp_path / f"clip.{kind}"
    soundfile.write(file, tone(3, 32_000), 32_000)
    spoil(file)
    with pytest.raises(audio.AudioError) as error:
        audio.read(file, expected_seconds=3)
    # libsndfile refuses a FLAC or WAV that breaks off, or reads what is there: both are found out
    assert error.value.reason in ({reason, "not audio"} if reason == "truncated" else {reason})
    assert str(file) in str(error.value)


def chirp(seconds: float, rate: int) -> np.ndarray:
    """From 200 Hz to 3 kHz: no stretch of it resembles another, so what is late or missing shows."""
    t = np.arange(round(seconds * rate)) / rate
    return 0.5 * np.sin(2 * np.pi * (200 + 1_400 * t / seconds) * t)


def alike(heard, wanted, correlation: float = 0.999, level: float = 0.03, apart: int = 0) -> None:
    """Same shape, level and place, to `apart` samples, but for 0.1 s at the edges, where resampling rings."""
    assert heard.dtype == np.float32 and heard.ndim == 1
    assert abs(heard.size - wanted.size) < 1_000
    first, last = 1_600, min(heard.size, wanted.size) - 1_600
    shifted = [heard[first + shift : last + shift] for shift in range(-apart, apart + 1)]
    wanted = wanted[first:last]
    assert max(np.corrcoef(here, wanted)[0, 1] for here in shifted) > correlation
    assert np.std(shifted[apart]) == pytest.approx(np.std(wanted), rel=level)


TYPES = {
    "float64": lambda x: x,
    "float32": lambda x: x.astype(np.float32),
    "float16": lambda x: x.astype(np.float16),
    "int32": lambda x: np.round(x * 2**31).astype(np.int32),
    "int16": lambda x: np.round(x * 2**15).astype(np.int16),
    "int8": lambda x: np.round(x * 2**7).astype(np.int8),
    "uint8": lambda x: np.round(x * 2**7 + 128).astype(np.uint8),
}
LAYOUTS = {
    "mono": lambda x: x,
    "one channel, last": lambda x: x[:, None],
    "channels last": lambda x: np.stack([x, x], axis=1),
    "channels first": lambda x: np.stack([x] * 6),
}


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("kind", TYPES)
def test_samples_of_any_type_layout_and_rate_are_the_same_sound(kind, rate):
    for layout in LAYOUTS.values():
        samples = layout(TYPES[kind](chirp(1, rate)))
        alike(audio.from_samples(rate, samples), chirp(1, 16_000))
        came = audio.received(rate, samples)
        assert (came.rate, came.dtype, came.seconds) == (rate, kind, 1)
        assert came.channels == (1 if samples.ndim == 1 else min(samples.shape))
        assert came.peak == pytest.approx(0.5, abs=0.01)


def test_integers_are_the_same_sound_as_the_floats_they_stand_for():
    from whisper_lab.speech.features import FrontEnd

    integers = TYPES["int16"](chirp(1, 48_000))
    floats = (integers / 2**15).astype(np.float32)
    heard = audio.from_samples(48_000, integers)
    np.testing.assert_array_equal(heard, audio.from_samples(48_000, floats))
    raw = integers.astype(np.float32)
    unscaled = FrontEnd().log_mel(audio.soxr.resample(raw, 48_000, 16_000))
    assert np.median(unscaled - FrontEnd().log_mel(heard)) == pytest.approx(np.log10(2**30) / 4)  # what it would cost
    for mistake in (raw, raw[:, None], raw.astype(np.float64), raw * 2**16, np.clip(raw, -3, 3)):
        with pytest.raises(audio.AudioError, match="full scale") as error:
            audio.from_samples(48_000, mistake)
        assert error.value.reason == "not scaled"


def test_samples_stay_within_full_scale():
    square = np.where(np.sin(np.arange(48_000) * 0.05) > 0, 1.0, -1.0)
    for samples in (square, 3.9 * square):
        heard = audio.from_samples(48_000, samples)
        assert np.abs(heard).max() == 1  # resampling alone overshoots at each edge
        np.testing.assert_array_equal(heard, audio.from_samples(48_000, square))
    assert audio.received(48_000, 3.9 * square).peak == pytest.approx(3.9)
    silence = audio.from_samples(44_100, np.zeros(44_100, np.int16))
    assert silence.size == 16_000 and not silence.any()


SECOND = np.zeros(16_000, np.float32)


@pytest.mark.parametrize(
    "reason, rate, samples",
    [
        ("wrong type", 16_000, SECOND.astype(np.int64)),
        ("wrong type", 16_000, SECOND.astype(np.uint16)),
        ("wrong type", 16_000, SECOND.astype(bool)),
        ("wrong type", 16_000, SECOND.astype(complex)),
        ("wrong type", 16_000, SECOND.astype(object)),
        ("wrong type", 16_000, None),
        ("wrong shape", 16_000, SECOND.reshape(2, 2, -1)),
        ("wrong shape", 16_000, np.float32(0)),
        ("wrong rate", 3_999, SECOND),
        ("wrong rate", 384_001, SECOND),
        ("wrong rate", float("nan"), SECOND),
        ("wrong rate", None, SECOND),
        ("wrong rate", SECOND, SECOND),
        ("no samples", 16_000, SECOND[:0]),
        ("no samples", 16_000, SECOND[:0, None]),
        ("not scaled", 16_000, SECOND + 4.01),
        ("not audio", 16_000, SECOND + np.nan),
        ("not audio", 16_000, SECOND - np.inf),
    ],
)
def test_samples_that_cannot_be_heard_are_refused(reason, rate, samples):
    for function in (audio.from_samples, audio.received):
        with pytest.raises(audio.AudioError) as error:
            function(rate, samples)
        assert error.value.reason == reason
        assert "\n" not in str(error.value)
    if reason == "wrong type":
        assert "int16" in str(error.value) and "float32" in str(error.value)


def record(path, samples, rate, codec, layout="mono", silent=0.0, video=None, sound=True, format=None, options=None):
    """Write `samples` (one channel of all that `layout` has) as FFmpeg does, `silent` seconds into the recording."""
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        picture = container.add_stream(video, rate=10) if video else None
        if picture:
            picture.width = picture.height = 64
            picture.pix_fmt = "yuv420p"
        stream = container.add_stream(codec, rate=rate, layout=layout) if sound else None
        if picture:
            for i in range(round(10 * (silent + len(samples) / rate))):
                container.mux(picture.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), i, np.uint8), "rgb24")))
            container.mux(picture.encode(None))
        if stream:
            kind = stream.codec_context.format
            scaled = TYPES[{"u": "uint", "s": "int"}.get(kind.name[0], "float") + str(kind.bits)](samples)
            channels = stream.codec_context.layout.nb_channels
            for i in range(0, len(scaled), 4_800):
                part = [scaled[i : i + 4_800]] * channels
                part = np.stack(part) if kind.is_planar else np.stack(part, axis=1).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), kind.name, stream.codec_context.layout)
                frame.sample_rate, frame.pts = rate, i + round(silent * rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


CONTAINERS = {  # what libsndfile cannot open
    "aac.m4a": {"rate": 44_100, "codec": "aac", "layout": "stereo"},
    "alac.m4a": {"rate": 44_100, "codec": "alac"},
    "film.mp4": {"rate": 44_100, "codec": "aac", "video": "mpeg4", "layout": "stereo"},
    "film.mkv": {"rate": 48_000, "codec": "libopus", "video": "mpeg4"},
    "opus.webm": {"rate": 48_000, "codec": "libopus"},
    "opus 7.1.webm": {"rate": 48_000, "codec": "libopus", "layout": "7.1"},  # ends PyAV's own conversion, and Python
    "browser.webm": {"rate": 48_000, "codec": "libopus", "options": {"live": "1"}},
    "pcm.mov": {"rate": 16_000, "codec": "pcm_s16le", "layout": "stereo"},
    "dvd.mpg": {"rate": 48_000, "codec": "pcm_dvd", "video": "mpeg2video", "format": "dvd"},
    "pack.wv": {"rate": 22_050, "codec": "wavpack"},
}
LENGTH = 12.3  # seconds


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for name, how in CONTAINERS.items():
        record(folder / name, chirp(LENGTH, how["rate"]), **how)
    for name in ("x.mp3", "x.flac", "x.ogg", "x.wav", "gsm.wav"):
        rate, subtype = (8_000, "GSM610") if name == "gsm.wav" else (44_100, None)
        with soundfile.SoundFile(folder / name, "w", rate, 1, subtype) as file:
            for part in np.split(chirp(LENGTH, rate), range(4_096, round(LENGTH * rate), 4_096)):
                file.write(part)  # libsndfile's Vorbis crashes on long writes
    return folder


@pytest.mark.parametrize("name", [*CONTAINERS, "gsm.wav"])
def test_what_ffmpeg_reads(recordings, name):
    heard = audio.read(recordings / name, expected_seconds=LENGTH)
    if name == "gsm.wav":  # telephone: high notes are faint
        alike(heard, chirp(LENGTH, 16_000), correlation=0.9, level=0.1)
    else:
        alike(heard, chirp(LENGTH, 16_000), correlation=0.99)
    told = audio.seconds_of(recordings / name)
    assert told is None if name == "browser.webm" else told == pytest.approx(LENGTH, abs=0.1)
    came = audio.describe(recordings / name)
    how = CONTAINERS.get(name, {"rate": 8_000})
    assert came.rate == how["rate"]
    assert came.channels == {"mono": 1, "stereo": 2, "7.1": 8}[how.get("layout", "mono")]
    assert came.seconds == pytest.approx(LENGTH, abs=0.05)
    assert 0.4 < came.peak < 1


@pytest.mark.parametrize("name", [*CONTAINERS, "x.mp3", "x.flac", "x.ogg", "x.wav", "gsm.wav"])
def test_blocks_are_the_same_sound(recordings, name):
    whole = np.clip(audio.read(recordings / name), -1, 1)
    pieces = list(audio.blocks(recordings / name, seconds=2.5))
    assert {piece.size for piece in pieces[:-1]} == {40_000} and 0 < pieces[-1].size <= 40_000
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)
    for start, end in [(0, 0.5), (0.5, 2), (3.21, 7.77), (6, None), (11.5, 100)]:
        part = np.concatenate(list(audio.blocks(recordings / name, start, end, seconds=1)))
        wanted = whole[round(start * 16_000) : None if end is None else round(end * 16_000)]
        if name in CONTAINERS:  # milliseconds in WebM; AAC fills its gaps with noise of its own
            assert abs(part.size - wanted.size) <= 16
            size = min(part.size, wanted.size) - 100
            apart = [np.abs(part[50 + by : size + by] - wanted[50:size]).max() for by in range(-16, 17)]
            assert min(apart) < 0.12
        else:
            np.testing.assert_allclose(part, wanted, atol=1e-6)
    with pytest.raises(audio.AudioError) as error:
        list(audio.blocks(recordings / name, start=60))
    assert error.value.reason == "no samples"


def test_a_length_that_ffmpeg_guesses_is_not_believed(tmp_path):
    """Raw AAC says nothing about it; by the bit rate of its silent beginning this would last minutes."""
    late = np.concatenate([np.zeros(20 * 44_100), chirp(20, 44_100)])
    raw = record(tmp_path / "raw.aac", late, 44_100, "aac", format="adts")
    with av.open(str(raw)) as container:
        assert container.duration > 60e6  # microseconds
    assert audio.seconds_of(raw) is None
    assert audio.read(raw).size == pytest.approx(40 * 16_000, abs=1_000)


def test_times_are_those_a_player_shows(tmp_path):
    """Where a film's sound begins late, silence stands for what is missing."""
    film = record(tmp_path / "late.mp4", chirp(4, 48_000), 48_000, "aac", silent=1.5, video="mpeg4")
    heard = audio.read(film)
    assert np.abs(heard[:22_000]).max() < 0.01
    alike(heard[24_000:], chirp(4, 16_000), correlation=0.95, apart=16)  # MP4 notes the delay in milliseconds
    for start, end in ((0.5, 2), (2.25, 3), (3.5, 4.5)):  # before, just after and well after it begins
        part = np.concatenate(list(audio.blocks(film, start, end)))
        np.testing.assert_allclose(part, heard[round(start * 16_000) : round(end * 16_000)], atol=0.05)


def test_a_broken_stretch_is_skipped_and_what_follows_keeps_its_place(tmp_path):
    file = record(tmp_path / "broken.m4a", chirp(LENGTH, 48_000), 48_000, "aac", options={"movflags": "+faststart"})
    data = bytearray(file.read_bytes())
    sound = data.index(b"mdat")
    third = (len(data) - sound) // 3
    data[sound + third : sound + third + 3_000] = np.random.default_rng(0).bytes(3_000)
    file.write_bytes(data)
    damage = []
    heard, wanted = np.concatenate([*audio.blocks(file, damage=damage)]), chirp(LENGTH, 16_000)
    assert [one.reason for one in damage] == ["damaged"] and damage[0].at == pytest.approx(LENGTH / 3, abs=0.2)
    refused(file, "damaged")
    alike(heard[:48_000], wanted[:48_000], correlation=0.98)
    alike(heard[128_000:], wanted[128_000:], correlation=0.98)


def refused(path, reason: str) -> None:
    """By everything that opens a file, in one line that names it, and nothing of it stays open."""
    for function in (audio.read, audio.describe, audio.seconds_of, lambda path: list(audio.blocks(path))):
        if reason in ("truncated", "damaged") and function is not audio.read:
            continue  # what is there is given, and said to be not all
        if reason == "not scaled" and function in (audio.seconds_of, audio.describe):
            continue
        with pytest.raises(audio.AudioError) as error:
            function(path)
        assert error.value.reason == reason
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not [file for file in psutil.Process().open_files() if file.path == str(path)]


@pytest.mark.parametrize("name", ["text.mp3", "text.txt", "text.g722", "text.m4a", "text.wav", "text.raw"])
def test_a_text_is_not_audio_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_text("Det var en gång en text som inte lät.\n" * 1_000, encoding="utf-8")
    refused(tmp_path / name, "not audio")


def test_files_without_sound(tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    refused(tmp_path / "picture.png", "no sound in it")
    film = record(tmp_path / "silent.mp4", chirp(2, 16_000), 16_000, "aac", video="mpeg4", sound=False)
    refused(film, "no sound in it")
    refused(tmp_path, "not a file")
    (tmp_path / "empty.m4a").touch()
    refused(tmp_path / "empty.m4a", "empty file")
    strange = record(tmp_path / "strange.m4a", chirp(2, 16_000), 16_000, "aac")
    strange.write_bytes(strange.read_bytes().replace(b"mp4a", b"zzzz").replace(b"esds", b"zzzz"))
    refused(strange, "unknown coding")


def test_of_two_tracks_the_one_is_heard_that_can_be_decoded(tmp_path):
    """As telephones write surround sound beside AAC: it has more channels and bits, so FFmpeg calls it the best."""
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        tracks = [container.add_stream("aac", 48_000, layout=layout) for layout in ("mono", "quad")]
        for track in tracks:
            sound = np.stack([chirp(2, 48_000).astype(np.float32)] * track.codec_context.layout.nb_channels)
            frame = av.AudioFrame.from_ndarray(sound, "fltp", track.codec_context.layout)
            frame.sample_rate, frame.pts = 48_000, 0
            container.mux([*track.encode(frame), *track.encode(None)])
    data = path.read_bytes()
    data, second = data[: (at := data.rindex(b"tkhd"))], data[at:]
    path.write_bytes(data + second[:7] + b"\3" + second[8:].replace(b"mp4a", b"apac").replace(b"esds", b"zzzz"))
    with av.open(str(path)) as container:
        assert not container.streams.best("audio").codec_context
    alike(audio.read(path), chirp(2, 16_000), correlation=0.99)


@pytest.mark.parametrize(
    "name, how",
    [
        ("cut.m4a", {"codec": "aac"}),  # its table of contents is at the end
        ("cut at the end.m4a", {"codec": "aac", "options": {"movflags": "+faststart"}}),
        ("cut.webm", {"codec": "libopus"}),
    ],
)
def test_a_file_that_breaks_off(tmp_path, name, how):
    file = record(tmp_path / name, chirp(6, 48_000), 48_000, **how)
    whole = file.read_bytes()
    assert audio.read(file).size == pytest.approx(96_000, abs=1_000)
    file.write_bytes(whole[: len(whole) * 2 // 3])
    refused(file, "truncated")


def test_unscaled_floats_in_a_file(tmp_path):
    soundfile.write(tmp_path / "unscaled.wav", 20_000 * chirp(1, 16_000), 16_000, subtype="FLOAT")
    refused(tmp_path / "unscaled.wav", "not scaled")
    record(tmp_path / "unscaled.mkv", 20_000 * chirp(1, 16_000), 16_000, "pcm_f32le")
    refused(tmp_path / "unscaled.mkv", "not scaled")


@pytest.fixture
def server():
    """Its address, and the paths that anyone asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}", asked
        serving.shutdown()


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT9S">
<Period><AdaptationSet mimeType="audio/mp4"><Representation id="1" bandwidth="9000" codecs="mp4a.40.2">
<BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>"""


def test_no_address_is_opened(tmp_path, server):
    address, asked = server
    (tmp_path / "list.m3u8").write_text(HLS.format(f"{address}/a.ts"))
    with open(tmp_path / "list.m3u8", "rb") as file, pytest.raises(av.FFmpegError):
        av.open(file)
    assert asked  # what an open file alone does not keep FFmpeg from
    asked.clear()
    lists = {
        "list.m3u8": HLS,
        "list.ffconcat": "ffconcat version 1.0\nfile '{}'\n",
        "list.mpd": DASH,
        "list.ram": "{}\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text.format(f"{address}/a.ts"))
        refused(tmp_path / name, "not audio")
    for path in (
        f"{address}/a.mp3",
        f"concat:{address}/a.mp3",
        f"cache:{address}/a.mp3",
        "data:audio/wav;base64," + 400 * "A",
    ):
        refused(path, "missing file")
    assert not asked


def test_no_other_file_is_opened(tmp_path):
    record(tmp_path / "secret.ts", chirp(2, 48_000), 48_000, "aac", format="mpegts")
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile 'secret.ts'\n")
    (tmp_path / "list.m3u8").write_text(HLS.format("secret.ts"))
    for name in ("list.ffconcat", "list.m3u8"):
        with av.open(str(tmp_path / name)) as container:
            assert next(container.decode(audio=0)).samples  # what FFmpeg does of its own accord
        refused(tmp_path / name, "not audio")
    refused(f"concat:{tmp_path / 'secret.ts'}", "missing file")


@pytest.mark.parametrize("name", ["x.flac", "x.mp3", "aac.m4a", "film.mp4"])
def test_a_file_is_closed_when_nobody_listens_any_more(recordings, name):
    def is_open():
        return str(recordings / name) in [file.path for file in psutil.Process().open_files()]

    pieces = audio.blocks(recordings / name, seconds=1)
    next(pieces)
    assert is_open()
    pieces.close()
    assert not is_open()


def test_memory_does_not_grow_with_the_file(tmp_path):
    """An hour would be 230 MB as float32 at 16 kHz."""
    minute = TYPES["int16"](np.concatenate([np.zeros(240_000), tone(30, 8_000)]))
    with soundfile.SoundFile(tmp_path / "hour.flac", "w", 8_000, 1) as file:
        for _ in range(60):
            file.write(minute)
    with av.open(str(tmp_path / "hour.flac")) as flac, av.open(str(tmp_path / "hour.mka"), "w") as mka:
        copy = mka.add_stream_from_template(flac.streams.audio[0])
        for packet in flac.demux():
            if packet.dts is not None:
                packet.stream = copy
                mka.mux(packet)
    for name in ("hour.flac", "hour.mka"):
        process = psutil.Process()
        before, most, samples = process.memory_info().rss, 0, 0
        for piece in audio.blocks(tmp_path / name):
            samples += piece.size
            most = max(most, process.memory_info().rss)
        assert samples == 3_600 * 16_000
        assert most - before < 50e6
        assert audio.seconds_of(tmp_path / name) == pytest.approx(3_600, abs=1)
