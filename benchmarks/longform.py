"""Does a tuned Whisper still write timestamps, and read long recordings as Whisper does?

    python benchmarks/longform.py [--models sample models/sample models/packed …]

On the sample's test split, for each model, the untuned one first. Windows of up to 30 s, each of several clips joined
without a pause, so that it is known where each ends: how many of them the model, begun with <|0.00|>, writes with whole
timestamps of its own accord (greedy), and, by the rules for timestamps that every reader of long audio forces on it
(transformers' WhisperTimeStampLogitsProcessor), how many segments it writes, and how far each known end is from the
nearest time written. Then a recording of all clips with pauses of 0.5 s, read window after window, each given the text
before: by transformers (greedy, so that a window that loops is seen as such) and by faster-whisper (its defaults: five
beams, sampling where a window loops or is unsure). The word error rates are normalised, with 95 % intervals over
sentences. About three minutes a model on two cores."""

import argparse
import copy
import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from transcription import errors, paired, rate  # noqa: E402, the script beside this one

from whisper_lab import command  # noqa: E402
from whisper_lab.corpora import corpus  # noqa: E402
from whisper_lab.speech import audio  # noqa: E402
from whisper_lab.speech.features import FRAMES, HOP, FrontEnd, pad  # noqa: E402
from whisper_lab.whisper import backends, checkpoint, packing  # noqa: E402
from whisper_lab.whisper.decoding import MAX_NEW_TOKENS  # noqa: E402

PAUSE = 0.5  # seconds


def filled(sound: np.ndarray) -> np.ndarray:
    """With zeros to a whole number of frames, as clips are joined in training."""
    return np.pad(sound, (0, -sound.size % HOP))


def windows_of(clips: list, sounds: list[np.ndarray]) -> list[tuple[np.ndarray, list[float]]]:
    """Joined clips, and the seconds at which each ends."""
    frames, speakers = [-(-sound.size // HOP) + 3 for sound in sounds], [clip.client_id for clip in clips]
    tokens = [len(clip.sentence) // 2 for clip in clips]  # about as many; 30 s of the sample's are half of what may be
    result = []
    for pack in packing.packs(frames, speakers, tokens, np.random.default_rng(0)):
        parts = [filled(sounds[i]) for i in pack]
        result.append((np.concatenate(parts), np.cumsum([part.size / audio.SAMPLE_RATE for part in parts]).tolist()))
    return result


def read(model, features: np.ndarray, prompt: list[int], rules: bool) -> list[list[int]]:
    """The tokens of each window, greedy; with `rules`, timestamps as openai/whisper has them written."""
    import torch
    from transformers import GenerationMixin, LogitsProcessorList
    from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

    settings = copy.deepcopy(model.generation_config)
    settings.update(max_length=len(prompt) + MAX_NEW_TOKENS, return_timestamps=False)
    forced = [WhisperTimeStampLogitsProcessor(settings, begin_index=len(prompt))] if rules else []
    with torch.inference_mode():
        written = GenerationMixin.generate(  # without the loop over windows of Whisper's own
            model,
            encoder_outputs=model.get_encoder()(torch.from_numpy(features)),
            decoder_input_ids=torch.tensor([prompt] * len(features)),
            generation_config=settings,
            logits_processor=LogitsProcessorList(forced),
        )
    end = settings.eos_token_id
    return [ids[: ids.index(end)] if end in ids else ids for ids in written[:, len(prompt) :].tolist()]


def times(ids: list[int], tokens: packing.Tokens) -> list[float]:
    """All that are written, in seconds."""
    return [(token - tokens.zero) * 0.02 for token in ids if token >= tokens.zero]


def whole(ids: list[int], tokens: packing.Tokens) -> bool:
    """Whether these are segments of a time, text and a time, each no earlier than the one before; and at the end at
    most the beginning of a segment that is cut off."""
    kinds = "".join("t" if token >= tokens.zero else "x" if token < tokens.end else "?" for token in ids)
    written = times(ids, tokens)
    return bool(re.fullmatch(r"(tx+t)+t?", kinds)) and written == sorted(written)


def sequential(model, processor, recording: np.ndarray) -> str:
    import torch

    inputs = processor.feature_extractor(
        recording,
        sampling_rate=audio.SAMPLE_RATE,
        return_tensors="pt",
        truncation=False,
        padding="longest",
        return_attention_mask=True,
    )
    with torch.inference_mode():
        ids = model.generate(
            **inputs,
            language="sv",
            task="transcribe",
            return_timestamps=True,
            condition_on_prev_tokens=True,
            temperature=0.0,
        )
    return processor.tokenizer.decode(ids[0], skip_special_tokens=True)


def faster_whisper(folder: Path, recording: np.ndarray) -> str:
    import ctranslate2
    from faster_whisper import WhisperModel

    ctranslate2.set_random_seed(0)
    model = WhisperModel(str(backends.convert(folder, "int8")), compute_type="int8")
    return " ".join(segment.text.strip() for segment in model.transcribe(recording, language="sv")[0])


def measure(name: str, joined: list, recording: np.ndarray) -> dict:
    """What the table says of a model, but for the differences."""
    folder, _ = checkpoint.folder(name)
    processor, model = checkpoint.load_processor(str(folder)), checkpoint.load_model(str(folder)).eval()
    tokens = packing.Tokens.of(processor.tokenizer)
    prompt = checkpoint.prompt_ids(processor.tokenizer, "sv")[:-1]  # without <|notimestamps|>
    front_end = FrontEnd(model.config.num_mel_bins)
    features = np.stack([pad(front_end.log_mel(sound), FRAMES) for sound, _ in joined])
    freely = [[tokens.zero, *ids] for ids in read(model, features, [*prompt, tokens.zero], False)]
    forced = read(model, features, prompt, True)
    off = []
    for ids, (_, ends) in zip(forced, joined):
        written = np.array(times(ids, tokens))
        off += [np.abs(written - end).min() for end in ends]
    return {
        "whole": sum(whole(ids, tokens) for ids in freely),
        "segments": sum(len(times(ids, tokens)) // 2 for ids in forced),
        "off": off,
        "sequential": sequential(model, processor, recording),
        "faster-whisper": faster_whisper(folder, recording),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trained = ["models/sample"] if Path("models/sample/config.json").is_file() else []
    parser.add_argument("--models", nargs="+", default=["sample", *trained], metavar="FOLDER")
    args = parser.parse_args()
    command.quiet_libraries()

    clips = corpus.read("sample", "sv-SE", ["test"]).splits["test"]
    sounds = [audio.read(clip.path) for clip in clips]
    joined = windows_of(clips, sounds)
    silence = np.zeros(int(PAUSE * audio.SAMPLE_RATE), np.float32)
    recording = np.concatenate([part for sound in sounds for part in (sound, silence)])
    said = [clip.sentence for clip in clips]
    print(
        f"{len(joined)} windows of {len(clips)} clips; a recording of {recording.size / audio.SAMPLE_RATE / 60:.1f} "
        f"minutes.\n{'':24} {'windows':>8} {'segments':>9} {'ends off by, s':>16}   {'long recording, WER %':42} "
        f"minus the first model\n{'':24} {'whole':>8} {'':9} {'mean':>9} {'median':>6}   {'transformers':21} "
        "faster-whisper"
    )
    first = None
    for name in args.models:
        found = measure(name, joined, recording)
        tables = [errors(said, found[reader]) for reader in ("sequential", "faster-whisper")]
        less = [paired(table, before) for table, before in zip(tables, first or ())]
        first = first or tables
        print(
            f"{name:24} {found['whole']:4} /{len(joined):2} {found['segments']:5} /{len(clips):2} "
            f"{np.mean(found['off']):9.2f} {np.median(found['off']):6.2f}   {rate(tables[0]):21} {rate(tables[1]):20} "
            + "  ".join(less),
            flush=True,
        )


if __name__ == "__main__":
    main()
