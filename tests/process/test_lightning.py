"""The logger for PyTorch Lightning, with the real library: what users do with a Trainer, and its ends (G7).

Importing Lightning takes seconds, so each script tells several things; all of them run two at a time.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from tests.official import needs_official_client, official_parameters
from tests.process.harness import Node, events, lease, zygote
from tests.process.stories import Stories, steps_of, tell, told
from tests.process.torchjob import RUN

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None or importlib.util.find_spec("lightning") is None,
        reason="torch or lightning is not installed here: pip install torch lightning",
    ),
]

IMPORTS = ("lightning.pytorch", RUN)
MODULE = """
import logging, warnings
warnings.simplefilter("ignore")
import torch, lightning.pytorch as L
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
from pluto_dist.integrations.lightning import PlutoLogger

class Model(L.LightningModule):
    def __init__(self, lr=0.1, failing_rank=None):
        super().__init__()
        self.save_hyperparameters(ignore=["failing_rank"])
        self.layer, self.failing_rank = torch.nn.Linear(4, 1), failing_rank
    def _loss(self, batch):
        return self.layer(batch[0]).square().mean()
    def training_step(self, batch, index):
        if self.failing_rank == self.global_rank and self.global_step == 2:
            raise ValueError("boom")
        loss = self._loss(batch)
        self.log("loss", loss)
        return loss
    def test_step(self, batch, index):
        self.log("test_loss", self._loss(batch))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(64, 4)), batch_size=4)

def trainer(logger, steps=4, devices=1, **more):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return L.Trainer(
        accelerator="cpu", devices=devices, max_steps=steps, logger=logger, log_every_n_steps=1,
        **{**quiet, **more},
    )

def leave():
    "In step; see `torchjob.py`."
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""

SCRIPTS = {
    "fits": """
        import copy
        import inspect
        from pluto_dist.integrations.lightning import MLOPLogger
        assert MLOPLogger is PlutoLogger
        tell_json("arguments", list(inspect.signature(MLOPLogger).parameters))
        from argparse import Namespace
        from pathlib import Path

        run = pluto.init(run_id="own", config={"a": 1})
        logger = PlutoLogger(name="unused", tags="lit", config={"b": 2}, settings={"api_key": "mlpi_secret"})
        trainer(logger).fit(Model(), data)
        trainer(PlutoLogger(op=run)).test(Model(), data, verbose=False)
        tell_json("same", logger.experiment is run and not run.ended)
        run.log({"after": 1.0})
        run.finish()

        logger = PlutoLogger(name="fits", prefix="p", config={"model": {"width": 4}})
        first = trainer(logger, enable_checkpointing=True)
        first.fit(Model(), data)
        tell_json("checkpoint", first.checkpoint_callback.best_model_path)
        tell_json("named", [logger.name, logger.version, logger.save_dir])
        first.test(Model(), data, verbose=False)
        trainer(logger, steps=6).fit(Model(lr=0.2), data)
        logger.log_hyperparams(Namespace(model={"depth": 2}, bad=float("nan"), out=Path("/out")))
        copy.deepcopy(logger).log_metrics({"again": 1.0}, 7)
        tell_json("facts", facts(logger.experiment) | {"status": logger.experiment.status})
    """,
    "hands over": """
        from lightning.pytorch.callbacks import ModelCheckpoint
        save = ModelCheckpoint(
            dirpath=os.path.join(os.environ["PLUTO_DIR"], "saved"), every_n_train_steps=2, save_top_k=-1,
            save_last=True, monitor="loss",
        )
        logger = PlutoLogger(run_id="handed", checkpoints="hand-over")
        trainer(logger, callbacks=[save], enable_checkpointing=True).fit(Model(), data)
        logger.experiment.finish()
        uploads = PlutoLogger(run_id="uploaded", checkpoints="upload")
        again = ModelCheckpoint(dirpath=os.path.join(os.environ["PLUTO_DIR"], "again"), every_n_train_steps=2)
        trainer(uploads, callbacks=[again], enable_checkpointing=True).fit(Model(), data)
        uploads.experiment.finish()
        side = pluto.attach("handed", label="eval")
        tell_json("handed", [
            (os.path.exists(each.path), each.step, sorted(each.info), "last" in each.path)
            for each in side.checkpoints()
        ])
    """,
    "raises": """
        trainer(PlutoLogger(name="raises")).fit(Model(failing_rank=0), data)
    """,
    "caught": """
        for name, code in (("caught", None), ("overruled", 0)):
            logger = PlutoLogger(name=name)
            try:
                trainer(logger).fit(Model(failing_rank=0), data)
            except ValueError:
                trainer(logger).fit(Model(), data)
            logger.experiment.finish(code)
        pluto.init(mode="disabled")
        trainer(PlutoLogger(name="disabled")).fit(Model(), data)
    """,
    "preempted": """
        class Saves(L.Callback):
            def on_train_batch_end(self, trainer, *_):
                if trainer.global_step == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
            def on_exception(self, trainer, module, error):
                tell("saved", type(error).__name__)
        trainer(PlutoLogger(name="preempted"), steps=100, callbacks=[Saves()]).fit(Model(), data)
    """,
    "peers": """
        logger = PlutoLogger(name="peers")
        logger.log_hyperparams({"early": True})
        trainer(logger, devices=2, strategy="ddp").fit(Model(), data)
        logger.experiment.log({"mine": 1.0}, 100)
        leave()
    """,
}
"""By name: scripts of one process, which may start its peers itself."""

SIDE = """
logger = PlutoLogger(run_id="own-live", resume=True, label="eval")
trainer(logger).test(Model(lr=0.5), data, verbose=False)
tell_json("facts", facts(logger.experiment))
"""

JOB = """
logger = PlutoLogger(name="{name}", project="lit")
trainer(logger, steps=8, devices=2, strategy="ddp").fit(Model(failing_rank={failing_rank}), data)
logger.experiment.log({{"mine": RANK}}, 100)
say("ready", facts(logger.experiment))
leave()
"""
JOBS = {"ranks": None, "ranks_raise": 1}


@pytest.fixture(scope="module")
def stories(shared_node: Node) -> Iterator[Stories]:
    """All scripts and jobs of this module."""
    with told(shared_node, zygote(*IMPORTS), MODULE, SCRIPTS, JOB, JOBS) as made:
        yield made


def test_fits_and_tests_of_one_logger_are_one_run(shared_node: Node, stories: Stories) -> None:
    """G7: `finalize` ends nothing; the Run ends with the interpreter, COMPLETED, and has every step."""
    told, found = stories["fits"].result(), shared_node.ended("fits")
    assert (found["status"], told.code, found["project"]) == ("COMPLETED", 0, "pluto")
    assert told.json("facts")["status"] == "RUNNING"
    steps = steps_of(shared_node, "fits")
    assert steps["p/loss"] == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    assert steps["p/test_loss"] == [4]
    assert steps["p/again"] == [7]
    assert found["config"] == {
        "model": {"width": 4, "depth": 2}, "lr": 0.2, "bad": "NaN", "out": "/out"
    }  # fmt: skip


def test_checkpoints_are_in_the_folder_of_project_and_run(shared_node: Node, stories: Stories) -> None:
    told, folder = stories["fits"].result(), str(shared_node.base)
    run_id = told.json("facts")["run_id"]
    assert told.json("named") == ["pluto", run_id, folder]
    assert told.json("checkpoint").startswith(f"{folder}/pluto/{run_id}/checkpoints/")


def test_what_a_model_checkpoint_saves_is_handed_over_once(stories: Stories) -> None:
    """R14: each step once, although `last.ckpt` is written too; complete, with what was monitored."""
    handed = stories["hands over"].result().json("handed")
    assert handed == [[True, step, ["best", "monitor", "score"], False] for step in (2, 4)]


def test_what_a_model_checkpoint_saves_is_uploaded(shared_node: Node, stories: Stories) -> None:
    """In local mode into the store."""
    stories["hands over"].result()
    shared_node.ended("uploaded")
    key = shared_node.document("uploaded")["key"]
    assert len([*shared_node.store.glob(f"runs/{key}/files/checkpoint/*.ckpt")]) == 2


@pytest.mark.parametrize("name", ["raises", "caught"])
def test_an_exception_in_a_fit_is_evidence(shared_node: Node, stories: Stories, name: str) -> None:
    """G7, R9: the Run is FAILED and names it, also where the script goes on."""
    told, found = stories[name].result(), shared_node.ended(name)
    assert (found["status"], told.code) == ("FAILED", 1 if name == "raises" else 0)
    failure = found["verdict"]["first_failure"]
    assert (failure["kind"], failure["type"], failure["message"]) == ("exception", "ValueError", "boom")
    assert "training_step" in failure["traceback"]


def test_the_scripts_last_word_overrules_a_caught_exception(shared_node: Node, stories: Stories) -> None:
    """R9: `finish(code=0)`; and a second logger has a Run of its own."""
    stories["caught"].result()
    assert shared_node.ended("overruled")["status"] == "COMPLETED"
    assert shared_node.document("overruled")["run_id"] != shared_node.document("caught")["run_id"]


def test_a_run_of_the_script_is_used_and_not_ended(shared_node: Node, stories: Stories) -> None:
    """G1: whoever opened it ends it."""
    told, found = stories["fits"].result(), shared_node.ended("own")
    assert told.json("same") is True
    assert (found["status"], found["tags"]) == ("COMPLETED", ["lit"])
    assert found["config"] == {"a": 1, "b": 2, "lr": 0.1}
    assert {"loss", "test_loss", "after"} <= {point.name for point in shared_node.points("own")}
    assert "arguments are ignored: name, settings." in told.process.stderr
    assert "mlpi_secret" not in told.process.stderr  # G11
    assert "unused" not in {each["name"] for each in shared_node.documents()}


def test_hyperparameters_of_a_side_come_under_its_label(shared_node: Node) -> None:
    """G8: what Lightning hands over by itself changes nothing of the training's config."""
    owner = shared_node.start(
        """
        run = pluto.init(run_id="own-live", config={"lr": 0.1})
        tell("ready", run.run_id)
        hear()
        """,
        name="owner",
    )
    owner.expect("ready")
    told = tell(shared_node, "beside", MODULE + SIDE, zygote(*IMPORTS))
    assert (told.json("facts")["role"], told.code) == ("side", 0)
    owner.say()
    assert owner.wait() == 0
    found = shared_node.ended("own-live")
    assert found["config"] == {"lr": 0.1, "eval": {"lr": 0.5}}
    assert "test_loss" in {point.logged_as for point in shared_node.points("own-live")}


def test_a_script_that_has_disabled_its_run_gets_none(shared_node: Node, stories: Stories) -> None:
    assert stories["caught"].result().code == 0
    assert "disabled" not in {each["name"] for each in shared_node.documents()}


def test_sigterm_ends_a_fit_as_lightning_ends_it(shared_node: Node, stories: Stories) -> None:
    """R9: Lightning leaves its loop and calls its callbacks, as without us; the Run is TERMINATED."""
    told, found = stories["preempted"].result(), shared_node.ended("preempted")
    assert told.text("saved") == "SIGTERMException"
    assert (found["status"], told.code) == ("TERMINATED", 0)
    assert found["verdict"]["first_failure"]["signal"] == "SIGTERM"


def test_ranks_of_torchrun_share_one_run(shared_node: Node, stories: Stories) -> None:
    """G1, G10: rank 0 logs what Lightning logs; every rank has a handle of the Run, and no dummy."""
    (job, code), found = stories["ranks"].result(), shared_node.ended("ranks")
    assert (found["status"], code) == ("COMPLETED", 0), found["verdict"]
    assert [each["name"] for each in shared_node.documents()].count("ranks") == 1
    for rank, facts in job.ready().items():
        assert (facts["role"], facts["run_id"]) == ("worker" if rank else "owner", found["run_id"])
        assert lease(found, rank=rank)["lease_id"] == facts["lease_id"]
    points = shared_node.points("ranks")
    assert [point.step for point in points if point.logged_as == "loss"] == list(range(8))
    assert {(point.name, point.value) for point in points if point.logged_as == "mine"} == {
        ("mine", 0), ("mine/rank1", 1)
    }  # fmt: skip


def test_an_exception_in_rank_1_is_the_runs_failure(shared_node: Node, stories: Stories) -> None:
    """G7: FAILED with rank 1's exception, and not with what it did to rank 0."""
    (_, code), found = stories["ranks_raise"].result(), shared_node.ended("ranks_raise")
    failure = found["verdict"]["first_failure"]
    assert (found["status"], code) == ("FAILED", 1)
    assert (failure["rank"], failure["type"], failure["message"]) == (1, "ValueError", "boom")


def test_peers_that_lightning_starts_are_workers_of_one_run(shared_node: Node, stories: Stories) -> None:
    """R4: `devices=2` without a launcher, and the Run was opened before the peers were there."""
    told, found = stories["peers"].result(), shared_node.ended("peers")
    assert (found["status"], told.code) == ("COMPLETED", 0), found["verdict"]
    assert sorted(each["role"] for each in found["leases"] if each["pid"]) == ["owner", "worker"]
    assert [each["name"] for each in shared_node.documents()].count("peers") == 1
    assert found["config"]["early"] is True
    assert not events(found, "side_failed")


@needs_official_client
def test_the_constructor_takes_the_official_arguments(stories: Stories) -> None:
    """`op` first, then what `init()` takes."""
    assert official_parameters("pluto/compat/lightning", "MLOPLogger") == ["op", "kwargs"]
    assert stories["fits"].result().json("arguments") == ["op", "prefix", "checkpoints", "arguments"]
