"""How a browser is told to play an upload: by what is in it."""

import mimetypes
import threading
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
from browser import clips

from whisper_lab.serving import playing
from whisper_lab.speech import audio

RATE = 16_000


def coded(path: Path, sound: str, form: str, picture: str | None = None) -> Path:
    """A second of tone, with a picture where a codec for it is named."""
    tone = (0.3 * np.sin(np.arange(48_000) / 20)).astype(np.float32)
    with av.open(path, "w", format=form) as container:
        seen = picture and container.add_stream(picture, rate=5, width=64, height=64, pix_fmt="yuv420p")
        stream = container.add_stream(sound, rate=48_000, layout="mono", bit_rate=64_000)
        for count in range(5 if seen else 0):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 * count, np.uint8))
            frame.pts = count
            container.mux(seen.encode(frame))
        if seen:
            container.mux(seen.encode(None))
        resample = av.AudioResampler(stream.format.name, stream.layout, stream.rate, stream.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(tone[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        for piece in (*resample.resample(frame), *resample.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    "form, sound, picture, tag, sources",
    [
        ("mp3", "libmp3lame", None, "audio", [".mp3"]),
        ("wav", "pcm_s16le", None, "audio", [".wav"]),
        ("ogg", "libopus", None, "audio", [".ogg"]),
        ("flac", "flac", None, "audio", [".flac"]),
        ("mp4", "aac", None, "audio", [".mp4"]),
        ("mov", "aac", "libx264", "video", [".mp4"]),
        ("webm", "libopus", "libvpx-vp9", "video", [".webm"]),
        ("mp4", "aac", "libx265", "video", [".mp4", "made"]),
        ("matroska", "aac", "libx264", "video", [".webm", "made"]),
        ("matroska", "ac3", "libx264", "audio", ["made"]),
        ("adts", "aac", None, "audio", ["made"]),
        ("caf", "alac", None, "audio", ["made"]),
        ("asf", "wmav2", None, "audio", ["made"]),
        ("avi", "mp2", "mpeg4", "audio", ["made"]),
        ("wav", "pcm_alaw", None, "audio", ["made"]),
    ],
)
def test_a_player_goes_by_what_is_in_the_file(tmp_path, monkeypatch, form, sound, picture, tag, sources):
    monkeypatch.setattr(playing, "_make", lambda *args: None)
    path, made = str(coded(tmp_path / "talk.xyz", sound, form, picture)), set()
    found = playing.media(path, None, made, lambda: False)
    expected = [f"{path}.flac" if source == "made" else path + source for source in sources]
    assert found["tag"] == tag and found["name"] == "talk" and found["made"] == (sources[-1] == "made")
    assert found["sources"] == [f"gradio_api/file={source}" for source in expected]
    for source in expected[: -1 if found["made"] else None]:
        assert source in made and Path(source).read_bytes() == Path(path).read_bytes()
        assert mimetypes.guess_type(source)[0] in playing.TYPES.values()


def test_what_is_called_as_it_should_be_plays_under_its_own_name(tmp_path):
    made = set()
    for form, sound, name in (("mp3", "libmp3lame", "a.mp3"), ("mp4", "aac", "å ä.m4a"), ("ogg", "libopus", "c.opus")):
        found = playing.media(str(coded(tmp_path / name, sound, form)), None, made, lambda: False)
        assert not found["made"] and found["sources"][0].endswith(Path(name).suffix)
    assert not made and "%C3%A5%20" in playing.media(str(tmp_path / "å ä.m4a"), None, made, lambda: False)["sources"][0]


def test_of_what_is_not_whole_the_sound_is_made_anew_as_it_was_heard(tmp_path):
    """Browsers would play the first of two, or guess where they are."""
    for name in ("two.mp3", "cut.mp3"):
        soundfile.write(tmp_path / name, clips(1), RATE)
    whole = (tmp_path / "two.mp3").read_bytes()
    (tmp_path / "two.mp3").write_bytes(whole + whole)
    (tmp_path / "cut.mp3").write_bytes(whole[: len(whole) // 2] + bytes(400) + whole[len(whole) // 2 + 400 :])
    for name in ("two.mp3", "cut.mp3"):
        path, made = str(tmp_path / name), set()
        assert playing.media(path, None, made, lambda: True)["made"]
        playing._make(path, None, f"{path}.flac", made, lambda: False)
        heard = np.concatenate(list(audio.blocks(path)))
        np.testing.assert_allclose(audio.read(f"{path}.flac"), heard, atol=1e-4)
        playing._make(path, 1.0, f"{path}.1.flac", made, lambda: False)
        assert audio.seconds_of(f"{path}.1.flac") == 1
        assert {str(one) for one in tmp_path.glob(f"{name}*.flac")} <= made


def test_what_lies_beside_an_upload_is_deleted_with_it(tmp_path):
    from gradio.route_utils import delete_files_created_by_app

    made = playing.Names()
    path = str(coded(tmp_path / "talk", "libmp3lame", "mp3"))
    playing.media(path, None, made, lambda: False)
    playing._make(path, None, f"{path}.flac", made, lambda: False)
    assert len(list(tmp_path.iterdir())) == 3
    for name in made:  # as in a loop of Gradio's
        made.add(f"{name}.partial")
    delete_files_created_by_app(SimpleNamespace(blocks={}, temp_file_sets=[made]), None)
    assert [one.name for one in tmp_path.iterdir()] == ["talk"]


def test_who_gives_up_or_sends_no_sound_leaves_nothing(tmp_path, capsys):
    path = str(coded(tmp_path / "a.caf", "alac", "caf"))
    playing._make(path, None, f"{path}.flac", set(), lambda: True)
    (tmp_path / "b.caf").write_text("text")
    playing._make(str(tmp_path / "b.caf"), None, str(tmp_path / "b.flac"), set(), lambda: False)
    assert {one.name for one in tmp_path.iterdir()} == {"a.caf", "b.caf"} and "AudioError" in capsys.readouterr().err
    for thread in threading.enumerate():  # of the tests before
        if thread.daemon and thread.name.endswith("(_make)"):
            thread.join()
