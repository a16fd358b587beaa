import pytest
import torch

from whisper_lab.corpora import corpus
from whisper_lab.speech import audio, features
from whisper_lab.whisper import checkpoint, windows


@pytest.fixture(scope="module")
def model(tiny):
    return checkpoint.load_model(str(tiny)).eval()


def test_the_shortest_window_holds_the_clip():
    for frames in (1, 199, 200, 201, 2_999, 3_000):
        window = windows.shortest(frames)
        assert window >= frames and all(length < frames for length in windows.LENGTHS if length < window)


def test_a_model_is_served_only_with_windows_that_its_training_filled():
    frames = [350] * 8 + [900] * 7 + [250] * 20
    assert windows.trained_lengths(frames, "mixed") == windows.trained_lengths(frames, "short") == [300, 400, 3_000]
    assert windows.trained_lengths(frames, "full") == [3_000]
    assert [windows.shortest(count, [300, 400, 3_000]) for count in (1, 300, 301, 401, 9_999)] == [
        300,
        300,
        400,
        3_000,
        3_000,
    ]


def test_a_short_window_is_whisper_with_its_position_table_cut(model, tiny):
    from transformers import WhisperForConditionalGeneration

    mel = torch.randn(2, 80, 400)
    ours = model.get_encoder()(mel).last_hidden_state
    cut = WhisperForConditionalGeneration.from_pretrained(tiny, dtype=torch.float32).eval()
    cut.config.max_source_positions = 200
    table = cut.model.encoder.embed_positions
    cut.model.encoder.embed_positions = torch.nn.Embedding.from_pretrained(table.weight[:200])
    torch.testing.assert_close(ours, cut.model.encoder(mel).last_hidden_state, rtol=0, atol=0)


def test_config_and_weights_are_as_before_also_after_a_fault(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.get_encoder()(torch.randn(1, 80, 200))
    with pytest.raises(ValueError, match="3002 frames"):
        model.get_encoder()(torch.randn(1, 80, 3_002))
    with pytest.raises(ValueError, match="201 frames"):
        model.get_encoder()(torch.randn(1, 80, 201))
    with pytest.raises(RuntimeError):
        model.get_encoder()(torch.randn(1, 81, 200))  # fails inside the encoder
    assert model.config.max_source_positions == 1_500
    assert model.state_dict().keys() == before.keys()
    model.get_encoder()(torch.randn(1, 80, 3_000))


def test_decoding_gives_what_transformers_generate_gives(processor):
    """On speech, with the real weights, at 30 s windows."""
    model = checkpoint.load_model("sample").eval()
    clips = corpus.read("sample", "sv-SE", ["dev"], limit=3).splits["dev"]
    mels = [features.pad(features.FrontEnd().log_mel(audio.read(clip.path)), features.FRAMES) for clip in clips]
    batch = torch.stack([torch.from_numpy(mel) for mel in mels])
    prompt = checkpoint.prompt_ids(processor.tokenizer, "sv")
    with torch.inference_mode():
        ours = windows.decode(model, model.get_encoder()(batch), prompt, 60)
        theirs = model.generate(batch, language="sv", task="transcribe", max_new_tokens=60)
    decode = processor.tokenizer.batch_decode
    written = decode([one.tokens for one in ours])
    assert written == decode(theirs, skip_special_tokens=True) and all(written)
    assert all(-2 < one.logprob < 0 for one in ours) and any(one.ended for one in ours)


@pytest.mark.parametrize("how", [{}, {"beams": 3}, {"temperature": 0.7}], ids=["greedy", "beams", "sampled"])
def test_a_memory_of_fixed_length_as_on_a_gpu_gives_the_same_texts(model, processor, monkeypatch, how):
    mels = torch.randn(3, 80, 400, generator=torch.Generator().manual_seed(1))
    prompt, cache, made = checkpoint.prompt_ids(processor.tokenizer, "sv"), windows._cache, []

    def texts() -> list[list[int]]:
        torch.manual_seed(1)
        with torch.inference_mode():
            return [one.tokens for one in windows.decode(model, model.get_encoder()(mels), prompt, 70, **how)]

    growing = texts()
    monkeypatch.setattr(windows, "_cache", lambda config, _: made.append(cache(config, len(prompt) + 70)) or made[0])
    assert texts() == growing and any(growing)
    assert made[0].self_attention_cache.layers[0].keys.shape[2] == 2 * windows.ROOM
    shape = type(model.config)(encoder_layers=3, decoder_layers=4)  # more than the encoder has, as in no Whisper yet
    assert len(cache(shape, 64).self_attention_cache) == 4
