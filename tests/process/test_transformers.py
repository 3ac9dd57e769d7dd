"""The callback for the Hugging Face Trainer, with the real library and a tiny model made on the spot."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from tests.official import needs_official_client, official_parameters
from tests.process.harness import Node, lease, zygote
from tests.process.stories import Stories, steps_of, told
from tests.process.torchjob import RUN


def _installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) for name in names)


pytestmark = [
    pytest.mark.skipif(
        not _installed("torch", "transformers", "accelerate", "optuna"),
        reason="not all is installed here: pip install torch transformers accelerate optuna",
    ),
]

IMPORTS = ("transformers.trainer", "transformers.models.bert.modeling_bert", RUN)
MODEL = """
import torch
os.environ["HF_HUB_OFFLINE"] = "1"
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback
from transformers import Trainer, TrainerCallback, TrainingArguments
from pluto_dist.integrations.transformers import PlutoCallback

def model():
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=32, max_position_embeddings=8, **tiny))

data = [{"input_ids": torch.arange(6), "labels": torch.tensor(n % 2)} for n in range(16)]

def trainer(callback, *others, **more):
    arguments = TrainingArguments(
        output_dir=os.path.join(os.environ["PLUTO_DIR"], f"out{os.getpid()}"), max_steps=4, logging_steps=1,
        per_device_train_batch_size=4, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
        dataloader_pin_memory=False, **more,
    )
    made = Trainer(
        model_init=model, args=arguments, train_dataset=data, eval_dataset=data, callbacks=[callback, *others]
    )
    made.remove_callback(PrinterCallback)  # its lines would get between those of other ranks
    return made
"""

SCRIPTS = {
    "trains": """
        import inspect
        from pluto_dist.integrations.transformers import MLOPCallback
        assert MLOPCallback is PlutoCallback
        tell_json("arguments", list(inspect.signature(MLOPCallback).parameters))
        run = pluto.init(run_id="own", config={"a": 1})
        own = PlutoCallback(config={"b": 2})
        trainer(own).evaluate()
        tell_json("same", own.run is run and not run.ended)
        run.log({"after": 1.0}, 9)
        run.finish()

        callback = PlutoCallback(project="hf", tags=["tiny"])
        mine = trainer(callback, run_name="trains", learning_rate=0.01)
        mine.train()
        mine.evaluate()
        mine.predict(data)
        mine.train()
        tell_json("facts", facts(callback.run) | {"status": callback.run.status})
    """,
    "hands over": """
        callback = PlutoCallback(run_id="handed", checkpoints="hand-over")
        mine = trainer(callback, run_name="handed", save_steps=2)
        mine.args.save_strategy = "steps"
        mine.train()
        callback.run.finish()
        side = pluto.attach("handed", label="eval")
        tell_json("handed", [
            (os.path.isdir(each.path), each.step, each.info["best"]) for each in side.checkpoints()
        ])
    """,
    "raises": """
        class Fails(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step == 2:
                    raise ValueError("boom")
        trainer(PlutoCallback(name="raises"), Fails()).train()
    """,
    "search": """
        callback = PlutoCallback(run_id="search", config={"space": "small"})
        mine = trainer(callback, run_name="best")
        best = mine.hyperparameter_search(
            backend="optuna", n_trials=2, direction="minimize", hp_name=lambda trial: f"trial{trial.number}",
            hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 0.001, 0.01)},
        )
        mine.args.learning_rate = best.hyperparameters["learning_rate"]
        mine.train()
    """,
}

JOB = """
callback = PlutoCallback(name="{name}")

class Fails(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if RANK == {failing_rank} and state.global_step == 2:
            raise ValueError("boom")

trainer(callback, Fails()).train()
say("ready", facts(callback.run))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""
JOBS = {"ranks": None, "ranks_raise": 1}


@pytest.fixture(scope="module")
def stories(shared_node: Node) -> Iterator[Stories]:
    """All scripts and jobs of this module."""
    with told(shared_node, zygote(*IMPORTS), MODEL, SCRIPTS, JOB, JOBS) as made:
        yield made


def test_all_that_one_callback_sees_is_one_run(shared_node: Node, stories: Stories) -> None:
    """G7: train, evaluate, predict, train again; the Run ends with the interpreter."""
    told, found = stories["trains"].result(), shared_node.ended("trains")
    assert (found["status"], told.code) == ("COMPLETED", 0)
    assert (found["project"], found["tags"]) == ("hf", ["tiny"])
    assert told.json("facts")["status"] == "RUNNING"
    steps = steps_of(shared_node, "trains")
    assert steps["train/loss"] == [1, 2, 3, 4, 1, 2, 3, 4]
    assert steps["train/learning_rate"] == steps["train/loss"]
    assert (steps["eval/loss"], steps["test/loss"]) == ([4], [4])


def test_the_config_has_the_training_arguments_and_the_models(shared_node: Node, stories: Stories) -> None:
    stories["trains"].result()
    config = shared_node.ended("trains")["config"]
    assert (config["learning_rate"], config["max_steps"], config["run_name"]) == (0.01, 4, "trains")
    assert (config["model_type"], config["hidden_size"]) == ("bert", 8)
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}


def test_a_run_of_the_script_is_used_and_not_ended(shared_node: Node, stories: Stories) -> None:
    """G1: whoever opened it ends it; an evaluation without a training finds it too."""
    told, found = stories["trains"].result(), shared_node.ended("own")
    assert told.json("same") is True
    assert (found["status"], found["config"]) == ("COMPLETED", {"a": 1, "b": 2})
    assert {"eval/loss": [0], "after": [9]}.items() <= steps_of(shared_node, "own").items()


def test_what_the_trainer_saves_is_handed_over(stories: Stories) -> None:
    """R14: the folders, when they are complete."""
    assert stories["hands over"].result().json("handed") == [[True, 2, False], [True, 4, False]]


def test_an_exception_in_a_training_is_the_runs_failure(shared_node: Node, stories: Stories) -> None:
    """G7, R9."""
    told, found = stories["raises"].result(), shared_node.ended("raises")
    failure = found["verdict"]["first_failure"]
    assert (found["status"], told.code) == ("FAILED", 1)
    assert (failure["kind"], failure["type"], failure["message"]) == ("exception", "ValueError", "boom")


def test_each_trial_of_a_search_is_a_run_and_so_is_the_training_after_it(
    shared_node: Node, stories: Stories
) -> None:
    assert stories["search"].result().code == 0
    rates = set()
    for run_id, name in (("search", "trial0"), ("search-2", "trial1"), ("search-3", "best")):
        found = shared_node.ended(run_id)
        assert (found["status"], found["name"], found["config"]["space"]) == ("COMPLETED", name, "small")
        assert steps_of(shared_node, run_id)["train/loss"] == [1, 2, 3, 4]
        rates.add(found["config"]["learning_rate"])
    assert len(rates) == 2  # the last one has the better one's


def test_ranks_of_torchrun_share_one_run(shared_node: Node, stories: Stories) -> None:
    """G1, G10: process zero logs, every rank is there."""
    (job, code), found = stories["ranks"].result(), shared_node.ended("ranks")
    assert (found["status"], code) == ("COMPLETED", 0), found["verdict"]
    assert [each["name"] for each in shared_node.documents()].count("ranks") == 1
    for rank, facts in job.ready().items():
        assert (facts["role"], facts["run_id"]) == ("worker" if rank else "owner", found["run_id"])
        assert lease(found, rank=rank)["lease_id"] == facts["lease_id"]
    assert steps_of(shared_node, "ranks")["train/loss"] == [1, 2, 3, 4]


def test_an_exception_in_rank_1_is_the_runs_failure(shared_node: Node, stories: Stories) -> None:
    """G7: FAILED with rank 1's exception, and not with what it did to rank 0."""
    (_, code), found = stories["ranks_raise"].result(), shared_node.ended("ranks_raise")
    failure = found["verdict"]["first_failure"]
    assert (found["status"], code) == ("FAILED", 1)
    assert (failure["rank"], failure["type"], failure["message"]) == (1, "ValueError", "boom")


@needs_official_client
def test_the_official_class_needs_no_argument_and_neither_does_ours(stories: Stories) -> None:
    """A change of the import is enough."""
    assert official_parameters("pluto/compat/transformers", "MLOPCallback") == []
    assert stories["trains"].result().json("arguments") == ["op", "checkpoints", "arguments"]
