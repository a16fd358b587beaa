"""How soon spoken words are on screen, and eight people at once.

    python benchmarks/live.py [--model models/sample] [--speakers 1 8]

The sample's test clips, each with a second of quiet, are spoken in real time, in pieces of 0.3 s, as the page sends
them; the next piece leaves when the answer to the last has come. When a word was spoken is taken from the final pass
over all of it. A word counts as shown when it is on screen as the final pass has it, settled or not. How far settled
words are behind is LAAL, computation aware (Papi et al. 2022, https://aclanthology.org/2022.autosimtrans-1.2), for each
clip, as StreamLAAL has it for each sentence; what is taken back of all that was on screen is Normalized Erasure
(Arivazhagan et al. 2020, https://arxiv.org/abs/1912.03393). No peer: the original lab's page has no live text.
"""

import argparse
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

PIECE = 0.3  # seconds


def speak(listeners, key: str, sound: np.ndarray, out: dict) -> None:
    """Say `sound` in real time; what was on screen when, and the final text."""
    from whisper_lab.speech import audio
    from whisper_lab.whisper.decoding import DEFAULT

    pcm, sent, shown, settled, before = np.round(32_767 * sound).astype(np.int16), 0, [], [], ""
    began = time.perf_counter()
    while sent < pcm.size:
        time.sleep(max(0, began + sent / 16_000 + PIECE - time.perf_counter()))
        due = min(pcm.size, int((time.perf_counter() - began) * 16_000))
        reply = listeners.hear(key, sent, 16_000, pcm[sent:due], DEFAULT)
        sent = reply["heard"]
        out["taken_back"] |= not reply["settled"].startswith(before)
        before = reply["settled"]
        shown.append((time.perf_counter() - began, (before + reply["tentative"]).strip()))
        settled.append((shown[-1][0], before))
    rate, samples = listeners.take(key)
    final = list(listeners.transcriber.segments(audio.from_samples(rate, samples), words=True))
    out["finished"] = time.perf_counter() - began - pcm.size / 16_000
    out["shown"], out["settled"], out["words"] = shown, settled, [word for segment in final for word in segment.words]
    out["text"] = " ".join(segment.text for segment in final)


def delays(out: dict) -> tuple[float | None, list[float]]:
    """Seconds from the end of the first word, as spoken, to any text on screen; and to each word of the final text."""
    from whisper_lab.text import normalise

    words = out["words"]
    any_text = next((at for at, text in out["shown"] if text), None)
    first = any_text - words[0].end if any_text is not None and words else None
    found = []
    for i, word in enumerate(words):
        prefix = normalise(" ".join(w.text for w in words[: i + 1]))
        at = next((at for at, text in out["shown"] if normalise(text).startswith(prefix)), None)
        if at is not None:
            found.append(at - word.end)
    return first, found


def lag(out: dict, reference: str) -> float | None:
    """LAAL in seconds: how far the settled words are behind somebody who writes along at the speaker's mean speed."""
    if not out["words"]:
        return None
    start, end = out["words"][0].start, out["words"][-1].end
    delays: list[float] = []
    for at, text in out["settled"]:
        delays += [at - start] * (len(text.split()) - len(delays))
    pace = (end - start) / max(len(delays), len(reference.split()))
    late = next((i for i, delay in enumerate(delays) if delay >= end - start), len(delays)) + 1
    return float(np.mean([delay - i * pace for i, delay in enumerate(delays[:late])])) if delays else None


def erasure(out: dict) -> float:
    """Words that were on screen and taken back, for each word of the last text."""
    erased, before = 0, []
    for _, text in out["shown"]:
        words = text.split()
        same = next((i for i, (a, b) in enumerate(zip(before, words)) if a != b), min(len(before), len(words)))
        erased, before = erased + len(before) - same, words
    return erased / max(1, len(before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/sample" if Path("models/sample/config.json").is_file() else "sample")
    parser.add_argument("--speakers", type=int, nargs="+", default=(1, 8))
    parser.add_argument("--clips", type=int, default=24)
    args = parser.parse_args()

    from whisper_lab import command
    from whisper_lab.corpora import corpus
    from whisper_lab.scores import scoring
    from whisper_lab.serving.live import Listeners
    from whisper_lab.serving.transcription import Transcriber
    from whisper_lab.speech import audio

    command.quiet_libraries()
    transcriber = Transcriber(args.model)
    clips = corpus.read("sample", "sv-SE", ["test"], limit=args.clips).splits["test"]
    sounds = [np.pad(audio.read(clip.path), (0, 16_000)) for clip in clips]
    heard = [audio.from_samples(16_000, np.round(32_767 * sound).astype(np.int16)) for sound in sounds]
    alone = [transcriber.text(sound) for sound in heard]
    for speakers in args.speakers:
        listeners, results = Listeners(transcriber, speakers), [{"taken_back": False} for _ in sounds]
        for at in range(0, len(sounds), speakers):
            threads = [
                threading.Thread(target=speak, args=(listeners, str(i), sounds[i], results[i]))
                for i in range(at, min(at + speakers, len(sounds)))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        firsts, rest = zip(*map(delays, results))
        firsts, words = [first for first in firsts if first is not None], [d for each in rest for d in each]
        live = [out["shown"][-1][1] for out in results]
        behind = [one for out, clip in zip(results, clips) if (one := lag(out, clip.sentence)) is not None]
        print(
            f"{args.model}, {speakers} at once, {len(sounds)} clips: first text {np.median(firsts):.2f} s after the "
            f"first word (95 %: {np.percentile(firsts, 95):.2f}); each word of the final text {np.median(words):.2f} s "
            f"({np.percentile(words, 95):.2f}) after it was said; settled ones {np.mean(behind):.2f} s behind "
            f"({np.percentile(behind, 95):.2f}); {np.mean(list(map(erasure, results))):.2f} words on screen taken back "
            "for each that stayed, settled ones in "
            f"{sum(out['taken_back'] for out in results)} clips; "
            f"final text {np.median([out['finished'] for out in results]):.2f} s after the end "
            f"({np.percentile([out['finished'] for out in results], 95):.2f}), as when alone in "
            f"{sum(out['text'] == text for out, text in zip(results, alone))} of {len(sounds)}; WER live "
            f"{scoring.scores([c.sentence for c in clips], live)['wer_normalised']}, final "
            f"{scoring.scores([c.sentence for c in clips], [o['text'] for o in results])['wer_normalised']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
