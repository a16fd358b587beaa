"""The model card: README.md in the form that the Hugging Face Hub reads, of what is known and what is not."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from ..scores import choices
from ..scores.card import NAMES, examples, markdown, of_canaries, signed, table
from ..scores.scoring import MEASURES, because
from ..text import unspaced
from ..whisper import checkpoint, languages
from . import licences

TAG = "whisper-lab"  # by which this program knows its own models on the Hub
SYNTHETIC = "\n**The voices are synthetic.** The numbers show that the pipeline learns, not how good the Swedish is.\n"
OTHERS = "Nothing was tuned on {}: other speech, which shows what was forgotten."
READ = (
    "Common Voice is read aloud, one sentence at a time, by volunteers of 19 years or more at microphones of their own."
)
ANEW = "Common Voice draws its splits anew in each release: compare scores within one only."
NO_REFERENCE = (
    "The corpus has no sentences: these rates are no errors, but the words and characters that differ from the untuned "
    "model's own text at 30 s."
)
RECIPE = {  # fields of a recipe that are told where they are on
    "adapt_windows": "for short windows alone: no sentence was used, the untuned model at 30 s was followed",
    "label_smoothing": "label smoothing {}",
    "masks": "SpecAugment on the speech",
    "perturb": "sound perturbed: {}",
    "bpe_dropout": "BPE dropout {}",
    "lora": "LoRA of rank {}, merged",
    "lora_targets": "LoRA on {}",
    "freeze": "frozen: {}",
    "patience": "to stop after {} scores on dev without a better one",
    "activation_checkpointing": "activation checkpointing",
}


def write(folder: Path, planned: dict, manifest: dict, metrics: dict, predictions: list[dict]) -> None:
    """README.md of the model in `folder`; `planned` is its plan.json, `manifest` that of its features."""
    plan = planned["plan"]
    corpus, recipe, run = plan["corpus"], plan["recipe"], metrics["run"]
    served = "30 s windows" if recipe["window"] == "full" else "windows as short as the speech, of lengths trained on"
    facts = "\n".join(f"| {what} | {fact} |" for what, fact in _facts(planned, manifest, run).items())
    notes = [because(corpus["language"])] * bool(unspaced(corpus["language"]))
    notes += [NO_REFERENCE] * ("unlabelled" in manifest)
    others = " and ".join(f"`{name}`" for name in of_canaries(metrics))
    notes += [OTHERS.format(others)] * bool(others) + [ANEW] * (corpus["name"] == "Common Voice")
    chosen = ", by the untuned model's text," if recipe.get("adapt_windows") else ""
    limits = "\n".join(f"- {limit}" for limit in _limits(corpus, metrics, recipe))
    text = f"""---
{_front_matter(folder.name, plan, manifest, metrics)}
---

# {folder.name}

{_start(plan["model"])}, {_tuned(plan)}.{_borrowed(plan)}
{SYNTHETIC if licences.bundled(corpus) else ""}
## Scores

{markdown(table(metrics))}

Decoding is greedy, with beams where that leaves doubt. The checkpoint was chosen on dev{chosen}; test was scored once.
Tuned: {served}; the untuned model at 30 s, the only length it was made for.
Intervals: bootstrap over clips. Normalised: lower case, no punctuation, numbers as they stand.
{" ".join(notes)}

{_said(corpus, predictions, "unlabelled" in manifest)}

![Loss, error rates and learning rate over the steps](curves.png)

{usage(str(folder), plan["language"], recipe["window"])}
## Limits

{limits}

## How it was made

| | |
| --- | --- |
{facts}
"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def pushed(text: str, model: str, plan: dict, formats: tuple[str, ...] = ()) -> str:
    """The card for others: named as the `model`, USER/NAME on the Hub or the NAME elsewhere, and used from there in
    `formats`. It names no folder of this machine, and gives no licence where the data's allows none: who goes on from
    a copy has no plan.json to see what it was tuned on."""
    name = model.rpartition("/")[2]
    if licences.why_private(plan):
        text = re.sub(r"(?m)^license: .*\n", "", text, count=1)
    text = re.sub(r"(?m)^- name: .*$", lambda _: f"- name: {_literal(name)}", text, count=1)
    text = re.sub(r"(?m)^# .*$", lambda _: f"# {name}", text, count=1)
    section = usage(model, plan["language"], plan["recipe"]["window"], formats)
    return re.sub(r"(?s)## How to use it\n.*?(?=\n## )", lambda _: section, text, count=1)


def usage(model: str, language: str, window: str, formats: tuple[str, ...] = ()) -> str:
    """The section on how to use `model`, a folder or USER/NAME; `formats` as in `pushing.push`."""
    convert, fast, typed = "", model, shlex.quote(model)
    if "ctranslate2" not in formats:
        fast = f"{Path(model).name}-ct2"
        convert = f"""
    ct2-transformers-converter --model {typed} --output_dir {shlex.quote(fast)} --quantization int8 \\
        --copy_files tokenizer.json preprocessor_config.json
"""
    ggml = ""
    if "ggml" in formats:
        ggml = f"""
With [whisper.cpp](https://github.com/ggml-org/whisper.cpp):

    hf download {typed} ggml-model-f16.bin --local-dir .
    whisper-cli -m ggml-model-f16.bin -l {language} -nt clip.wav
"""
    stamps = "" if window == "packed" else ", without_timestamps=True"
    learnt = "" if window == "packed" else " It was tuned on single sentences without timestamps: ask for none."
    short = ""
    if window != "full":
        short = "\nIt reads on the windows in config.json's `trained_windows`, in frames of 10 ms; others read at 30 s."
    return f"""## How to use it

Language and task are in its generation config.{learnt}

```python
from transformers import pipeline

speech = pipeline("automatic-speech-recognition", {_literal(model)})
print(speech("clip.mp3")["text"])
```

With [faster-whisper](https://github.com/SYSTRAN/faster-whisper):
{convert}
```python
from faster_whisper import WhisperModel

segments, _ = WhisperModel({_literal(fast)}).transcribe("clip.mp3", language="{language}"{stamps})
print(" ".join(segment.text for segment in segments))
```
{ggml}
With the program that made it, for recordings of any length, captions and a microphone page:

    python app.py --model {typed}
{short}
"""


def _literal(text: str) -> str:
    """As a string of Python, and of YAML."""
    return json.dumps(text, ensure_ascii=False)


def _front_matter(title: str, plan: dict, manifest: dict, metrics: dict) -> str:
    """What the Hub reads: language, base model, licence, and the scores on test."""
    from huggingface_hub import EvalResult, ModelCardData

    corpus = plan["corpus"]
    dataset, _, config = corpus["name"].partition(":")  # of the Hub's, both are in the name
    on_hub = "/" in dataset
    licence, base = licences.of_model(plan["model"])
    measures = MEASURES
    if unspaced(corpus["language"]):
        measures = ("cer_normalised", "cer")  # the Hub would rank the model by a WER that means nothing
    rows = [("tuned", "as trained", "")]
    if plan["recipe"]["window"] != "full":
        rows.append(("tuned_at_30_s", "30 s", ", at 30 s"))
    results = [
        EvalResult(
            task_type="automatic-speech-recognition",
            task_name="Speech recognition",
            dataset_name=_name(corpus),
            dataset_type=dataset if on_hub else re.sub(r"[^\w-]+", "_", dataset.lower()),
            dataset_config=config or corpus["language"],
            dataset_split="test",
            dataset_revision=corpus["version"] or corpus["fingerprint"][:16],
            dataset_args={
                "language": corpus["language"],
                "clips": manifest["splits"]["test"]["rows"],
                "fingerprint": corpus["fingerprint"],
            },
            metric_type=measure.split("_")[0],
            metric_name=NAMES[measure] + suffix,
            metric_value=score[measure]["value"],
            metric_args={"window": window, "low": score[measure]["low"], "high": score[measure]["high"]},
        )
        for who, window, suffix in rows
        if (score := metrics.get(who, {}).get("test"))
        for measure in measures
    ]
    return ModelCardData(
        language=re.split("[-_]", corpus["language"].lower())[0] if _borrowed(plan) else plan["language"],
        license=licence,
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=["whisper", TAG],
        base_model=base,
        datasets=[dataset] if on_hub else None,
        metrics=sorted({measure[:3] for measure in measures}, reverse=True),
        model_name=title,
        eval_results=results if "unlabelled" not in manifest else None,  # they are no error rates
    ).to_yaml()


def _borrowed(plan: dict) -> str:
    """What has to be known where Whisper is told another language than the corpus', as a paragraph; else ""."""
    said = languages.borrowed(plan["corpus"]["language"], plan["language"])
    return f"\n\n**{said}**" if said else ""


def _name(corpus: dict) -> str:
    return f"{corpus['name']} {corpus['version']}".strip()


def _start(model: str) -> str:
    """What it was tuned from, in words."""
    _, base = licences.of_model(model)
    if model == checkpoint.SAMPLE:
        return "OpenAI's Whisper base"
    return f"`{Path(model).name}`" + (f" (from `{base}`)" if base else "") if Path(model).is_dir() else f"`{model}`"


def _tuned(plan: dict) -> str:
    """What was done to it, on what."""
    on = f"{_name(plan['corpus'])} ({plan['corpus']['language']})"
    if plan["recipe"].get("adapt_windows"):
        return (
            f"taught to listen on windows as short as the speech, by the sound of {on}. No sentence was used: untuned, "
            "at 30 s, it was its own teacher"
        )
    other = plan.get("replay")
    among = f", with {other['clips']:,} clips of {_name(other)} ({other['language']}) among it" if other else ""
    return f"fine-tuned on {on}{among}"


def _said(corpus: dict, predictions: list[dict], unlabelled: bool = False) -> str:
    """Three clips of test as they were heard, unless their sentences may not be shown to anyone."""
    if not licences.may_be_public(corpus):
        return f"No sentences are shown, as the licence of {_name(corpus)} may not allow it."
    columns = {"sentence": "said", "untuned": "untuned", "tuned": "tuned"}
    if unlabelled:
        del columns["sentence"]
    rows = [columns.values(), ["---"] * len(columns)]
    rows += [[row[c].replace("|", "∣") for c in columns] for row in examples(predictions)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _limits(corpus: dict, metrics: dict, recipe: dict) -> Iterator[str]:
    if licences.bundled(corpus):
        yield "Synthetic voices, in quiet: of people's voices it says nothing."
    elif corpus["name"] == "Common Voice":
        yield READ
    else:
        yield f"Scored on {_name(corpus)}: the scores hold for speech and recordings like those."
    yield "Where nothing is said, in silence, noise or music, Whisper models write sentences that nobody spoke."
    if recipe.get("adapt_windows"):
        yield "It errs where the untuned model errs, and now and then where only short windows do; read before use."
    else:
        first = "Names, numbers and words that were not in the training sentences are where it errs first"
        yield f"{first}; read before use."
    if recipe["window"] != "packed":
        yield "Timestamps, long recordings and previous text as a prompt were not tuned, and may be worse than before."
    if doubt := choices.on_checkpoints(metrics.get("checkpoint")):
        yield doubt
    for name, gap in of_canaries(metrics).items():
        if gap.low > 0:
            yield f"Worse than the untuned model on `{name}`: {signed(gap)}."
    other = "" if of_canaries(metrics) else "speech of any other kind (how much was forgotten), "
    yield (
        f"Not measured: {other}spontaneous and overlapping speech, noise and distance, telephones, children, single "
        "dialects and accents, other languages, translation."
    )


def _facts(planned: dict, manifest: dict, run: dict) -> dict[str, str]:
    plan, versions = planned["plan"], planned["versions"]
    corpus, recipe = plan["corpus"], plan["recipe"]
    splits = (f"{k} {v['rows']:,} clips, {v['seconds'] / 3600:.2f} h" for k, v in manifest["splits"].items())
    licence = licences.of_corpus(corpus)
    stated = "made for this project" if licences.bundled(corpus) else licences.NAMES.get(licence, licence)
    ours, _ = licences.of_model(plan["model"])
    extras = {name: recipe[name] for name in RECIPE if recipe.get(name)}
    more = [RECIPE[name].format(", ".join(v) if isinstance(v, list | tuple) else v) for name, v in extras.items()]
    kwh, runs = run.get("energy_kwh"), len(run.get("average_of", ()))
    best = f"in each of {runs} runs" if runs else f"best on dev at step {run['best_step']}"
    tuned = f"tuned (the mean of {runs} runs)" if runs else "tuned"
    where = (f" in {run['precision']}" if "precision" in run else "") + f" on {run['device']}"
    seconds = f"{run['train_seconds']:,.0f} s{where}, {run['clips_per_second']:.2f} clips a second"
    resumed = f", after resuming at step {run['resumed_at_step']}" if run["resumed_at_step"] else ""
    if (begun := planned.get("processor", "")) not in where:
        resumed += f"; begun on {begun}"
    return {
        "data": f"{_name(corpus)}, {corpus['language']}; licence: {stated or 'not known to this program'}",
        "clips": "; ".join(splits) + f"; fingerprint `{plan['features'][:16]}`",
        "started from": f"{_start(plan['model'])}; licence: {licences.NAMES.get(ours, ours) or 'its own'}"
        + (f"; revision `{plan['revision']}`" if plan.get("revision") else ""),
        "optimiser": f"{recipe['optimizer']}, learning rate {recipe['learning_rate']:g}, {recipe['schedule']}, "
        f"{recipe['warmup_steps']} steps of warm-up, weight decay {recipe['weight_decay']:g}",
        "steps": f"{recipe['max_steps']:,} of {recipe['batch_size'] * recipe['accumulation']} clips; {best}",
        "windows": recipe["window"],
        **({"besides": "; ".join(more)} if more else {}),
        "weights": f"{run['share']:.0%} {tuned}, {1 - run['share']:.0%} untuned, averaged against forgetting. "
        f"{run.get('share_because', '')}".rstrip(" ."),
        "training took": seconds + resumed,
        "energy": f"{kwh:.3g} kWh by the GPU's own meter; the rest of the machine and its scores are not in it"
        if kwh
        else "not measured: no meter was at hand, and time on a device is no measure of it",
        "CO₂": "not stated: it follows from the energy and from the electricity of that place and hour",
        "seed": ", ".join(run["average_of"]) if runs else str(recipe["seed"]),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
