"""The verbs, one file each: a frozen dataclass with its options, and its `run`."""

VERBS = {
    "demo": "demo:Demo",
    "list": "list:List",
    "train": "train:Train",
    "sweep": "sweep:Sweep",
    "evaluate": "evaluate:Evaluate",
    "compare": "compare:Compare",
    "report": "report:Report",
    "adapt": "adapt:Adapt",
    "predict": "predict:Predict",
    "update": "update:Update",
    "choose": "choose:Choose",
    "pack": "pack:Pack",
    "export": "export:Export",
    "info": "info:Info",
    "bench": "bench:Bench",
    "reproduce": "reproduce:Reproduce",
    "data": "data:Data",
}
"""Every verb with its class, in the order that `--help` shows. A new verb is one file here, and one line."""
