"""Answers about pictures of one coloured shape, generated as evaluation does."""

from collections import Counter, defaultdict
from collections.abc import Callable

import pytest
from real_training import EASY_VQA, World, answered, text_scores, trained

from training.asking import Reply

pytestmark = [pytest.mark.slow, pytest.mark.shared_data, pytest.mark.usefixtures("one_rank")]
MAX_TEST_EXAMPLES = 600


def test_questions_about_unseen_pictures_are_answered(
    easy_vqa: World, record_property: Callable[[str, object], None]
) -> None:
    train, test = easy_vqa.examples("train"), easy_vqa.examples("test")[:MAX_TEST_EXAMPLES]
    predictions, controls = answered(easy_vqa, trained(easy_vqa, EASY_VQA), test, max_new_tokens=10)
    figures = {"model": predictions, "another picture": controls}
    frequent = Counter(example.targets[0] for example in train).most_common(1)[0][0]
    figures["most frequent answer"] = {example.example_id: Reply(frequent) for example in test}
    by_question = defaultdict(Counter)
    for example in train:
        by_question[example.prompt][example.targets[0]] += 1
    figures["question alone"] = {
        example.example_id: Reply((by_question[example.prompt] or Counter([frequent])).most_common(1)[0][0])
        for example in test
    }
    found = {name: text_scores(test, answers)["vqa_accuracy"] for name, answers in figures.items()}
    report = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    print(f"\n{report}")
    record_property("figures", report)
    assert found["model"] >= 0.90, report
    assert max(value for name, value in found.items() if name != "model") < 0.75, report
