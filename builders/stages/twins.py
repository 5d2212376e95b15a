"""Golden samples without twins.

In      the samples of a source.
Out     the same with every golden sample once: the answers of twins are equal, so a swap would go unnoticed.
"""

from __future__ import annotations

from dataclasses import replace

from builders.sources.samples import LEAST_GOLDEN, Samples, fingerprint
from builders.stage import Job
from planwright.console import many
from planwright.errors import Fault, StageError


def distinct(job: Job, samples: Samples) -> tuple[Samples, list[str]]:
    """Return the samples with every golden one once, and a warning where there were twins.

    Raises:
        StageError: stage 'export': fewer than two different golden samples are left.
    """
    golden = list({fingerprint(sample): sample for sample in reversed(samples.golden)}.values())[::-1]
    twins = len(samples.golden) - len(golden)
    if len(golden) < LEAST_GOLDEN:
        why, fix = f"all {len(samples.golden)} are the same", f"give at least {LEAST_GOLDEN} different samples"
        raise StageError("export", Fault("the golden samples are all alike", job.model.where("samples"), why, fix))
    warnings = [f"{many(twins, 'golden sample')} repeated: each is used once"] if twins else []
    return replace(samples, golden=golden), warnings
