"""Files that are cut, joined, damaged or wrong about themselves, in every container and codec: all that FFmpeg decodes
of the same bytes is given, or a word says what is missing, and when."""

import io
import struct

import av
import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_audio import chirp, record

from whisper_lab.speech import audio

LENGTH = 3.1  # seconds
KINDS = {
    "layer3.mp3": {"codec": "libmp3lame"},
    "layer2.mp2": {"codec": "mp2"},
    "x.flac": {"codec": "flac"},
    "vorbis.ogg": {},
    "opus.ogg": {"codec": "libopus"},
    "flac.oga": {"codec": "flac", "format": "ogg"},
    "numbers.wav": {"codec": "pcm_s16le"},
    "floats.wav": {"codec": "pcm_f32le"},
    "adpcm.wav": {"codec": "adpcm_ms"},
    "x.m4a": {"codec": "aac", "options": {"movflags": "+faststart"}},
    "film.mp4": {"codec": "aac", "video": "mpeg4", "options": {"movflags": "+faststart"}},
    "x.aac": {"codec": "aac", "format": "adts"},
    "x.webm": {"codec": "libopus"},
    "x.mka": {"codec": "flac", "format": "matroska"},
    "x.wma": {"codec": "aac", "format": "asf"},
    "x.avi": {"codec": "libmp3lame", "format": "avi", "video": "mpeg4"},
    "x.ts": {"codec": "aac", "format": "mpegts"},
    "x.aiff": {"codec": "pcm_s16be"},
    "x.caf": {"codec": "alac"},
    "x.au": {"codec": "pcm_s16be"},
    "x.ac3": {"codec": "ac3"},
}
RATE = 48_000


def made(folder, name: str, seconds: float = LENGTH):
    """The file `name` in `folder`, of a sound no stretch of which resembles another."""
    samples = chirp(seconds, RATE)
    if KINDS[name]:
        return record(folder / name, samples, RATE, **KINDS[name])
    with soundfile.SoundFile(folder / name, "w", RATE, 1) as file:
        for part in np.split(samples, range(4_096, len(samples), 4_096)):
            file.write(part)  # libsndfile's Vorbis crashes on long writes
    return folder / name


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    return {name: made(folder, name).read_bytes() for name in KINDS}


def part(data: bytes, start: float, end: float, new=bytes) -> bytes:
    """`data` with the bytes between two shares of its length replaced by those that `new` gives for their number."""
    first, last = int(start * len(data)), int(end * len(data))
    return data[:first] + new(last - first) + data[last:]


FAULTS = {
    "cut": lambda data: data[: len(data) * 61 // 100],
    "joined": lambda data: data + data,
    "zeros inside": lambda data: part(data, 0.5, 0.57),
    "noise inside": lambda data: part(data, 0.5, 0.57, np.random.default_rng(1).bytes),
    "bytes left out": lambda data: part(data, 0.5, 0.57, lambda count: b""),
    "text between": lambda data: part(data, 0.5, 0.5, lambda count: b"<p>404 Not Found</p>\n" * 150),
    "tag before": lambda data: b"ID3\x04\0\0\0\0\x02\0APIC" + bytes(252) + data,
    "zeros behind": lambda data: data + bytes(2_000),
}
HARMLESS = {"tag before", "zeros behind"}
SAYS = {"layer3.mp3", "layer2.mp2", "x.flac", "vorbis.ogg", "opus.ogg", "flac.oga", "x.mka", "x.m4a"}
STREAMS = {*SAYS, "x.aac", "x.webm", "x.ac3", "x.ts"} - {"x.m4a"}  # two are one when they are joined


def decoded_by_ffmpeg(data: bytes) -> np.ndarray | None:
    """What FFmpeg makes of the bytes by itself, as 16 kHz mono; None if it does not open them."""
    sides, rate = [], 0
    try:
        with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
            stream = container.streams.best("audio")
            for packet in container.demux(stream):
                try:
                    for frame in packet.decode():
                        samples = frame.to_ndarray().astype(np.float64)
                        if not frame.format.is_planar:
                            samples = samples.reshape(-1, frame.layout.nb_channels).T
                        scale = 2 ** (8 * frame.format.bytes - 1) if frame.format.name[0] == "s" else 1
                        sides.append(samples.mean(axis=0) / scale)
                        rate = frame.sample_rate
                except av.FFmpegError:
                    pass
    except (av.FFmpegError, OSError, IndexError):
        pass
    return soxr.resample(np.concatenate(sides), rate, 16_000) if sides else None


def unlike(samples: np.ndarray, wanted: np.ndarray) -> int:
    """How many half seconds are not the same sound, wherever within 0.15 s of its place: those over a seam are not."""
    size, margin, count = 8_000, 2_400, 0
    for at in range(0, min(samples.size, wanted.size) - size, size):
        known, there = wanted[at : at + size], samples[max(0, at - margin) : at + size + margin]
        found = np.fft.irfft(np.fft.rfft(there, 16_384) * np.conj(np.fft.rfft(known, 16_384)))
        powers = np.convolve(there**2, np.ones(size), "valid") if there.size > size else np.array([there @ there])
        count += (found[: powers.size] / np.sqrt(np.maximum(powers, 1e-9) * (known @ known + 1e-9))).max() < 0.97
    return count


def heard(path) -> tuple[np.ndarray, list]:
    damage = []
    return np.concatenate([*audio.blocks(path, damage=damage)]), damage


@pytest.mark.parametrize("name", KINDS)
def test_all_that_is_in_a_file_or_a_word_about_it(whole, tmp_path, name, capfd):
    for fault, spoil in FAULTS.items():
        path, wanted = tmp_path / name, decoded_by_ffmpeg(spoil(whole[name]))
        path.write_bytes(spoil(whole[name]))
        try:
            samples, damage = heard(path)
        except audio.AudioError as error:
            assert wanted is None, (fault, error)
            continue
        if wanted is None:
            continue  # libsndfile knew it
        if damage:
            assert samples.size > 0.9 * wanted.size, fault  # without frames whose checksums are wrong
            assert all(0 <= one.at <= samples.size / 16_000 + 0.1 and one.detail for one in damage), (fault, damage)
            with pytest.raises(audio.AudioError) as error:  # as a clip of a corpus, it is left out
                audio.read(path)
            assert error.value.reason == damage[0].reason and " s" in error.value.detail
            assert fault not in HARMLESS or name == "x.ac3", (fault, damage)  # whose frames nobody counts
            assert fault != "joined" or name not in STREAMS, damage
        else:
            assert abs(samples.size - wanted.size) <= 800, fault
            assert unlike(samples, np.clip(np.nan_to_num(wanted), -1, 1)) <= (fault == "joined"), fault
            assert name not in SAYS or fault in (*HARMLESS, "joined", "text between"), fault
            np.testing.assert_array_equal(np.clip(audio.read(path), -1, 1), samples)
    assert not capfd.readouterr().err  # of libmpg123, of FFmpeg


@pytest.mark.parametrize(
    "name, codec", [("a.mp3", "libmp3lame"), ("a.flac", "flac"), ("a.mkv", "flac"), ("a.wma", "aac")]
)
def test_a_cover_is_no_film(tmp_path, name, codec):
    sound = record(tmp_path / f"plain {name}", chirp(LENGTH, RATE), RATE, codec)
    with av.open(str(sound)) as plain, av.open(str(tmp_path / name), "w") as container:
        copy = container.add_stream_from_template(plain.streams.audio[0])
        cover = container.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 64
        cover.pix_fmt, cover.disposition = "yuvj420p", av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 99, np.uint8), "rgb24")
        container.mux([*cover.encode(picture), *cover.encode(None)])
        for packet in plain.demux():
            if packet.dts is not None:
                packet.stream = copy
                container.mux(packet)
    with av.open(str(tmp_path / name)) as container:
        assert len(container.streams) == 2
    samples, damage = heard(tmp_path / name)
    wanted = decoded_by_ffmpeg((tmp_path / name).read_bytes())
    assert not damage and abs(samples.size - wanted.size) <= 800 and not unlike(samples, wanted)


def test_lengths_that_headers_get_wrong(whole, tmp_path):
    """Sound of 3.1 s, whatever is said about it, and no word of damage."""
    mp3, flac, wav, ogg = (whole[name] for name in ("layer3.mp3", "x.flac", "numbers.wav", "opus.ogg"))
    at, data = mp3.index(b"Info") + 8, wav.index(b"data") + 4
    frames, info = struct.unpack(">I", mp3[at : at + 4])[0], len(mp3[: at - 8])
    last = ogg.rindex(b"OggS")
    spoilt = {
        "third.mp3": mp3[:at] + struct.pack(">I", frames // 3) + mp3[at + 4 :],
        "triple.mp3": mp3[:at] + struct.pack(">I", frames * 3) + mp3[at + 4 :],
        "none.mp3": mp3[mp3.index(b"\xff\xfb", info) :],  # as from a pipe: no header
        "half.flac": flac[:21] + bytes([flac[21] & 0xF0]) + struct.pack(">I", RATE) + flac[26:],
        "none.flac": flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:],
        "zero.wav": wav[:4] + bytes(4) + wav[8:data] + bytes(4) + wav[data + 4 :],
        "largest.wav": wav[:4] + b"\xff" * 4 + wav[8:data] + b"\xff" * 4 + wav[data + 4 :],
        "like a chunk.wav": wav[:4] + bytes(4) + wav[8:data] + b"\0\0\0\0Ring" + wav[data + 8 :],
        "half.wav": wav[:data] + struct.pack("<I", RATE) + wav[data + 4 :],
        "no end.opus": ogg[:last] + unsealed(ogg[last:]),
        "aac.mp3": whole["x.aac"],
        "aac.wav": whole["x.m4a"],
        "flac.wav": whole["x.flac"],
    }
    for name, content in spoilt.items():
        (tmp_path / name).write_bytes(content)
        samples, damage = heard(tmp_path / name)
        assert not damage and samples.size / 16_000 == pytest.approx(LENGTH, abs=0.05), name
        # by a third.mp3, FFmpeg drops the padding of an end, 24 ms, where that would be
        assert unlike(samples, chirp(LENGTH, 16_000)) <= 2 * name.endswith(".mp3"), name
        told = audio.seconds_of(tmp_path / name)
        assert told is None or told == pytest.approx(LENGTH, abs=0.05), name


def unsealed(page: bytes) -> bytes:
    """The last page of an Ogg stream without the mark that it is the last, its checksum made anew."""
    page = page[:5] + bytes([page[5] & ~4]) + page[6:22] + bytes(4) + page[26:]
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 1 << 31 else crc << 1) & 0xFFFFFFFF
    return page[:22] + struct.pack("<I", crc) + page[26:]


@pytest.mark.parametrize("name, codec", [("a.mp3", "libmp3lame"), ("a.flac", "flac"), ("a.ogg", "libopus")])
def test_files_of_several_kinds_in_a_row(tmp_path, name, codec):
    """Of another rate and number of channels; as MP3, with a tag between."""
    parts = [
        record(tmp_path / f"{i}{name}", chirp(1.5, rate), rate, codec, layout).read_bytes()
        for i, (rate, layout) in enumerate([(48_000, "mono"), (24_000, "stereo"), (48_000, "mono")])
    ]
    if name == "a.flac":  # FFmpeg keeps to the first one's rate
        parts = parts[::2]
    (tmp_path / name).write_bytes(b"".join(parts))
    samples, damage = heard(tmp_path / name)
    assert not damage and samples.size / 16_000 == pytest.approx(1.5 * len(parts), abs=0.05 * len(parts))
    assert audio.seconds_of(tmp_path / name) == pytest.approx(1.5 * len(parts), abs=0.1)
    assert unlike(samples, np.tile(chirp(1.5, 16_000), len(parts))) < len(parts)


def test_a_damaged_second_has_a_time_and_costs_no_more_than_itself(whole, tmp_path):
    """3 % of a longer file, with a break in the middle of each: the rest is what it was, in its place or moved up."""
    for name in ("layer3.mp3", "x.flac", "opus.ogg", "x.m4a"):
        path = made(tmp_path, name, 20)
        data = path.read_bytes()
        good = audio.read(path)
        path.write_bytes(part(data, 0.7, 0.73))
        samples, damage = heard(path)
        assert damage[0].at == pytest.approx(14, abs=1.1), (name, damage)
        assert 18.5 * 16_000 < samples.size <= 20.1 * 16_000, (name, damage)
        np.testing.assert_allclose(samples[:200_000], np.clip(good, -1, 1)[:200_000], atol=1e-3)
        assert unlike(samples[-64_000:], good[-64_000:]) <= 1, name  # the end of an MP3 has its padding
        part_of_it = np.concatenate([*audio.blocks(path, 2, 8)])
        np.testing.assert_allclose(part_of_it, samples[32_000:128_000], atol=0.02)
        before = []
        list(audio.blocks(path, 2, 8, damage=before))
        assert not before  # the part is whole
        assert audio.read(path, start=2, end=8).size == 96_000


def test_floats_that_were_overwritten_are_left_out(tmp_path):
    sound = np.tile(chirp(3, 16_000), 3).astype(np.float32)
    spoilt = sound.copy()
    spoilt[70_000:70_100], spoilt[100_000:100_050] = np.nan, 1e30
    soundfile.write(tmp_path / "x.wav", spoilt, 16_000, subtype="FLOAT")
    samples, damage = heard(tmp_path / "x.wav")
    assert [(one.detail, one.at) for one in damage] == [("150 samples are no sound", pytest.approx(4.375))]
    kept = np.abs(spoilt) <= 1
    np.testing.assert_allclose(samples[kept], sound[kept], atol=1e-6)
    assert audio.describe(tmp_path / "x.wav").peak == pytest.approx(0.5, abs=0.01)


SMALL = {name: how for name, how in KINDS.items() if name not in ("film.mp4", "layer2.mp2", "x.mka")}


class Files(dict):
    """Contents by name, which hypothesis would print."""

    __repr__ = object.__repr__


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Files:
    folder = tmp_path_factory.mktemp("small")
    return Files({name: made(folder, name, 0.7).read_bytes() for name in SMALL})


@settings(max_examples=150, deadline=5_000, derandomize=True, suppress_health_check=[*HealthCheck])
@given(drawn=st.data())
def test_any_bytes_give_sound_or_one_line(small, tmp_path, drawn):
    """A small file of any codec, cut anywhere and with bytes flipped anywhere."""
    name = drawn.draw(st.sampled_from(sorted(small)))
    data = bytearray(small[name][: drawn.draw(st.integers(1, len(small[name])))])
    places = st.integers(0, len(data) - 1) | st.integers(0, min(200, len(data) - 1))
    for at, byte in drawn.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        data[at] = byte
    path = tmp_path / name
    path.write_bytes(data)
    try:
        samples, damage = heard(path)
        assert samples.size and np.isfinite(samples).all() and np.abs(samples).max() <= 1
        assert all(np.isfinite(one.at) for one in damage)
        samples = audio.read(path)
        assert not damage and np.isfinite(samples).all()
    except audio.AudioError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
