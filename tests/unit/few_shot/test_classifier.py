"""A classifier made of a few images says of each image what the adapted network says, and nothing else has a say."""

import copy
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_maml.episodes import Episodes, Task
from lightning_maml.errors import SettingError
from lightning_maml.few_shot import Classifier, FewShotLearner, Recipe
from lightning_maml.inner_loops import HigherLoop
from lightning_maml.models import Conv4

LR, STEPS, SHAPE = 0.1, 3, (1, 8, 8)
NETWORK = {"_target_": "lightning_maml.models.Conv4", "num_layers": 2, "num_filters": 4}
OPTIMIZER = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": LR}
LEARNERS: dict[str, dict[str, Any]] = {
    "MAML": {},
    "ANIL": {},
    "MAMLPlusPlus": {"num_steps": STEPS, "step_size": LR},
    "UnicornMAML": {},
    "ProtoNet": {},
    "R2D2": {},
}
ANY_WAYS = ("UnicornMAML", "ProtoNet", "R2D2")


def recipe_of(name: str = "MAML", ways: int = 3) -> Recipe:
    return Recipe(
        network=NETWORK,
        learner={"_target_": f"lightning_maml.algorithms.{name}", **LEARNERS[name]},
        inner_loop={"_target_": "lightning_maml.inner_loops.HigherLoop", "inner_optimizer": OPTIMIZER},
        transforms=[{"_target_": "torchvision.transforms.ToTensor"}],
        input_shape=list(SHAPE),
        num_outputs=ways,
        steps=0 if name in ("ProtoNet", "R2D2") else STEPS,
        data="random",
    )


def learner_of(name: str = "MAML", ways: int = 3) -> FewShotLearner:
    torch.manual_seed(4)
    recipe = recipe_of(name, ways)
    return FewShotLearner(recipe, recipe.make_learner(), recipe.make_inner_loop())


def draw(ways: int = 3, shots: int = 2, seed: int = 0) -> tuple[list[Tensor], list[str], Tensor]:
    """Support images, their labels, and seven query images."""
    generator = torch.Generator().manual_seed(seed)
    labels = [f"class {way}" for way in range(ways) for _ in range(shots)]
    images = [torch.rand(SHAPE, generator=generator) + int(label[-1]) / ways for label in labels]
    return images, labels, torch.rand(7, *SHAPE, generator=generator) * 2


def test_it_is_the_adapted_network_with_the_batch_norm_of_the_support_set() -> None:
    """Against PyTorch's own optimizer, and batch norm with running statistics of its own."""
    learner, (images, labels, query) = learner_of(), draw()
    found = learner.adapt(images, labels)(query)
    network = Conv4(SHAPE, 3, num_layers=2, num_filters=4)
    network.load_state_dict(learner._learner.network.state_dict())  # type: ignore[union-attr]
    x, y = torch.stack(images), torch.tensor([int(label[-1]) for label in labels])
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
    for norm in (one for one in network.modules() if isinstance(one, torch.nn.BatchNorm2d)):
        norm.track_running_stats, norm.momentum = True, 1.0
        norm.running_mean, norm.running_var = torch.zeros(4), torch.ones(4)
        norm.num_batches_tracked = torch.tensor(0)
    counts = [6 * 8 * 8, 6 * 4 * 4]
    network(x)  # momentum 1: the statistics of this batch, with Bessel's correction
    for norm, count in zip(
        (one for one in network.modules() if isinstance(one, torch.nn.BatchNorm2d)), counts, strict=True
    ):
        norm.running_var *= (count - 1) / count
    expected = network.eval()(query).softmax(dim=1)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_prediction_depends_on_its_image_alone(name: str) -> None:
    images, labels, query = draw()
    classifier = learner_of(name).adapt(images, labels)
    together = classifier(query)
    torch.testing.assert_close(together, torch.cat([classifier(one[None]) for one in query]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together.sum(dim=1), torch.ones(7))
    assert len({tuple(row) for row in together.round(decimals=4).tolist()}) > 1


@pytest.mark.parametrize("name", LEARNERS)
def test_transductive_predictions_are_those_of_an_evaluation(name: str) -> None:
    images, labels, query = draw()
    learner = learner_of(name)
    classifier = learner.adapt(images, labels, transductive=True)
    y = torch.tensor([int(label[-1]) for label in labels])
    task = Task(torch.stack(images), y, query, torch.tensor([0, 1, 2, 0, 1, 2, 0]))
    loop = HigherLoop(partial(torch.optim.SGD, lr=LR))
    trajectory, _ = loop(learner._learner, Episodes(*(field[None] for field in task)), steps=learner.recipe.steps)
    loss = F.nll_loss(classifier(query).log(), task.query_y)
    assert float(loss) == pytest.approx(float(trajectory.query_loss[0, -1]), rel=1e-4)
    assert classifier.transductive and not torch.allclose(classifier(query)[:2], classifier(query[:2]), atol=1e-4)


@pytest.mark.parametrize(
    ("device", "rule"),
    [
        ("tpu7", "give auto, cpu or cuda"),
        ("cpu:x", "give auto, cpu or cuda"),
        ("meta", "this machine has no such device"),
        ("cuda:99", "this machine has no such device"),
        (3.5, "give auto, cpu or cuda"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device: Any, rule: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=f"device={device}.*{rule}"):
        FewShotLearner.load(tmp_path / "any.ckpt", device=device)


@pytest.mark.parametrize("name", LEARNERS)
def test_it_is_the_same_after_saving_and_as_onnx(name: str, tmp_path: Path) -> None:
    images, labels, query = draw()
    classifier = learner_of(name).adapt(images, labels)
    classifier.save(tmp_path / "classifier.pt")
    again = Classifier.load(tmp_path / "classifier.pt")
    assert again.classes == classifier.classes and torch.equal(again(query), classifier(query))
    if name not in ("MAML", "ProtoNet"):  # an export takes seconds
        return
    assert classifier.export_onnx(tmp_path / "classifier.onnx") < 1e-5
    import onnx.reference

    run = onnx.reference.ReferenceEvaluator(str(tmp_path / "classifier.onnx"))
    output: Any = run.run(None, {"images": query.numpy()})
    np.testing.assert_allclose(output[0], classifier(query).numpy(), atol=1e-5)


def test_adapting_never_changes_the_learner_in_any_number_of_threads() -> None:
    learner = learner_of()
    before = {name: value.clone() for name, value in learner._learner.state_dict().items()}
    tasks = [draw(seed=seed) for seed in range(8)]
    expected = [learner.adapt(images, labels)(query) for images, labels, query in tasks]
    shared = learner.adapt(*tasks[0][:2])
    found: dict[int, Tensor] = {}
    shared_found: list[Tensor] = []

    def work(index: int) -> None:
        images, labels, query = tasks[index]
        for _ in range(3):
            found[index] = learner.adapt(images, labels)(query)
            shared_found.append(shared(tasks[0][2]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, value in enumerate(expected):
        torch.testing.assert_close(found[index], value)
    assert len(shared_found) == 24
    for value in shared_found:
        torch.testing.assert_close(value, expected[0])
    assert before.keys() == learner._learner.state_dict().keys()
    for name, value in learner._learner.state_dict().items():
        assert torch.equal(value, before[name])


def test_fewer_classes_work_and_more_where_the_method_takes_them() -> None:
    images, labels, query = draw(ways=2)
    assert learner_of().adapt(images, labels)(query).shape == (7, 2)
    images, labels, query = draw(ways=5)
    with pytest.raises(SettingError, match="support=5 classes: .*3 apart.*protonet, r2d2 or unicorn_maml"):
        learner_of().adapt(images, labels)
    for name in ANY_WAYS:
        predictions = learner_of(name).adapt(images, labels).classify(list(query))
        assert len(predictions) == 7 and set(predictions[0].probabilities) == set(labels)
    with pytest.raises(SettingError, match="support=1 class: there is nothing to tell apart"):
        learner_of().adapt(images[:2], labels[:2])


def test_what_is_predicted_is_the_likeliest_class() -> None:
    images, labels, query = draw()
    classifier = learner_of("ProtoNet").adapt(images, labels)
    for prediction, row in zip(classifier.classify(list(query)), classifier(query), strict=True):
        assert prediction.label == classifier.classes[int(row.argmax())]
        assert prediction.probability == max(prediction.probabilities.values()) == pytest.approx(float(row.max()))
    assert classifier.classify([]) == []


def test_steps_may_be_chosen_and_a_method_without_steps_refuses_them() -> None:
    images, labels, query = draw()
    outputs = [learner_of().adapt(images, labels, steps=steps)(query) for steps in (0, STEPS, None)]
    assert torch.equal(outputs[1], outputs[2]) and not torch.allclose(outputs[0], outputs[1])
    with pytest.raises(SettingError, match="steps=2: this method does not adapt by gradient"):
        learner_of("ProtoNet").adapt(images, labels, steps=2)
    with pytest.raises(SettingError, match="steps=-1"):
        learner_of().adapt(images, labels, steps=-1)


def test_labels_of_arrays_and_tensors_are_plain(tmp_path: Path) -> None:
    images, _, query = draw()
    for labels in (torch.tensor([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 2, 2]), np.array(list("aabbcc"))):
        classifier = learner_of().adapt(images, labels)  # type: ignore[arg-type]
        assert len(classifier.classes) == 3
        classifier.save(tmp_path / "c.pt")
        assert torch.equal(Classifier.load(tmp_path / "c.pt")(query), classifier(query))
    with pytest.raises(ValueError, match="a label is a text or a whole number, not None"):
        learner_of().adapt(images[:2], [None, "a"])  # type: ignore[list-item]


def test_it_is_a_module_like_others() -> None:
    """It may be copied, moved and told to train, and stays what it is."""
    images, labels, query = draw()
    classifier = learner_of().adapt(images, labels)
    expected = classifier(query)
    assert torch.equal(copy.deepcopy(classifier)(query), expected)
    assert torch.equal(classifier.train()(query), expected)
    torch.testing.assert_close(classifier.double()(query.double()).float(), expected, rtol=1e-4, atol=1e-5)


def test_a_transductive_classifier_is_neither_saved_nor_exported(tmp_path: Path) -> None:
    images, labels, _ = draw()
    classifier = learner_of().adapt(images, labels, transductive=True)
    for act in (classifier.save, classifier.export_onnx):
        with pytest.raises(SettingError, match="transductive=True"):
            act(tmp_path / "file")
    assert not list(tmp_path.iterdir())
