"""What report.json holds, as types; its JSON schema: ``python -m measure.report.schema > measure/report/report.schema.json``.

In      nothing.
Out     `RunReport`, which a load test writes; `SweepReport` and `TuneReport`, whose values sweep and tune write.

A value that older reports lack has a default, so that they can still be read. Times in µs unless a name says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, TypeAdapter

from measure.record.recorder import PERCENTILES
from planwright import console

SCHEMA_VERSION = 1
Transport = Literal["http", "grpc", "shm", "cuda"]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, AllowInfNan(False)]
Amount = Annotated[float, Field(ge=0), AllowInfNan(False)]
MaybeAmount = Amount | None  # None: not measurable on this machine


class _Part(BaseModel):
    # what is written always has every key, also those that may be missing from what is read
    model_config = ConfigDict(frozen=True, validate_by_name=True, validate_by_alias=True, serialize_by_alias=True,
                              json_schema_serialization_defaults_required=True)  # fmt: skip


class Environment(_Part):
    """The machine of the load, the server, and the versions of the client's packages."""

    cpu: str = ""
    cores: Annotated[int, Field(ge=1)] = 1
    system: str = ""
    python: str = ""
    server: dict[str, str]
    versions: dict[str, str]


class Verdict(_Part):
    """Whether the run passed, with every reason for another answer."""

    status: Literal["pass", "fail", "inconclusive"] = "inconclusive"
    reasons: list[str] = []


class Lateness(_Part):
    """How late something happened."""

    p50: Amount = 0.0
    p99: Amount = 0.0
    max: Amount = 0.0

    @classmethod
    def of(cls, histogram: Any) -> Lateness:
        """Return the figures of an HdrHistogram; zeros where nothing is in it."""
        found = LatencyFigures.of(histogram)
        return cls(p50=found.p50, p99=found.p99, max=found.max)


class LatencyFigures(_Part):
    """Percentiles of a latency."""

    p50: Amount
    p90: Amount
    p95: Amount
    p99: Amount
    p99_9: Annotated[Amount, Field(alias="p99.9")] = 0.0
    mean: Amount
    min: Amount = 0.0
    max: Amount = 0.0

    @classmethod
    def of(cls, histogram: Any) -> LatencyFigures:
        """Return the figures of an HdrHistogram; zeros where there is none, or nothing in it."""
        if histogram is None or not histogram.get_total_count():
            return cls(**dict.fromkeys((*PERCENTILES, "mean"), 0.0))
        found = {name: float(histogram.get_value_at_percentile(share)) for name, share in PERCENTILES.items()}
        ends = {"min": float(histogram.get_min_value()), "max": float(histogram.get_max_value())}
        return cls(**found, **ends, mean=round(histogram.get_mean_value(), 1))


class LoadFigures(_Part):
    """How the requests came.

    Attributes:
        asked_per_s, offered_per_s: The rate of an open loop that was configured, and that at which requests became due.
        due, waited, unsent: Requests of an open loop that became due; for which no connection was free; never sent.
        late_us: How late requests went out though a connection was free.
        profile: Users over time; empty for locust's --users.
    """

    scenario: str = ""
    arrivals: str = "closed"
    rate: str = ""
    asked_per_s: Amount = 0.0
    offered_per_s: Amount = 0.0
    due: Count = 0
    waited: Count = 0
    unsent: Count = 0
    late_us: Lateness = Lateness()
    wait_s: Amount = 0.0
    profile: str = ""
    weights: dict[str, int] = {}


class Checking(_Part):
    """Answers that were checked, and the share of the client's CPU time that it cost, with a 95% interval."""

    count: Count = 0
    share: Amount = 0.0
    low: Amount = 0.0
    high: Amount = 0.0
    automatic: Annotated[bool, Field(description="the share to check followed from its cost")] = False


class ClientFigures(_Part):
    """What the load cost the client; `cpu_share` is that of the busiest process."""

    cpu_s: Amount = 0.0
    cpu_share: Amount = 0.0
    processes: Count = 1
    loop_lag_us: Lateness = Lateness()
    checking: Checking = Checking()


class Second(_Part):
    """One row of a time series: a second, or several in a long run."""

    t_s: Amount
    width_s: Amount = 1
    answers: Count
    failures: Count = 0
    p50_us: Amount
    p99_us: Amount


class ErrorCount(_Part):
    """An error and how often it came."""

    text: str
    count: Count


class Windows(_Part):
    """The last three windows of a run, compared."""

    stable: bool
    answers_per_s: list[Number]
    p50_us: list[Number]


class ModelFigures(_Part):
    """One model over one transport.

    Attributes:
        batch: Samples per request; text such as ``1=8,16=2`` where sizes are mixed.
        slo: ``p99_ms``, or empty.
        requests, unanswered, cancelled: Requests that ended; that never did; that were cut off with their user.
        measured: Requests that began after the warm-up.
        goodput_per_s: The part of the throughput within the SLO.
        latency_us, service_us: From the moment a request was due, and from its sending.
        histogram: (µs, count) of every latency that occurred.
    """

    model: str
    protocol: Transport
    version: str = ""
    batch: int | str = 1
    samples_per_request: Amount | None = None
    target: str = ""
    precision: str = ""
    weights: str = "real"
    slo: dict[Literal["p99_ms"], Number]
    requests: Count
    unanswered: Count = 0
    cancelled: Count = 0
    measured: Count = 0
    failures: Count
    checked: Count
    wrong: Count
    throughput_per_s: Amount
    goodput_per_s: Amount = 0.0
    latency_us: LatencyFigures
    service_us: LatencyFigures = LatencyFigures.of(None)
    histogram: list[tuple[Count, Count]]
    percentiles: list[tuple[Amount, Amount]] = []
    series: list[Second]
    errors: list[ErrorCount] = []
    stability: Windows | None = None

    @property
    def name(self) -> str:
        return f"{self.model} over {self.protocol}"

    @property
    def samples_each(self) -> float:
        """Mean samples per request; older reports held requests of one size and say only that."""
        return float(self.samples_per_request or (self.batch if isinstance(self.batch, int) else 1))


class BatchCount(_Part):
    """How often the server executed a batch size."""

    size: Count
    count: Count


class TimedBatch(BatchCount):
    """The same, and how long one execution took."""

    mean_infer_us: Amount = 0.0


class ServerFigures(_Part):
    """The server's own counters of a model over the run; times are means per request."""

    requests: Count = 0
    failures: Count = 0
    inferences: Count = 0
    executions: Count = 0
    mean_request_us: Amount = 0.0
    mean_queue_us: Amount = 0.0
    mean_compute_input_us: Amount = 0.0
    mean_compute_infer_us: Amount = 0.0
    mean_compute_output_us: Amount = 0.0
    busy_share: Annotated[Amount, Field(description="of the time that all instances had")] = 0.0
    mean_batch: Amount = 0.0
    batches: list[TimedBatch] = []
    instances: Count = 1
    versions: list[str] = []
    changes: list[str] = []


class _Report(_Part):
    version_of_schema: Annotated[Literal[1], Field(alias="schema")] = 1
    id: str = ""
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")] = "1970-01-01T00:00:00Z"
    environment: Environment
    verdict: Verdict = Verdict()


class RunReport(_Report):
    """A load test."""

    kind: Literal["run"] = "run"
    duration_s: Amount
    window_s: Annotated[Amount | None, Field(description="from the end of the warm-up to the end of the load")] = None
    warmup_s: Amount
    users: Count = 0
    load: LoadFigures = LoadFigures()
    models: list[ModelFigures]
    not_requested: Annotated[list[tuple[str, str]], Field(description="models and transports without a request")] = []
    server: dict[str, ServerFigures]
    server_note: Annotated[str, Field(description="why the server's counters are missing")] = ""
    client: ClientFigures = ClientFigures()


class MeanInterval(_Part):
    """A mean with its 95% interval."""

    mean: Number
    half_width: Amount
    values: list[Number]


class SettingFields(_Part):
    """Triton's fields of a setting."""

    model_config = ConfigDict(extra="allow")

    instance_group: list[dict[str, Any]]
    max_batch_size: Count
    dynamic_batching: dict[str, Any] | None


class Point(_Part):
    """One setting: what it reached and what it cost."""

    label: str
    instances: Count
    setting: SettingFields
    throughput_per_s: MeanInterval
    p50_us: MeanInterval
    p90_us: MeanInterval
    p95_us: MeanInterval
    p99_us: MeanInterval
    p99_9_us: Annotated[MeanInterval, Field(alias="p99.9_us")]
    mean_batch: Amount
    batches: list[BatchCount]
    off_best: Annotated[MaybeAmount, Field(description="executions off the sizes the engine is tuned for")]
    failures: Count
    wrong: Count
    errors: list[str]
    client_limited: Annotated[Count, Field(description="measurements in which the client was the limit")]
    client_cpu_share: Amount
    server_cores: MaybeAmount
    memory_bytes: MaybeAmount
    gpu_w: MaybeAmount
    gpu_memory_bytes: MaybeAmount
    joules_per_inference: MaybeAmount


class SweptPoint(Point):
    """A point of a sweep, compared with the first one; `refused` is why the server did not accept it."""

    refused: str
    comparison: str
    word: Literal["", "gain", "loss", "no gain", "cannot say"]


class TriedPoint(Point):
    """A point of a tune's search."""

    users: Count
    number: Count
    looks: Count
    within: bool
    fate: str


class FinalPoint(Point):
    """A point that a tune measured again."""

    users: Count
    roles: list[Literal["pick", "default", "published"]]
    within: bool


class _Settings(_Report):
    model: str
    version: str
    weights: str
    target: str
    precision: str
    protocol: Transport
    batch: Count
    users: Count
    processes: Count
    duration_s: Amount
    warmup_s: Amount
    skipped: Annotated[list[str], Field(description="what could not be measured on this machine")]
    server: dict[str, ServerFigures]
    models: list[ModelFigures]


class SweepReport(_Settings):
    """A sweep."""

    kind: Literal["sweep"]
    repeats: Count
    points: list[SweptPoint]
    base: str
    best_batches: list[int]


class SloLimit(_Part):
    """The latency that a tune keeps."""

    percentile: str
    limit_us: Amount
    text: str


class Against(_Part):
    """How the pick compares with another setting; the bounds of the change where there are any."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    label: str
    same: bool
    words: str
    verdict: str
    within: bool = True
    change: Number | None = None
    low: Number | None = None
    high: Number | None = None


class Picked(_Part):
    """The setting that a tune chose."""

    users: Count
    label: str
    setting: SettingFields


class TuneReport(_Settings):
    """A tune."""

    kind: Literal["tune"]
    slo: SloLimit
    points: list[TriedPoint]
    finals: list[FinalPoint]
    pick: Picked | None
    against: dict[Literal["default", "published"], Against | None]
    stopped: str
    took_s: Amount
    limits: dict[str, Number]


def schema() -> dict[str, Any]:
    adapter = TypeAdapter[Any](Annotated[RunReport | SweepReport | TuneReport, Field(discriminator="kind")])
    found = adapter.json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Planwright report.json", **found}


if __name__ == "__main__":
    console.emit_json(schema())
