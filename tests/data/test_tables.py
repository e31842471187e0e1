import builtins
import gzip

import numpy as np
import pytest
from pydantic import TypeAdapter

from guidestar.data import Source, load, load_pair
from guidestar.errors import UserError

TRAIN = """age,job,income,note,label
20,cook,10,a,yes
30,clerk,,b,no
40,cook,30,c,yes
50,,20,d,no
"""
TEST = """age,job,income,note,label
35,pilot,?,x,no
35,clerk,20,y,yes
"""


def source(**settings):
    return TypeAdapter(Source).validate_python(settings)


def csv(path="train.csv", **changes):
    return source(**{"source": "csv", "path": path, "label": "label", "drop": ["note"], **changes})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.csv").write_text(TRAIN)
    (tmp_path / "test.csv").write_text(TEST)
    return tmp_path


def test_encoding_is_learnt_on_training_rows(folder):
    train, test = load_pair(csv(), csv("test.csv"), base=folder)
    assert train.kind == "table"
    assert train.class_names == ["no", "yes"]
    assert train.labels.tolist() == [1, 0, 1, 0]
    assert train.encoder.feature_names == [
        "age", "job=", "job=clerk", "job=cook", "income", "income is missing",
    ]  # fmt: skip
    # Ages 20, 30, 40, 50: mean 35, variance 125. Incomes 10, 30, 20: mean 20, variance 200 / 3.
    age, income = 1 / np.sqrt(125), 1 / np.sqrt(200 / 3)
    expected = [
        [-15 * age, 0, 0, 1, -10 * income, 0],
        [-5 * age, 0, 1, 0, 0, 1],
        [5 * age, 0, 0, 1, 10 * income, 0],
        [15 * age, 1, 0, 0, 0, 0],
    ]
    np.testing.assert_allclose(train.__getitems__(range(4))[0].numpy(), expected, atol=1e-6)
    # An unseen job gives zeros, a missing income the training mean and the indicator.
    np.testing.assert_allclose(
        test.__getitems__(range(2))[0].numpy(), [[0, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]], atol=1e-6
    )
    assert test.describe(0) == "age=35, job=pilot, income=?"


def test_parting_happens_before_the_encoding_is_learnt(tmp_path):
    lines = ["value,kind,label", *(f"{k * k},{'rare' if k == 3 else 'common'},{k % 2}" for k in range(20))]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    train, test = load_pair(csv(drop=[]), base=tmp_path, test_fraction=0.25, seed=1)
    assert (len(train), len(test)) == (15, 5)
    rows = [int(key) for key in train.keys(range(15))]
    values = np.array([row * row for row in rows], dtype=np.float64)
    column = train.__getitems__(range(15))[0][:, 0].numpy()
    np.testing.assert_allclose(column, (values - values.mean()) / values.std(), atol=1e-5)
    assert sorted(rows + [int(key) for key in test.keys(range(5))]) == list(range(20))
    assert train.class_names == test.class_names == ["0", "1"]


def test_whole_number_labels_sort_as_numbers(tmp_path):
    (tmp_path / "train.csv").write_text("x,label\n1,10\n2,9\n3,-1\n4,10.0\n")
    train = load(csv(drop=[]), base=tmp_path)
    assert train.class_names == ["-1", "9", "10"]
    assert train.labels.tolist() == [2, 1, 0, 2]


def test_constant_and_empty_columns_are_harmless(tmp_path):
    (tmp_path / "train.csv").write_text("x,gone,label\n7,,a\n7,,b\n")
    train = load(csv(drop=[]), base=tmp_path)
    assert train.__getitems__([0, 1])[0].tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]


def test_chosen_categorical_columns(folder):
    train = load(csv(categorical=["age", "job"]), base=folder)
    assert train.encoder.feature_names[:4] == ["age=20", "age=30", "age=40", "age=50"]


def test_quotes_delimiters_byte_order_marks_and_gzip(tmp_path):
    text = '\ufeffx;word;label\r\n1,5;"a;b";p\r\n\r\n2;"c\nd";q\r\n'
    with gzip.open(tmp_path / "train.csv.gz", "wt", encoding="utf-8", newline="") as stream:
        stream.write(text.replace("1,5", "1.5"))
    train = load(csv("train.csv.gz", drop=[], delimiter=";"), base=tmp_path)
    assert train.encoder.feature_names == ["x", "word=a;b", "word=c\nd"]
    assert len(train) == 2


def test_limit_is_stratified(tmp_path):
    lines = ["x,label", *(f"{k},{'ab'[k % 2]}" for k in range(40))]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    train = load(csv(drop=[], limit=10), base=tmp_path)
    assert train.labels.bincount().tolist() == [5, 5]
    assert train.keys([0])[0] in {str(k) for k in range(40)}


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (TRAIN, {"label": "nope"}, r"`label`: .*no column `nope`; it has: age, job, income, note, label"),
        (TRAIN, {"drop": ["nope"]}, r"`drop`: .*no column `nope`"),
        (TRAIN, {"drop": ["label"]}, "`drop` must not hold the label"),
        (TRAIN, {"drop": ["age", "job", "income", "note"]}, "must have a column besides"),
        (TRAIN, {"categorical": ["nope"]}, r"`categorical`: .*no column `nope`"),
        (TRAIN, {"categorical": []}, r"column `job`: expected a number, found 'cook' in row 0"),
        ("", {}, "no column `label`"),
        ("a;label\n1;x\n", {"drop": []}, r"no column `label`; .* a single column\. Did you mean `delimiter: \";\"`\?"),
        ("a\tlabel\n1\tx\n", {"drop": []}, r"Did you mean `delimiter: \"\\t\"`\?"),
        ("a,label\n1,x\n", {"drop": [], "delimiter": ";"}, r"Did you mean `delimiter: \",\"`\?"),
        ('"a b";"label"\n1;x\n', {"drop": []}, "line 1: no valid CSV with `delimiter` ','"),
        ("a\n1\n", {"drop": []}, r"no column `label`; it has: a\.$"),
        ("a,a,label\n1,2,x\n", {"drop": []}, "found `a` more than once"),
        ("a,label\n", {"drop": []}, "at least one row"),
        ("a,label\n1,x\n1,x,3\n", {"drop": []}, "line 3: expected 2 values, found 3"),
        ('a,label\n1,x\n"1"2,x\n', {"drop": []}, "line 3: no valid CSV"),
        ("a,label\n1,x\n1,\n", {"drop": []}, "no label in row 1"),
        ("a,label\n1,0.5\n1,1\n", {"drop": []}, "has 0.5 in row 0"),
        ("a,label\n1,x\ninf,x\n", {"drop": []}, "found infinity in row 1"),
        ("a,label\n" + "".join(f"w{k},x\n" for k in range(1001)), {"drop": []}, "1001 different values"),
    ],
)
def test_bad_tables(tmp_path, text, changes, message):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        load(csv(**changes), base=tmp_path)


def test_tables_that_are_no_text(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.csv"):
        load(csv(), base=tmp_path)
    (tmp_path / "train.csv").write_bytes(b"a,label\n\xff\xfe,x\n")
    with pytest.raises(
        UserError, match=r"train\.csv is not UTF-8 text \(.* 0xff in position 8.*; save it as CSV in UTF-8"
    ):
        load(csv(), base=tmp_path)
    (tmp_path / "train.csv").write_bytes(b"a,label\n" + b"1,x\n" * 9000 + b"\xff")
    with pytest.raises(UserError, match=r"train\.csv is not UTF-8 text after line \d+ \("):
        load(csv(drop=[]), base=tmp_path)


def test_test_tables_that_do_not_fit(folder):
    train = load(csv(), base=folder)
    (folder / "test.csv").write_text(TEST + "40,cook,1,z,maybe\n")
    with pytest.raises(UserError, match=r"label `maybe` in row 2 .*not in the training data; that has: no, yes"):
        load(csv("test.csv"), base=folder, other=train)
    (folder / "test.csv").write_text("age,income,note,label\n1,2,x,yes\n")
    with pytest.raises(UserError, match="no column `job`, which the training data has"):
        load(csv("test.csv"), base=folder, other=train)
    (folder / "test.csv").write_text(TEST.replace("35,pilot", "old,pilot"))
    with pytest.raises(UserError, match=r"column `age`: expected a number, found 'old' in row 0"):
        load(csv("test.csv"), base=folder, other=train)
    np.savez(folder / "data.npz", x=np.zeros((2, 6)), y=[0, 1])
    arrays = load(source(source="npz", path="data.npz", inputs="x", labels="y"), base=folder)
    with pytest.raises(UserError, match="so `train` must be one too"):
        load(csv("test.csv"), base=folder, other=arrays)


def test_parquet_equals_csv(folder):
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra `tables`")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra `tables`")
    content = pyarrow.table(
        {
            "age": [20, 30, 40, 50],
            "job": pyarrow.array(["cook", "clerk", "cook", None]).dictionary_encode(),
            "income": [10.0, None, 30.0, 20.0],
            "note": [["a"], ["b"], ["c"], ["d"]],
            "label": ["yes", "no", "yes", "no"],
        }
    )
    parquet.write_table(content, folder / "train.parquet")
    settings = {"source": "parquet", "path": "train.parquet", "label": "label"}
    read = load(source(**settings, drop=["note"]), base=folder)
    assert read.fingerprint() == load(csv(), base=folder).fingerprint()
    with pytest.raises(UserError, match="column `note`: each value must be a number or a text"):
        load(source(**settings), base=folder)
    with pytest.raises(FileNotFoundError, match=r"no\.parquet"):
        load(source(**{**settings, "path": "no.parquet"}), base=folder)
    (folder / "train.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="is no Parquet file"):
        load(source(**settings), base=folder)


def test_missing_pyarrow_names_the_extra(folder, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **options):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"guidestar\[tables\]"):
        load(source(source="parquet", path="x.parquet", label="y"), base=folder)


def test_adult_census(shared_data):
    settings = csv("fairness/adult.csv.gz", drop=["split"], label="income", limit=2000)
    train, test = load_pair(settings, base=shared_data, test_fraction=0.25)
    assert (len(train), len(test), train.num_classes) == (1500, 500, 2)
    assert train.input_shape == test.input_shape
    columns = train.__getitems__(range(1500))[0]
    assert abs(float(columns[:, 0].mean())) < 1e-5
    assert float(columns[:, 0].std(correction=0)) == pytest.approx(1, abs=1e-4)
