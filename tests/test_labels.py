"""What is trained on is text: whatever a corpus' sentences hold, and whatever language they are in."""

import csv
import json
import runpy
import shutil
import unicodedata

import pyarrow.parquet
import pytest
from conftest import ROOT
from finished import COMMON_VOICE, describe, plan
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_lab import LabError
from whisper_lab.corpora import corpus
from whisper_lab.speech.features import Extract, FrontEnd, Rejected
from whisper_lab.stores.store import FeatureSet
from whisper_lab.text import cleaned
from whisper_lab.tuning import augmentation, runs
from whisper_lab.whisper import checkpoint, languages, packing
from whisper_lab.whisper.relatives import NEAR

MAIN = runpy.run_path(str(ROOT / "feature-pipeline.py"))["main"]
CONTROL = ("<|0.00|>", "<|30.00|>", "<|endoftext|>", "<|sv|>", "<|startoftranscript|>")
ODD = ("\n", "\t", "\u00a0", "\u2028", "\u00ad", "\u200b", "\u200d", "\ufeff", "\ud800", "\ufffe", "a", "\u030a", "<|")


@pytest.fixture
def make_features(monkeypatch):
    def make(*args) -> None:
        monkeypatch.setattr("sys.argv", ["feature-pipeline.py", "--workers", "1", *map(str, args)])
        MAIN()

    return make


@given(st.lists(st.one_of(st.text(max_size=8), st.sampled_from(CONTROL + ODD)), max_size=6).map("".join))
@settings(max_examples=150, deadline=None)
def test_decoding_a_label_gives_the_sentence_back(processor, sentence):
    tokenizer, text = processor.tokenizer, cleaned(sentence)
    (ids,) = checkpoint.label_ids(tokenizer, [sentence], "sv")
    assert tokenizer.backend_tokenizer.decode(ids[3:-1], skip_special_tokens=False) == f" {text}"
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert all(token < end for token in ids[3:-1]) and ids[-1] == end
    assert cleaned(text) == text and unicodedata.is_normalized("NFC", text) and text == " ".join(text.split())
    assert not {unicodedata.category(c) for c in text} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize(
    "written, trained_on",
    [
        (" en\r\ntvå\u2028tre\tfyra\u00a0fem\x85sex ", "en två tre fyra fem sex"),
        ("A\u030asa", "Åsa"),
        ("sjuk\u00adhuset\u200b \ufeffhär\x00", "sjukhuset här"),
        ("a\u00ad\u030a", "å"),  # what a soft hyphen kept apart
        ("\u200b\u00ad \n", ""),
        ("halv \ud83d emoji", "halv emoji"),
    ],
)
def test_a_clip_s_sentence_is_clean_from_whatever_corpus(written, trained_on):
    assert corpus.Clip("a", "a.mp3", written).sentence == trained_on


def test_words_that_a_user_added_are_used_where_they_decode_and_packs_keep_them(tmp_path, processor):
    checkpoint.save_processor(processor, tmp_path)
    tokenizer = type(processor.tokenizer).from_pretrained(tmp_path)
    tokenizer.add_tokens(["kvasar", "Göteborg"])  # the second's ö is lost in decoding
    tokenizer.add_special_tokens({"additional_special_tokens": ["[X]"]})
    text = "En kvasar ses i Göteborg och [X]."
    first, second, third = checkpoint.label_ids(tokenizer, ["En kvasar.", "Göteborg", text], "sv")
    kvasar = tokenizer.convert_tokens_to_ids("kvasar")
    assert kvasar in first and all(token < 50_257 for ids in (second, third) for token in ids[3:-1])
    assert tokenizer.decode(third, skip_special_tokens=True) == f" {text}"
    assert packing.Tokens.of(tokenizer).segment(first, 0, 100, False) == first[3:-1]


def test_a_table_whose_sentences_are_no_plain_text(make_features, tmp_path, release, tiny):
    """A line feed, decomposed letters, nothing that is seen, and tokens of Whisper's: trained on or named. In a
    language without spaces the run goes by characters."""
    sounds = sorted((release / "sv-SE" / "clips").iterdir())[:8]
    texts = ["en\ntvå", "A\u030asa", "\u00ad\u200b", "<|0.00|> Hej.<|1.80|><|endoftext|>", "fyra", "fem", "sex", "sju"]
    rows = [(sound, said, "train") for sound, said in zip(sounds, texts)]
    rows[-2:] = [(*rows[-2][:2], "dev"), (*rows[-1][:2], "test")]
    with open(tmp_path / "mine.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "text", "split"), *rows])
    make_features("--corpus", tmp_path / "mine.csv", "--language", "ja", "--store", tmp_path / "set")
    train = pyarrow.parquet.read_table(tmp_path / "set" / "train-00000-of-00001.parquet").to_pylist()
    assert [row["sentence"] for row in train] == ["en två", "Åsa", "fyra", "fem"]
    tokenizer = checkpoint.load_processor("sample").tokenizer
    assert [tokenizer.decode(row["labels"][3:-1]) for row in train] == [" en två", " Åsa", " fyra", " fem"]
    left = (tmp_path / "set" / "rejected.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert [line.split("\t")[2:] for line in left] == [
        ["empty sentence", ""],
        ["control token in the sentence", "<|0.00|>: take it out of the text"],
    ]
    made = FeatureSet(tmp_path / "set")
    found = augmentation.sounds(made, str(tmp_path / "mine.csv"))
    assert sorted(clip.path for clip in found.values()) == sorted(map(str, (*sounds[:2], *sounds[4:6])))
    options = runs.Options(str(made.folder), model=str(tiny), output=str(tmp_path / "model"), max_steps=2)
    assert runs.Run(options, made).trainer.args.metric_for_best_model == "eval_cer_normalised"


def test_a_control_token_is_refused_before_the_sound_is_opened():
    clip = {"sentence": "hej <|endoftext|>", "labels": [1], "path": "nowhere", "seconds": None}
    with pytest.raises(Rejected, match="control token in the sentence .<.endoftext.>"):
        Extract(FrontEnd())(clip)


# Languages


@pytest.mark.parametrize(
    "locale, code",
    [("zh-TW", "zh"), ("cmn", "zh"), ("yue", "yue"), ("jv", "jw"), ("fil", "tl"), ("iw", "he"), ("he", "he")],
)
def test_locales_that_whisper_has_under_another_code(locale, code):
    assert languages.of_corpus(locale) == code
    assert languages.borrowed(locale, code) is None


def test_every_relative_is_one_of_whisper_s():
    for locale in NEAR:
        assert [languages.whisper_language(code) for code in languages._near(locale)] == languages._near(locale) != []
        if locale != "yue":
            with pytest.raises(LabError, match=f"choose one .* --whisper-language {languages._near(locale)[0]}:"):
                languages.of_corpus(locale)


def test_a_language_that_whisper_has_no_token_for(make_features, release, tmp_path):
    """Its locale names the corpus, another option the token; what each message asks for is taken."""
    place = release / "ky"
    shutil.move(release / "sv-SE", place)
    with pytest.raises(LabError, match="languages found: ky"):
        make_features("--corpus", release, "--language", "tr", "--store", tmp_path / "set")
    with pytest.raises(LabError, match=r"no Kyrgyz \(ky\); near it: Kazakh \(kk\).*--whisper-language kk"):
        make_features("--corpus", release, "--language", "ky", "--store", tmp_path / "set")
    with pytest.raises(LabError, match="tokenizer has no <.yue.>.*--whisper-language zh"):
        make_features("--corpus", place, "--language", "ky", "--whisper-language", "yue", "--store", tmp_path / "set")
    make_features("--corpus", release, "--language", "ky", "--whisper-language", "kk", "--store", tmp_path / "set")
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert (manifest["language"], manifest["corpus"]["language"]) == ("kk", "ky")


def test_the_card_says_whose_token_is_borrowed_and_which_language_it_is(tmp_path):
    planned = plan(COMMON_VOICE | {"language": "ky"}) | {"language": "kk"}
    card = (describe(tmp_path / "ky", planned) / "README.md").read_text(encoding="utf-8")
    assert "Whisper has no token for Kyrgyz (ky): this model borrows that of Kazakh (kk), `<|kk|>`" in card
    assert "\nlanguage: ky\n" in card and 'language="kk"' in card
    usual = (describe(tmp_path / "sv", plan(COMMON_VOICE)) / "README.md").read_text(encoding="utf-8")
    assert "borrows" not in usual and "\nlanguage: sv\n" in usual
