"""What `longreach bench` prints for people: tables out of its reports."""

from longreach.cli.output import say, table
from longreach.jsontext import JsonObject, read_field


def attention_table(report: JsonObject) -> None:
    """Prints a row for each part and implementation, and the baseline."""
    header = (
        "part",
        "impl",
        "seconds",
        "TFLOP/s",
        "GB/s",
        "speed-up",
        "ideal",
        "of ideal",
        "over flex",
        "peak GiB",
    )
    keys = ("speedup", "ideal_speedup", "achieved_over_ideal", "speedup_over_flex")
    rows = []
    for row in read_field(report, "results", list):
        rows.append(
            (
                row["part"],
                row["impl"],
                _number(row["seconds"], 5),
                _number(row["flops_per_second"], 3, 1e-12),
                _number(row["bytes_per_second"], 2, 1e-9),
                *(_number(row.get(key), 2) for key in keys),
                _number(row["peak_memory_bytes"], 2, 2**-30),
            )
        )
    table(header, rows)
    baseline = read_field(report, "baseline", dict)
    say(f"\nbaseline: {baseline['kernel']} ({baseline['backend']})")


def model_table(report: JsonObject) -> None:
    """Prints a row for each part and model."""
    from longreach.bench.plot import list_parts, variation

    rows = []
    for what in ("prefill", "decode", "train"):
        for part in list_parts(report, what):
            key = "ideal_speedup" if "ideal_speedup" in part else "ideal_speedup_flops"
            ideal = read_field(part, key, float)
            for name, one in read_field(part, "variants", dict).items():
                other = one.get("achieved_over_ideal", one.get("achieved_over_ideal_flops"))
                rows.append(
                    (
                        what + variation(part),
                        name,
                        _number(one.get("seconds", one.get("seconds_per_token")), 4),
                        _number(one["tokens_per_second"], 1),
                        _number(one.get("flops_per_second"), 3, 1e-12),
                        _number(one.get("bytes_per_second"), 2, 1e-9),
                        _number(one.get("speedup"), 2),
                        # The baseline has no speed-up, and so no ideal one either.
                        _number(ideal, 2) if "speedup" in one else "",
                        _number(other, 2),
                        _number(one.get("kv_allocated_bytes"), 1, 2**-20),
                        _number(one["peak_memory_bytes"], 2, 2**-30),
                    )
                )
    header = ("what", "model", "seconds", "tokens/s", "TFLOP/s", "GB/s")
    table((*header, "speed-up", "ideal", "of ideal", "KV MiB", "peak GiB"), rows)


def finetune_table(report: JsonObject) -> None:
    """Prints a row for each way to learn a document, one for compressing it, and the verdict."""
    header = (
        "what",
        "positions",
        "seconds",
        "documents/s",
        "speed-up",
        "CPU time",
        "FLOPs say",
        "TFLOP/s",
        "peak GiB",
    )
    rows = []
    variants = read_field(report, "variants", dict)
    once = read_field(report, "compression", dict)
    for name, one in {**variants, "compression": once}.items():
        rows.append(
            (
                name,
                _number(one.get("positions"), 0),
                _number(one["seconds"], 3),
                _number(one["documents_per_second"], 4),
                _number(one.get("speedup"), 2),
                _number(one.get("processor_speedup"), 2),
                _number(one.get("ideal_speedup"), 2),
                _number(one.get("flops_per_second"), 3, 1e-12),
                _number(one["peak_memory_bytes"], 2, 2**-30),
            )
        )
    table(header, rows)
    speedup = variants["vectors"]["speedup"]
    verdict = "reached" if speedup >= read_field(report, "goal", float) else "MISSED"
    # Stays where compressing takes more time than learning from vectors saves.
    paid = "never pays"
    if once["epochs_to_pay"] is not None:
        paid = f"pays after {once['epochs_to_pay']:.2f} epochs"
    gains = once["speedup_after_epochs"].items()
    gained = ", ".join(f"{gain:.2f}x after {epochs}" for epochs, gain in gains)
    say(
        f"\n{speedup:.2f}x, goal {report['goal']}x (goal {verdict}); the paper's figure is"
        f" {report['paper']}x"
    )
    say(f"compressing {paid}; with it counted, {gained}")


def _number(value: float | None, digits: int, factor: float = 1) -> str:
    return "" if value is None else f"{value * factor:,.{digits}f}"
