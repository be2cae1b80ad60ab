import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtabjax import specs
from vtabjax.specs import Spec, SpecError


@pytest.mark.parametrize(
    "text, spec",
    [
        ("timm/resnet50.a1_in1k", Spec("timm", "resnet50", tag="a1_in1k")),
        ("torchvision/resnet50.IMAGENET1K_V2", Spec("torchvision", "resnet50", tag="IMAGENET1K_V2")),
        ("timm/resnet18@random", Spec("timm", "resnet18", seed=0)),
        ("timm/resnet18@random:7", Spec("timm", "resnet18", seed=7)),
        (
            "torchvision/resnet50@/p/moco_v2.pth.tar",
            Spec("torchvision", "resnet50", file="/p/moco_v2.pth.tar"),
        ),
        ("openselfsup/simclr@/p/a@b.pth", Spec("openselfsup", "simclr", file="/p/a@b.pth")),
        ("embedded/sprites_resnet", Spec("embedded", "sprites_resnet")),
        (" baseline/pixels ", Spec("baseline", "pixels")),
        ("timm/r@/p/a.pth#weights=ema", Spec("timm", "r", file="/p/a.pth", options=(("weights", "ema"),))),
        ("timm/r@/p/run#2/a#b.pth", Spec("timm", "r", file="/p/run#2/a#b.pth")),
        ("timm/r@/p/run#lr=1/a.pth", Spec("timm", "r", file="/p/run#lr=1/a.pth")),
        ("timm/r@/p/lr#lr=0.1.pth#", Spec("timm", "r", file="/p/lr#lr=0.1.pth")),
        ("timm/r@/p/a##", Spec("timm", "r", file="/p/a#")),
        ("timm/vit*.augreg*", Spec("timm", "vit*", tag="augreg*")),
        ("hf/microsoft/resnet-18.v1.5", Spec("hf", "microsoft/resnet-18.v1.5")),
        ("hf/o/n@refs/pr/1", Spec("hf", "o/n", revision="refs/pr/1")),
        ("hf/o/n@random:3", Spec("hf", "o/n", seed=3)),
        ("hf//my/run@2/a.b", Spec("hf", "/my/run@2/a.b")),
        ("hf//run#lr=1#", Spec("hf", "/run#lr=1")),
        ("hf//run#2", Spec("hf", "/run#2")),
        ("transformers/vit@random", Spec("transformers", "vit", seed=0)),
        ("open_clip/ViT-B-32.openai", Spec("open_clip", "ViT-B-32", tag="openai")),
        ("python/a.b:make", Spec("python", "a.b:make")),
        ("python/a.b:make@/p/w.pth", Spec("python", "a.b:make", file="/p/w.pth")),
        ("file//p/m@1.pt2", Spec("file", "/p/m@1.pt2")),
        ("file/m.pt2#layer=-2", Spec("file", "m.pt2", options=(("layer", "-2"),))),
        ("timm/v#pool=avg+layer=9", Spec("timm", "v", options=(("layer", "9"), ("pool", "avg")))),
        ("timm/v.t#pool=native", Spec("timm", "v", tag="t")),
        ("timm/v@random:2#pool=token", Spec("timm", "v", seed=2, options=(("pool", "token"),))),
    ],
)
def test_parse(text, spec):
    assert specs.parse(text) == spec
    assert specs.parse(str(spec)) == spec
    assert spec.random == (spec.seed is not None)


@pytest.mark.parametrize(
    "text, message",
    [
        ("resnet50", "has no source: a model spec is source/name"),
        ("/resnet50", "has no source"),
        ("timm/", "has no source"),
        ("", "has no source"),
        ("timm/resnet50@", "does not name any weights after '@'"),
        ("timm/resnet50@random:x", "the seed 'x' is not a whole number"),
        ("timm/resnet50@random:-1", "the seed '-1' is not a whole number"),
        ("timm/resnet50.a1_in1k@random", "both a weight tag"),
        ("timm/resnet50@random:18446744073709551616", "does not fit in 64 bits"),
        ("timm/resnet50@random:" + "9" * 5000, "does not fit in 64 bits"),
        ("timm/r@/p/a.pth#pol=avg", "no option 'pol' after '#'; there are layer, pool, weights"),
        ("timm/v#pool=mean", "pool=mean is not known; choose from native, token, avg, both"),
        ("timm/v#layer=0", "layer=0 is not the number of a block"),
        ("timm/v#layer=last", "layer=last is not the number of a block"),
        ("hf/", "has no source"),
        ("hf/o/n@", "does not name any weights"),
        ("timm/r@/p/a.pth#weights=", "option weights has no value"),
        ("timm/r@/p/a.pth#weights=a+weights=b", "gives an option twice"),
        ("timm/r@random#weights=ema", "chooses among the sets of weights in a file"),
        ("timm/r#ema", "not of the form key=value"),
    ],
)
def test_parse_errors(text, message):
    with pytest.raises(SpecError, match=message):
        specs.parse(text)


def test_home_folder():
    assert "~" not in specs.parse("timm/resnet18@~/w.pth").file


def test_which_features():
    spec = specs.parse("timm/v@/p/a.pth#pool=avg+layer=-2+weights=ema")
    assert (spec.pool, spec.layer, spec.weights) == ("avg", -2, "ema")
    assert str(spec.base) == "timm/v@/p/a.pth#weights=ema"
    assert (specs.parse("timm/v").pool, specs.parse("timm/v").layer) == ("native", None)


def test_a_whole_model_is_named_by_all_that_it_is(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"1")
    names = [specs.file_stem(f"hf/{folder}")]
    for name, content in (("preprocessor_config.json", "{}"), ("model.safetensors", "2")):
        (folder / name).write_text(content)
        names.append(specs.file_stem(f"hf/{folder}"))
    assert len(set(names)) == 3 and all(name.startswith("hf--my_run-") for name in names)
    converted = tmp_path / "converted"
    converted.mkdir()
    for name in ("graph.json", "model.json"):
        (converted / name).write_text(name)
    before = specs.file_stem(f"file/{converted}")
    (converted / "model.json").write_text("other weights")
    assert before.startswith("file--converted-") and specs.file_stem(f"file/{converted}") != before
    with pytest.raises(SpecError, match="there is no file or folder .*/gone.pt2"):
        specs.file_stem(f"file/{tmp_path}/gone.pt2")


def test_a_function_is_named_by_its_package_s_code(tmp_path, monkeypatch):
    package = tmp_path / "mynets"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "small.py").write_text("a = 1")
    monkeypatch.syspath_prepend(tmp_path)
    before = specs.file_stem("python/mynets.small:make")
    assert before.startswith("python--mynets.small-make~") and before == specs.file_stem(
        "python/mynets.small:make"
    )
    (package / "blocks.py").write_text("b = 1")
    assert specs.file_stem("python/mynets.small:make") != before
    with pytest.raises(SpecError, match="there is no Python module 'gone'"):
        specs.file_stem("python/gone.a:b")


def test_patterns():
    assert (
        specs.is_pattern("timm/resnet*")
        and specs.is_pattern("timm/vit_[ts]*")
        and specs.is_pattern("timm/v?t")
    )
    assert specs.is_pattern("transformers/*@random") and specs.is_pattern("open_clip/ViT-?-32.*")
    assert not specs.is_pattern("timm/resnet50@/path/with*star.pth")
    assert not any(map(specs.is_pattern, ("file//p/[a].pt2", "hf//p/a*", "python/a:b?")))


def test_slug_of_names():
    names = ["timm/resnet50", "timm/resnet50.a1_in1k", "timm/resnet50@random", "timm/resnet50@random:7"]
    assert specs.file_stem(names[1]) == "timm--resnet50.a1_in1k"
    assert len({specs.file_stem(n) for n in names}) == 4
    assert all("/" not in specs.file_stem(n) and ":" not in specs.file_stem(n) for n in names)
    assert specs.file_stem("timm/resnet50@random:0") == specs.file_stem("timm/resnet50@random")


def test_slug_of_files_is_their_content(tmp_path):
    a, b, c = tmp_path / "a.pth", tmp_path / "copy" / "a.pth", tmp_path / "my weights.pth"
    b.parent.mkdir()
    for path, content in ((a, b"1"), (b, b"1"), (c, b"2")):
        path.write_bytes(content)
    slugs = [specs.file_stem(f"timm/resnet18@{p}") for p in (a, b, c)]
    assert slugs[0] == slugs[1] != slugs[2]
    assert slugs[0] == "timm--resnet18@a.pth-6b86b273" and " " not in slugs[2]
    a.write_bytes(b"3")
    assert specs.file_stem(f"timm/resnet18@{a}") != slugs[0]
    with pytest.raises(SpecError, match="there is no weight file .*/gone.pth"):
        specs.file_stem(f"timm/resnet18@{tmp_path}/gone.pth")
    chosen = specs.file_stem(f"timm/resnet18@{a}#weights=ema")
    assert chosen == specs.file_stem(f"timm/resnet18@{a}") + "+weights=ema"


@pytest.mark.parametrize("text", ["timm/r@random", "timm/r@random:0", "timm/r@random:00"])
def test_one_random_model_has_one_name(text):
    assert str(specs.parse(text)) == "timm/r@random" and specs.file_stem(text) == "timm--r@random"


def test_slugs_of_different_models_never_meet(tmp_path):
    file = tmp_path / "random"
    file.write_bytes(b"1")
    names = ["a:b", "a-b", "a/b", "a--b", "a b", "a~b", "a:b/c", f"a@{file}", "a@random:6", "a@random"]
    names += [f"a@{file}#weights={value}" for value in ("x.y", "x y", "x-y")]
    slugs = [specs.file_stem(f"timm/{name}") for name in names]
    assert len(set(slugs)) == len(names)
    assert all(c not in slug for slug in slugs for c in "/:# ")


@given(st.lists(st.text("ab ", max_size=3), max_size=6))
def test_split_list(items):
    found = specs.split_list(",".join(items))
    assert found == list(dict.fromkeys(i.strip() for i in items if i.strip()))


def test_nearest():
    assert specs.nearest("digit", ["digits", "dtd", "svhn"])[0] == "digits"
    assert specs.nearest("zzz", ["digits"]) == []
