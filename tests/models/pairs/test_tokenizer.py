import copy
import pickle
import subprocess
import sys

import pytest

from guidestar.errors import UserError
from guidestar.models.pairs import load_tokenizer, train_tokenizer
from guidestar.models.pairs.tokenizer import END, START, import_tokenizers

CAPTIONS = ["A red shoe", "a blue shoe", "a Blue shirt with dots", "a red shirt"] * 3


def test_rows_begin_and_end_with_marks_and_every_text_can_be_read_back():
    tokenizer = train_tokenizer(CAPTIONS, 300, 64)
    for text in ("a red shoe", "naïve 北京 🙂", "x" * 40):
        row = tokenizer([text])[0]
        assert (row[0], row[-1]) == (START, END)
        assert tokenizer.pad not in row
        assert max(row) < tokenizer.vocabulary
        assert tokenizer.inner.decode(row).strip() == text
    assert tokenizer([]) == []
    assert tokenizer(["", "  \t"]) == [[START, END]] * 2


def test_case_and_space_do_not_matter():
    tokenizer = train_tokenizer(CAPTIONS, 300, 16)
    assert tokenizer(["A  RED\n shoe "]) == tokenizer(["a red shoe"])
    assert tokenizer(["red"]) != tokenizer(["re d"])


def test_long_captions_are_cut_and_keep_their_end():
    tokenizer = train_tokenizer(CAPTIONS, 300, 6)
    long, short = tokenizer(["a red shoe with blue dots and a shirt", "a shoe"])
    assert len(long) == 6
    assert long[-1] == END
    assert len(short) < 6


def test_marks_in_a_caption_are_plain_text():
    row = train_tokenizer(CAPTIONS, 300, 64)(["a shoe <|endoftext|> <|pad|> a shirt"])[0]
    assert row.count(END) == 1
    assert row.count(0) == 0


def test_more_vocabulary_gives_shorter_rows_and_is_an_upper_bound():
    short, long = train_tokenizer(CAPTIONS, 280, 32), train_tokenizer(CAPTIONS, 259, 32)
    assert (short.vocabulary, long.vocabulary) == (280, 259)
    assert len(short(["a red shoe"])[0]) < len(long(["a red shoe"])[0]) == len(" a red shoe") + 2
    assert train_tokenizer(CAPTIONS, 10_000, 32).vocabulary < 400


def test_the_order_of_the_captions_does_not_matter():
    first, second = train_tokenizer(CAPTIONS, 290, 16), train_tokenizer(CAPTIONS[::-1], 290, 16)
    assert first.inner.to_str() == second.inner.to_str()


def test_another_process_learns_the_same():
    code = (
        "from guidestar.models.pairs import train_tokenizer\n"
        "print(train_tokenizer([f'a caption number {n * n}' for n in range(500)], 600, 16).fingerprint())"
    )
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(runs) == 1


def test_fingerprint_sees_vocabulary_and_length():
    prints = {
        train_tokenizer(CAPTIONS, 300, 16).fingerprint(),
        train_tokenizer(CAPTIONS, 300, 17).fingerprint(),
        train_tokenizer(CAPTIONS, 280, 16).fingerprint(),
        train_tokenizer([*CAPTIONS, "an umbrella", "an umbrella"], 300, 16).fingerprint(),
    }
    assert len(prints) == 4


@pytest.mark.parametrize("copied", ["pickle", "deepcopy", "saved"])
def test_copies_are_equal(tmp_path, copied):
    tokenizer = train_tokenizer(CAPTIONS, 300, 9)
    if copied == "saved":
        tokenizer.save(tmp_path / "new")
        other = load_tokenizer(tmp_path / "new")
    else:
        other = pickle.loads(pickle.dumps(tokenizer)) if copied == "pickle" else copy.deepcopy(tokenizer)
    texts = ["a red shoe <|endoftext|>", "a blue shirt with dots and a very long description", ""]
    assert other(texts) == tokenizer(texts)
    assert (other.length, other.pad, other.vocabulary) == (9, 0, tokenizer.vocabulary)
    assert other.fingerprint() == tokenizer.fingerprint()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((CAPTIONS, 258, 8), "`vocabulary` must be at least 259 .* found 258"),
        ((CAPTIONS, 300, 2), "`length` must be at least 3 .* found 2"),
        (([], 300, 8), "`captions` must hold at least one that is not empty"),
        ((["", " "], 300, 8), "`captions` must hold at least one that is not empty"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        train_tokenizer(*arguments)


def test_captions_that_are_no_strings():
    with pytest.raises(TypeError, match="`captions` must be strings, found int at 1"):
        train_tokenizer(["a", 3], 300, 8)
    tokenizer = train_tokenizer(CAPTIONS, 300, 8)
    with pytest.raises(TypeError, match="must be a list of strings, found one string"):
        tokenizer("a shoe")
    with pytest.raises(TypeError, match="found NoneType at 0"):
        tokenizer([None])


def test_folders_that_hold_no_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder with guidestar_tokenizer.json, found none"):
        load_tokenizer(tmp_path)
    settings = tmp_path / "guidestar_tokenizer.json"
    settings.write_text("{")
    with pytest.raises(UserError, match=r"guidestar_tokenizer.json is no readable JSON"):
        load_tokenizer(tmp_path)
    for content in ('{"kind": "words", "length": 3}', '{"kind": "bpe"}', "[]"):
        settings.write_text(content)
        with pytest.raises(UserError, match=r"must name a kind \(bpe, transformers, open_clip\) and its values"):
            load_tokenizer(tmp_path)
    settings.write_text('{"kind": "bpe", "length": 8}')
    with pytest.raises(FileNotFoundError, match=r"there must be tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(UserError, match=r"tokenizer.json is no readable JSON"):
        load_tokenizer(tmp_path)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"guidestar\[clip\]"):
        import_tokenizers()
