import pyarrow
import pytest
from conftest import inside

from whisper_lab.stores import store, survey


def rows(split: str, count: int, **columns) -> list[dict]:
    """`count` clips of 1, 2, … seconds; a column is a value, or a function of the clip's number."""
    defaults = {"client_id": "", "gender": "", "age": "", "accents": ""} | columns
    return [
        {"split": split, "seconds": 1.0 + i} | {k: v(i) if callable(v) else v for k, v in defaults.items()}
        for i in range(count)
    ]


@pytest.fixture
def clips() -> pyarrow.Table:
    ages = ["fifties", "teens", "", "twenties"]
    who = {"client_id": lambda i: f"s{i % 8}", "age": lambda i: ages[i % 4], "gender": "female"}
    rare = "en dialekt från en mycket avlägsen del av landet"
    train = rows("train", 40, accents=lambda i: "Skånska" if i < 30 else f"{rare} {i}", **who)
    return pyarrow.Table.from_pylist(train + rows("test", 20, gender=lambda i: "other" if i < 5 else "male"))


SPLITS = {"train": {"bytes": 4_000_000, "rows": 40}, "test": {"bytes": 1_000_000, "rows": 20}}


def read(table: str) -> dict[str, list[str]]:
    lines = [line for line in table.splitlines() if line.strip()]
    return {line[:34].strip(): line[34:].replace(" %", "%").split() for line in lines}


def test_the_table_says_what_there_is(clips):
    lines = survey.table(clips, SPLITS).splitlines()
    table = read("\n".join(lines[1:]))
    assert lines[0].split() == ["train", "test"] and len(lines) <= 22 and max(map(len, lines)) < 80
    assert table["clips"] == ["40", "20"] and table["speakers"] == ["8", "0"]
    assert table["hours"] == ["0.23", "0.06"]  # 820 s and 210 s
    assert table["seconds a clip, median"] == ["20.5", "10.5"] and table["kB a clip"] == ["100.0", "50.0"]
    assert table["seconds a clip, 95 % are under"] == ["38.0", "19.1"]
    assert table["gender   female"] == ["100%", "0%"] and table["other"] == ["0%", "25%"]
    assert table["age      teens"] == ["25%", "0%"] and table["accents  Skånska"] == ["75%", "0%"]


def test_shares_of_a_split_add_up_and_ages_come_by_age(clips):
    table = survey.table(clips, SPLITS)
    ages = table[table.index("age ") : table.index("accents")].splitlines()
    assert [line[9:34].strip() for line in ages if line.strip()][0] == "teens" or "teens" in ages[0]
    positions = [table.index(age) for age in ("teens", "twenties", "fifties", "(not said)")]
    assert positions == sorted(positions)
    for column in ("gender", "age", "accents"):
        counts = survey._counts(clips[column].to_pylist())
        for most in (1, 3, 10):
            names = survey._names(counts, most)
            assert len(names) <= most + 2 and sum(survey._percent(counts, names)) == pytest.approx(100)


def test_what_no_clip_says_is_one_line():
    silent = pyarrow.Table.from_pylist(rows("train", 40) + rows("test", 20))
    assert survey.table(silent, SPLITS).splitlines()[-1].strip() == "gender, age, accents (not said)"


@pytest.mark.parametrize("kind", ["rich", "silent", "one clip"])
def test_a_picture_is_made_of_any_corpus_and_the_same_twice(tmp_path, clips, kind):
    table = {"rich": clips, "silent": clips.slice(40), "one clip": clips.slice(59)}[kind]
    for name in ("a.png", "b.png"):
        survey.picture(table, "Common Voice 99.0, sv-SE", tmp_path / name)
    data = (tmp_path / "a.png").read_bytes()
    assert data.startswith(b"\x89PNG") and data == (tmp_path / "b.png").read_bytes()


def test_a_run_ends_with_the_survey_of_what_was_kept(tmp_path):
    done = inside("feature-pipeline.py", "--store", "set", "--limit", "8", cwd=tmp_path)
    features = store.FeatureSet(tmp_path / "set")
    clips = pyarrow.concat_tables(features.clips(split) for split in features.splits)
    assert survey.table(clips, features.manifest["splits"]) in done.stdout
    assert "sample 2.0, sv-SE" in done.stdout and len(done.stdout.strip().splitlines()) <= 20
    assert (tmp_path / "set" / "survey.png").read_bytes().startswith(b"\x89PNG")
