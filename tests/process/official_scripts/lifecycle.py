"""From the login to the end, with everything that a script usually logs."""

import random
from pathlib import Path

import numpy as np
import pluto

random.seed(0)
pluto.login()
config = {
    "learning_rate": 0.02,
    "architecture": "CNN",
    "epochs": 4,
    "optimizer": {"name": "adam", "beta": 0.9},
}
run = pluto.init(
    project="lifecycle",
    name="experiment-1",
    config=config,
    tags=["baseline", "v1"],
    settings={"x_log_level": 30, "disable_system_metrics": True},
    x_of_another_version=1,
)
print("opened", run.id, run.resumed, run.settings._display_id, run.settings.url_view, flush=True)

offset = random.random() / 5
for epoch in range(1, config["epochs"] + 1):
    acc = 1 - 2**-epoch - offset
    run.log({"train/loss": 2**-epoch, "val/acc": acc, "epoch": epoch}, commit=True)
    print(f"Epoch {epoch}/{config['epochs']}")

run.log({"phase": "evaluation"}, step=10)
run.log({"eval/score": np.float32(0.5)}, step=10)
run.log({"eval/weights": pluto.Histogram([1.0, 2.0, 2.5, 4.0], bins=4)}, step=10)
run.log(
    {"eval/results": pluto.Table(data=[["a.png", 0.9], ["b.png", 0.8]], columns=["file", "score"])}, step=10
)
pixels = (np.arange(48).reshape(4, 4, 3) * 5).astype(np.uint8)
run.log({"/eval/sample": pluto.Image(data=pixels, caption="pred=1, true=1")}, step=10)
Path("checkpoint.pt").write_bytes(b"weights" * 100)
run.log({"model/best": pluto.Artifact("checkpoint.pt", caption="best", metadata={"epoch": 4})}, step=10)
run.log({"notes": pluto.Text("all is well", caption="notes")}, step=10)
pluto.log({"seconds": 12.5}, step=11, timestamp=1_700_000_000.0)

run.add_tags("done")
run.remove_tags(["v1"])
run.update_config({"best": {"epoch": 4}, "optimizer": {"beta": 0.99}})
run.alert(title="Training complete", message="final accuracy is fine", level="INFO")
pluto.finish()
print("ended", flush=True)
