"""Loading from the hub and publishing to it, against a hub of our own: the real client, the real files."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparselight.errors import SaeError
from sparselight.records import EvalRecord, EvalRow, MetricValue, SubjectRef
from sparselight.sae import Sae
from sparselight.sae.formats import export_sae, load_sae
from sparselight.sae.formats.hub import Address, parse_address
from sparselight.sae.formats.publish import push


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def tree(random_sae: Callable[..., Sae], tmp_path: Path) -> tuple[Sae, dict[str, bytes]]:
    """A repository as sparsify's users upload it, with the leftovers of training."""
    sae = random_sae(k=3)
    for seed, path in enumerate(("layers.2", "layers.10")):
        export_sae(sae if seed == 0 else random_sae(seed=seed, k=3), tmp_path / "run" / path, "sparsify")
    return sae, {**files_of(tmp_path / "run"), "config.json": b'{"model": "tiny"}', "optimizer_0.pt": b"large", "state.pt": b"large", "README.md": b"# x"}


@pytest.mark.parametrize(("source", "address"), [
    ("hf://a/b", Address("a/b", "", None)), ("hf://a/b/layers.2", Address("a/b", "layers.2", None)), ("hf://a/b/x/y/@v1.0", Address("a/b", "x/y", "v1.0")),
    ("hf://a/b@refs/pr/3", Address("a/b", "", "refs/pr/3")), ("hf://a/b.c-d/x y/z.npz@main", Address("a/b.c-d", "x y/z.npz", "main")),
])
def test_addresses(source: str, address: Address) -> None:
    assert parse_address(source) == address


@pytest.mark.parametrize("source", ["hf://", "hf://a", "hf://a/b/../c", "hf://a/b/./c", "hf:///b", "hf://a/b@", "hf://a/b/x@v@w"])
def test_faulty_addresses(source: str) -> None:
    with pytest.raises(SaeError, match="not of the form hf://OWNER/NAME/PATH@REVISION"):
        load_sae(source)


def test_one_sae_is_downloaded(hub: Any, tree: tuple[Sae, dict[str, bytes]]) -> None:
    sae, files = tree
    hub.repositories["me/saes"] = files
    loaded = load_sae("hf://me/saes/layers.2")
    assert loaded.weights_hash() == sae.weights_hash()
    assert loaded.imported is not None
    assert loaded.imported.source == f"hf://me/saes/layers.2@{hub.commit('me/saes')}"
    assert loaded.imported.facts == {"site": "layers.2", "model": "tiny"}
    fetched = {request.split("/", 4)[-1] for request in hub.requests if request.startswith("GET me/saes/resolve")}
    assert fetched == {"layers.2/cfg.json", "layers.2/sae.safetensors", "config.json"}
    assert load_sae(f"sparsify:hf://me/saes/layers.2@{hub.commit('me/saes')}").weights_hash() == sae.weights_hash()


def test_a_repository_is_listed(hub: Any, tree: tuple[Sae, dict[str, bytes]]) -> None:
    hub.repositories["me/saes"] = tree[1]
    with pytest.raises(SaeError, match=r"2 SAEs lie there: layers.10, layers.2\. Instead: give one: hf://me/saes/layers.10"):
        load_sae("hf://me/saes")
    with pytest.raises(SaeError, match=r"no weights lie there; the repository holds README.md, config.json, layers.10, layers.2"):
        load_sae("hf://me/saes/layers.3")
    assert not any(request.startswith("GET me/saes/resolve") for request in hub.requests)


def test_a_file_of_many(hub: Any, tmp_path: Path) -> None:
    torch.save({"W_enc": torch.ones(4, 3), "b_enc": torch.ones(4), "W_dec": torch.ones(3, 4), "b_dec": torch.ones(3)}, tmp_path / "layer.pt")
    name = "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_2"
    hub.repositories[name] = {f"layer{number}.sae.pt": (tmp_path / "layer.pt").read_bytes() for number in range(3)}
    with pytest.raises(SaeError, match="3 SAEs lie there: layer0.sae.pt"):
        load_sae(f"hf://{name}")
    assert load_sae(f"hf://{name}/layer1.sae.pt").k == 2


def test_what_is_not_there(hub: Any) -> None:
    with pytest.raises(SaeError, match="the hub does not give it"):
        load_sae("hf://me/nothing/layers.2")
    hub.repositories["me/evil"] = {"../../out.safetensors": b""}
    with pytest.raises(SaeError, match="lists files outside of itself"):
        load_sae("hf://me/evil")


def one_line(err: SaeError) -> bool:
    return "\n" not in str(err) and "cannot be reached" in str(err)


def test_offline(go_offline: Callable[[], None], random_sae: Callable[..., Sae], record_of: Callable[..., Any]) -> None:
    go_offline()
    with pytest.raises(SaeError) as caught:
        load_sae("hf://me/saes/layers.2")
    assert one_line(caught.value)
    sae = random_sae()
    sae.record = record_of(sae)
    with pytest.raises(SaeError) as caught:
        push(sae, "me/saes")
    assert one_line(caught.value)


def test_offline_with_what_was_downloaded(hub: Any, tree: tuple[Sae, dict[str, bytes]], go_offline: Callable[[], None]) -> None:
    hub.repositories["me/saes"] = tree[1]
    load_sae("hf://me/saes/layers.2")
    sha = hub.commit("me/saes")
    go_offline()
    for source in ("hf://me/saes/layers.2", f"hf://me/saes/layers.2@{sha}"):
        assert load_sae(source).weights_hash() == tree[0].weights_hash()
    with pytest.raises(SaeError, match="cannot be reached"):
        load_sae(f"hf://me/saes/layers.10@{sha}")


# Publishing.

def evaluation() -> EvalRecord:
    def row(coder: str, is_control: bool, metric: str, value: float) -> EvalRow:
        measured = MetricValue(value=value, low=value - 0.01, high=value + 0.01, n=9)
        return EvalRow(coder=coder, is_control=is_control, dataset="domain", metric=metric, value=measured)

    rows = [row("base", False, "fvu", 0.1), row("PCA, 4 components", True, "fvu", 0.4), row("base", False, "l0", 4.0)]
    return EvalRecord(rows=rows, differences=[], n_tokens={"domain": 1000}, notes=["Some groups | are small."])


@pytest.fixture
def published(random_sae: Callable[..., Sae], record_of: Callable[..., Any]) -> Sae:
    sae = random_sae()
    sae.record = record_of(sae, site="model.layers.3:output", notes=["<script>alert(1)</script>"], parents=["0" * 64])
    return sae


def test_published_then_loaded(hub: Any, published: Sae) -> None:
    done = push(published, "me/saes", evaluation=evaluation(), license_name="mit")
    assert done.address == f"hf://me/saes/model.layers.3_output@{hub.commit('me/saes')}"
    assert set(hub.repositories["me/saes"]) == {"README.md", *(f"model.layers.3_output/{name}" for name in (
        "README.md", "cfg.json", "sae_weights.safetensors", "sparselight.json"))}
    back = load_sae(done.address)
    assert back.weights_hash() == published.weights_hash()
    assert back.record == published.record
    card = hub.repositories["me/saes"]["README.md"].decode()
    assert "| base | 0.1 [0.09, 0.11] | 4 [3.99, 4.01] |" in card
    assert "| PCA, 4 components (control) | 0.4 [0.39, 0.41] | - |" in card
    assert 'license: "mit"' in card
    assert "<script>" not in card
    assert "Some groups &#124; are small." in card
    assert re.search(r"SAE.from_pretrained\(\"me/saes\", \"model.layers.3_output\"\)", card)
    assert published.weights_hash() in card


def test_nothing_published_tells_where_things_stand_on_a_machine(hub: Any, published: Sae) -> None:
    assert published.record is not None
    subject = SubjectRef.model_validate({**published.record.subject.model_dump(exclude={"source"}), "name": "/home/anna/protein/subject2/model"})
    assert (subject.name, subject.address) == ("subject2 model", "/home/anna/protein/subject2/model")
    published.record = published.record.model_copy(update={"subject": subject, "notes": ["Trained on from /home/anna/sae/base."]})
    push(published, "me/saes", evaluation=evaluation())
    for name, content in hub.repositories["me/saes"].items():
        assert b"anna" not in content and b"/protein" not in content, name
    card = hub.repositories["me/saes"]["README.md"].decode()
    assert "of `subject2 model`" in card and "base_model" not in card and "Trained on from base." in card


def test_a_card_says_where_a_control_does_as_well(published: Sae) -> None:
    measured = MetricValue(value=0.99, low=0.985, high=0.995, n=9)
    rows = [EvalRow(coder=coder, is_control=is_control, dataset="domain", metric="ce_recovered_mean", value=measured)
            for coder, is_control in (("base", False), ("untrained SAE", True))]
    card = push(published, "me/saes", evaluation=evaluation().model_copy(update={"rows": rows}), dry_run=True).card
    assert "CE recovered says nothing here: on domain text untrained SAE recovers 0.99 [0.985, 0.995] of the model's loss" in card
    assert "says nothing" not in push(published, "me/saes", evaluation=evaluation(), dry_run=True).card


def test_a_second_one_leaves_the_first_card(hub: Any, published: Sae) -> None:
    push(published, "me/saes", "a")
    first = hub.repositories["me/saes"]["README.md"]
    push(published, "me/saes", "b/c")
    assert hub.repositories["me/saes"]["README.md"] == first
    assert "me/saes: b/c" in hub.repositories["me/saes"]["b/c/README.md"].decode()
    with pytest.raises(SaeError, match="2 SAEs lie there: a, b/c"):
        load_sae("hf://me/saes")


def test_dry_run_sends_nothing(hub: Any, published: Sae) -> None:
    done = push(published, "me/saes", dry_run=True)
    assert done.commit is None
    assert "None were given when this was published." in done.card
    assert hub.requests == []


def test_what_is_not_published(hub: Any, random_sae: Callable[..., Sae], published: Sae) -> None:
    with pytest.raises(SaeError, match="no record of what it was trained on"):
        push(random_sae(), "me/saes")
    for repository in ("saes", "a/b/c", "../x/y"):
        with pytest.raises(SaeError, match="not of the form OWNER/NAME"):
            push(published, repository)
    with pytest.raises(SaeError, match="leads out of the repository"):
        push(published, "me/saes", "../x")
    assert hub.requests == []
