"""The page about the data: its numbers are the data's, and what is wrong with them is on it."""

import base64
import html.parser
import io
import re
import types

import chromium
import conftest
import datasets
import forms
import numpy as np
import pytest
import tfds_tiny
from PIL import Image

from configs import data as data_config
from vtabjax import data, tasks
from vtabjax.data import originals
from vtabjax.options import UsageError
from vtabjax.report import data_page
from vtabjax.report.data_page import _alike, _sprites

PLANTED = "<b>owl</b> & co"  # the name of a class


class _Tables(html.parser.HTMLParser):
    """The tables of a page by their id or caption, as rows of texts."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.key, self.rows, self.cell, self.caption = {}, "", [], None, False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.key, self.rows = dict(attrs).get("id", ""), []
        self.caption = tag == "caption"
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.cell = []

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self.rows[-1].append(" ".join("".join(self.cell).split()))
            self.cell = None
        if tag == "table":
            self.tables[self.key] = self.rows

    def handle_data(self, text):
        if self.caption and not self.key:
            self.key = text.strip()
        elif self.cell is not None:
            self.cell.append(text)


def made(tmp_path, *names, **fields):
    """Writes the pages of tasks; their texts, and the exit status."""
    config = data_config.get_config()
    config.tasks, config.image_size = ",".join(names), 32
    config.update(fields)
    status = data_page.run(config, tmp_path)
    pages = [tmp_path / "data" / f"{tasks.get(n, config.data_dir or None).file_stem}.html" for n in names]
    return types.SimpleNamespace(status=status, pages=pages)


def counts(page):
    """{class: [pictures in each split, in all]} of a page, the splits, and the last line."""
    head, *rows, last = _Tables(page.read_text(encoding="utf-8")).tables["counts"]
    n = head.index("all") + 1

    def numbers(row):
        return [int(text.replace(",", "")) for text in row[1:n]]

    found = {re.sub(r"\s*(largest|smallest)$", "", row[0]): numbers(row) for row in rows}
    return found, head[1 : n - 1], numbers(last)


def check_counts(page, task, data_dir=None, names=None):
    """The page's counts are those of the task's examples."""
    found, splits, last = counts(page)
    names = names or task.class_names
    labels = {s: data.load(task, s, image_size=8, skip_broken=True, data_dir=data_dir).labels for s in splits}
    expected = {
        name: [int((labels[s] == c).sum()) for s in splits]
        + [sum(int((v == c).sum()) for v in labels.values())]
        for c, name in enumerate(names)
    }
    assert found == expected
    assert last == [len(labels[s]) for s in splits] + [sum(map(len, labels.values()))]
    totals = [row[-1] for row in found.values()]
    assert totals == sorted(totals, reverse=True)


def photo(seed, size=48):
    """A smooth random picture of mild colours, which JPEG leaves as it is to the eye."""
    coarse = np.random.default_rng(seed).integers(64, 192, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes of nine, with a copy, a leak, two wrong labels and a broken file; its page."""
    root = tmp_path_factory.mktemp("pictures") / "birds"
    for c, name in enumerate(("crane", "duck", PLANTED)):
        (root / name.replace("/", "∕")).mkdir(parents=True)
        for i in range(9):
            photo(100 * c + i).save(root / name.replace("/", "∕") / f"{i}.png")
    crane, duck, owl = (root / name.replace("/", "∕") for name in ("crane", "duck", PLANTED))
    photo(0).save(crane / "again.bmp")  # equal pixels, another format
    photo(1).save(duck / "wrong.png")
    photo(102).save(owl / "near.jpg", quality=90)
    (duck / "broken.png").write_bytes((duck / "0.png").read_bytes()[:200])
    (duck / "notes.txt").write_text("text")
    workdir = tmp_path_factory.mktemp("work")
    page = made(workdir, f"folder:{root}")
    assert page.status == 0
    return types.SimpleNamespace(
        root=root, workdir=workdir, task=tasks.get(f"folder:{root}"), path=page.pages[0],
        text=page.pages[0].read_text(encoding="utf-8"),
    )  # fmt: skip


def section(text, name):
    """A section of a page as text without markup; class and file names may break anywhere."""
    inner = re.search(rf'<section id="{name}".*?</section>', text, re.S)[0]
    return " ".join(re.sub(r"<[^>]*>", "", inner.replace("<wbr>", "")).split())


def test_counts_are_the_data_s(pictures):
    check_counts(pictures.path, pictures.task)


def test_a_copy_is_shown(pictures):
    shown = section(pictures.text, "copies")
    assert "2 pictures are there more than once, 4 times in all" in shown
    assert "crane/0.png" in shown and "crane/again.bmp" in shown
    table = _Tables(pictures.text).tables["leaks"][1:]
    splits = {f.name: s for s, own in pictures.task.files.items() for f in own}
    for copies, pair in ((1, ("crane/0.png", "crane/again.bmp")), (1, ("crane/1.png", "duck/wrong.png"))):
        first, second = sorted((splits[name] for name in pair), key=["train", "val", "test"].index)
        row = f"within {first}" if first == second else f"{second} pictures that are in {first}"
        assert int(dict((r[0], r[1]) for r in table)[row]) >= copies
    assert sum(int(row[1]) for row in table) == 2 and sum(int(row[2]) for row in table) == 1


def test_wrong_labels_are_shown(pictures):
    shown = section(pictures.text, "labels")
    assert "1 picture is there under more than one class, and 1 pair of nearly equal pictures has" in shown
    for name in ("crane/1.png", "duck/wrong.png", "duck/2.png", "near.jpg"):
        assert name in shown
    assert "crane/0.png" not in shown and "crane/again.bmp" not in shown
    assert PLANTED not in pictures.text and "&lt;b&gt;owl" in pictures.text


def test_what_cannot_be_read_is_shown(pictures):
    shown = section(pictures.text, "unreadable")
    assert "1 picture is missing" in shown and "duck/broken.png" in shown
    assert "Left out: 1 .txt" in pictures.text


def test_sizes_and_kinds(pictures):
    tables = _Tables(pictures.text).tables
    kinds = {row[0]: int(row[1]) for row in tables["Kinds of files, by their content"][1:]}
    assert kinds == {"PNG": 28, "BMP": 1, "JPEG": 1}
    assert [row[:2] for row in tables["Most common sizes"][1:]] == [["48 × 48", "30"]]
    assert [row[:2] for row in tables["Width : height"][1:]] == [["square (within 5 %)", "30"]]
    assert sum(int(row[1]) for row in tables["Mean brightness, from black to white"][1:]) == 30


def test_contact_sheets(pictures, tmp_path):
    ids = {name for s in ("train", "val", "test") for name in data.load(
        pictures.task, s, image_size=8, skip_broken=True).ids}  # fmt: skip
    for per_class in (0, 4):
        page = made(tmp_path, pictures.task.name, per_class=per_class).pages[0].read_text(encoding="utf-8")
        sheets = re.findall(r'<ul class="pictures.*?</ul>', page, re.S)
        titles = [re.findall(r'title="([^"]*), (\w+)"', sheet) for sheet in sheets]
        assert [len(t) for t in titles] == [per_class] * 3 * bool(per_class)
        assert all(name.startswith("&lt;") or name in ids for t in titles for name, _ in t)
    again = made(tmp_path, pictures.task.name, per_class=4).pages[0].read_text(encoding="utf-8")
    other = made(tmp_path, pictures.task.name, per_class=4, seed=1).pages[0].read_text(encoding="utf-8")
    assert again == page and other != page


def test_every_form_of_own_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    found = forms.pictures(n=5)
    names = [
        forms.write_folder(tmp_path / "pictures", found),
        forms.write_list(tmp_path / "pictures" / "list.csv", found),
        forms.write_parquet(tmp_path / "list.parquet", found),
        forms.write_hub(tmp_path / "saved", found),
    ]
    pages = made(tmp_path, *names).pages
    for name, page in zip(names, pages, strict=True):
        check_counts(page, tasks.get(name))
    assert len({str(counts(page)) for page in pages}) == 1


def test_data_sets_that_are_prepared(tmp_path):
    name = forms.write_tfds(tmp_path / "tfds", forms.pictures(n=5), "array_record")
    tfds_tiny.prepare("svhn", tmp_path / "tfds")
    pages = made(tmp_path, name, "svhn", "digits", data_dir=str(tmp_path / "tfds")).pages
    check_counts(pages[0], tasks.get(name), tmp_path / "tfds")
    check_counts(pages[1], tasks.get("svhn"), tmp_path / "tfds", names=list(map(str, range(10))))
    assert counts(pages[1])[1] == ["train800", "val200", "test"]
    check_counts(pages[2], tasks.get("digits"), names=[f"class {i}" for i in range(10)])


def test_bad_input(tmp_path, capsys):
    conftest.fill_with_pictures(tmp_path / "good", a=5, b=5)
    conftest.fill_with_pictures(tmp_path / "large", a=5, b=5)
    conftest.picture(tmp_path / "large" / "a" / "large.png", size=(90, 60))
    good, large = (f"folder:{tmp_path / name}" for name in ("good", "large"))
    for fields, message in (
        ({"tasks": ""}, "config.tasks is empty"),
        ({"tasks": "digit"}, "did you mean digits"),
        ({"tasks": "dtd", "data_dir": str(tmp_path)}, "is not prepared"),
        ({"background": "blau"}, "config.background='blau' is not a colour"),
        ({"per_class": -1}, "config.per_class=-1 is too small"),
    ):
        config = data_config.get_config()
        config.update({"tasks": good} | fields)
        with pytest.raises(UsageError, match=re.escape(message)):
            data_page.run(config, tmp_path)
    result = made(tmp_path, large, good, max_pixels=1000)
    assert result.status == 1 and [page.exists() for page in result.pages] == [False, True]
    assert "1 file too large" in capsys.readouterr().err


def test_command(tmp_path, run_main):
    conftest.fill_with_pictures(tmp_path / "good", a=5, b=5)
    done = run_main(
        "--config=configs/data.py", f"--config.tasks=folder:{tmp_path / 'good'}", f"--workdir={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    (page,) = (tmp_path / "data").glob("*.html")
    assert f"10 pictures in 2 classes, 5 copies, 5 doubtful labels: {page}" in done.stderr


def test_cells_are_means():
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    expected = images.reshape(3, 16, 2, 16, 2, 3).mean((2, 4))
    np.testing.assert_allclose(_alike.cells(images), expected.reshape(3, -1), rtol=1e-6)
    np.testing.assert_array_equal(_alike.cells(images[:, :8, :8]), images[:, :8, :8].reshape(3, -1))
    # 17 pixels in 16 cells: the last one is two pixels wide.
    odd = _alike.cells(images[:, :17, :17]).reshape(3, 16, 16, 3)
    np.testing.assert_allclose(odd[:, -1, -1], images[:, 15:17, 15:17].mean((1, 2)), rtol=1e-6)


def test_near_is_three_grey_levels_or_a_quarter_of_what_is_usual():
    # On a line, by class: neighbours of their own class 100 apart; pairs at 1.5 and 3.5 across classes.
    values = np.array([0, 100, 200, 300, 1.5, 203.5, 1000, 1100], float)
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    features, hashes = np.repeat(values[:, None], 5, 1), np.arange(8)
    found = _alike.find(hashes, labels, features)
    assert (found.threshold, found.usual, found.groups) == (3, 100, [])
    assert [(p.first, p.second, p.distance) for p in found.near] == [(0, 4, 1.5)]
    # A hundredth of it: neighbours are 1 apart, so that near is a quarter, and 0.015 and 0.035 are.
    found = _alike.find(hashes, labels, features / 100)
    assert found.threshold == pytest.approx(0.25) and [p[:2] for p in found.near] == [(0, 4), (2, 5)]
    # A near copy of the own class hides none of another class.
    more = np.array([0, 0.5, 1.5, 100, 200, 300, 400])
    crowd = _alike.find(np.arange(7), np.array([0, 0, 1, 0, 0, 0, 0]), np.repeat(more[:, None], 5, 1))
    assert [p[:2] for p in crowd.near] == [(0, 1), (1, 2), (0, 2)] and crowd.usual == 100
    # Of equal pictures one is compared, and all are in a group.
    found = _alike.find(np.array([0, 1, 2, 3, 4, 5, 0, 0]), labels, features)
    assert found.groups == [[0, 6, 7]] and found.compared == found.different == 6


def test_small_pictures_lie_where_the_page_looks():
    shown = np.random.default_rng(0).integers(0, 256, (37, 12, 12, 3), np.uint8)
    sprite = _sprites.make(list(shown))
    assert sprite.pixelated and sprite.url.startswith("data:image/png;base64,")
    whole = np.asarray(Image.open(io.BytesIO(base64.b64decode(sprite.url.partition(",")[2]))))
    columns, rows = (int(text.rstrip("%")) // 100 for text in sprite.size.split())
    assert whole.shape == (12 * rows, 12 * columns, 3)
    for picture, place in zip(shown, sprite.places, strict=True):
        # CSS: at x % the picture's x % lies on the box's x %.
        x, y = (
            round(float(p.rstrip("%")) / 100 * (n - 1))
            for p, n in zip(place.split(), (columns, rows), strict=True)
        )
        np.testing.assert_array_equal(whole[12 * y : 12 * y + 12, 12 * x : 12 * x + 12], picture)
    assert _sprites.make([]) is None


def test_originals_are_as_their_owner_sees_them(tmp_path):
    conftest.fill_with_pictures(tmp_path, a=5, b=5)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (30, 20)).save(tmp_path / "a" / "turned.png", "JPEG", exif=exif)
    task = tasks.get(f"folder:{tmp_path}")
    found = {name: o for s in ("train", "val", "test") for name, o in originals.of_split(task, s).items()}
    assert (
        len(found) == 11 and found["a/turned.png"] == (20, 30, "JPEG") and found["b/000.png"] == (9, 6, "PNG")
    )


class TestBrowser:
    pytestmark = chromium.MARKS

    @pytest.mark.parametrize("viewport", [chromium.DESKTOP, chromium.PHONE])
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_page(self, open_file, pictures, viewport, scheme):
        page = open_file(pictures.path, viewport, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        assert chromium.low_contrast(page) == []
        rows = page.evaluate(
            "[...document.querySelector('#counts').tBodies[0].rows].map((r) => [...r.cells].map((c) => c.dataset.v))"
        )
        expected, splits, _ = counts(pictures.path)
        shown = {row[0]: [int(n) for n in row[1 : len(splits) + 2]] for row in rows}
        assert shown == expected and sum(row[-1] for row in shown.values()) == 30
        for picture in page.locator(".picture").all():
            box = picture.bounding_box()
            assert box["width"] > 20 and box["width"] == pytest.approx(box["height"], abs=1)

    def test_pictures_are_drawn(self, open_file, pictures):
        """The first small picture of a sheet, enlarged by the browser, is the data's."""
        page = open_file(pictures.path)
        own = page.locator(".pictures li").first
        own.scroll_into_view_if_needed()
        name = own.locator(".picture").get_attribute("aria-label").rpartition(": ")[2]
        drawn = np.asarray(Image.open(io.BytesIO(own.locator(".picture").screenshot())).convert("RGB"), float)
        examples = {
            s: data.load(pictures.task, s, image_size=32, skip_broken=True) for s in pictures.task.files
        }
        (wanted,) = [e.images[e.ids.index(name)] for e in examples.values() if name in e.ids]
        wanted = np.asarray(
            Image.fromarray(wanted).resize(drawn.shape[1::-1], Image.Resampling.NEAREST), float
        )
        assert np.abs(drawn - wanted)[4:-4, 4:-4].mean() < 10

    def test_sort_and_theme(self, open_file, pictures):
        page = open_file(pictures.path)
        for name, column in (("brightness", -2), ("train", 1)):
            button = page.locator("#counts thead button", has_text=name)
            button.click()
            values = page.evaluate(
                """(column) => [...document.querySelector('#counts').tBodies[0].rows]
                .map((r) => Number([...r.cells].at(column).dataset.v))""",
                column,
            )
            assert values == sorted(values, reverse=True)
            assert page.locator("[aria-sort=descending]").count() == 1
        page.locator("#theme").click()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(ids) == len(set(ids)) and page.locator("h1").count() == 1
