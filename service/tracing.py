"""One trace per job, for OpenTelemetry: the request that brought it, the job, and each of its model calls.

Off unless `TTS_TRACING` says otherwise; then exporters and samplers are set by OpenTelemetry's own variables, such as
`OTEL_EXPORTER_OTLP_ENDPOINT`. Prompts and texts are in no span unless `TTS_TRACING=content`. The spans of calls are
made of journal records, so that they say what the bill says, and calls that a journal answers have none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from tts.errors import Suspended, UsageError
from tts.journal import Header, Held, Record, Settled, usage_of
from tts.solve import code_version

if TYPE_CHECKING:
    from fastapi import FastAPI
    from opentelemetry.trace import Span

    from service.outcome import Outcome
    from service.store import Claim

Mode = Literal["off", "on", "content"]
UNTRACED = "healthz,readyz,metrics,/v1/jobs/.+,/v1/batches/.+,/v1/budget,/v1/models,/v1/strategies"
"""Routes whose requests bring no job: of those who ask how one stands there are many."""

_mode: Mode = "off"
"""Of this process."""


def start(part: str, mode: Mode) -> None:
    """Send the spans of this process, an `api` or a `worker`, where OpenTelemetry's variables say."""
    global _mode
    _mode = mode
    if mode == "off":
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise UsageError(f"TTS_TRACING needs {error.name}; pip install 'test-time-scaling[otel]'") from error
    about = {"service.name": f"tts-{part}", "service.version": code_version()}
    provider = TracerProvider(resource=Resource.create(about))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def stop() -> None:
    """Send what has not been sent."""
    if _mode != "off":
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace import get_tracer_provider

        provider = get_tracer_provider()
        assert isinstance(provider, TracerProvider)
        provider.shutdown()


def watch(app: FastAPI) -> None:
    """A span for each request, which goes on the trace that its caller began, if there is one."""
    if _mode != "off":
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(app, excluded_urls=UNTRACED, exclude_spans=["receive", "send"])


def carried() -> str | None:
    """The place in its trace of what is under way, as a job takes it along."""
    if _mode == "off":
        return None
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def followed(claim: Claim) -> Iterator[JobSpan | None]:
    """The span of a job that this process works on; none where nothing is traced."""
    if _mode == "off":
        yield None
        return
    from opentelemetry import propagate, trace

    spec = claim.spec
    said = {"job": spec.id, "tenant": claim.tenant, "strategy": spec.strategy.name, "model": spec.model}
    about = {f"tts.{name}": value for name, value in said.items()}
    if _mode == "content":
        about["tts.problem"] = spec.problem.messages[-1].content
    context = propagate.extract({"traceparent": spec.trace}) if spec.trace else None
    tracer = trace.get_tracer(__name__)
    with tracer.start_as_current_span(
        "job",
        context,
        trace.SpanKind.CONSUMER,
        about,
        record_exception=False,  # it may quote what was asked
        set_status_on_exception=False,
    ) as span:
        try:
            yield JobSpan(span, spec.model)
        except Suspended:
            span.set_attribute("tts.job.state", "handed on")
            raise
        except Exception:
            span.set_status(trace.StatusCode.ERROR)
            raise


class JobSpan:
    """A job's span, and those of its calls."""

    def __init__(self, span: Span, model: str) -> None:
        from opentelemetry import trace

        self._span, self._context = span, trace.set_span_in_context(span)
        self._tracer = trace.get_tracer(__name__)
        self._began: dict[str, int] = {}
        self._models = {"policy": model}

    def __call__(self, record: Record) -> None:
        """Hear of a record that was written."""
        if isinstance(record, Header):
            self._models = {role: info.name for role, info in record.models.items()}
        elif isinstance(record, Held):
            self._began[record.key] = time.time_ns()
        elif isinstance(record, Settled) and record.key in self._began:
            self._call(record, self._began.pop(record.key))

    def ended(self, state: str, outcome: Outcome | None) -> None:
        """Say how the job ended."""
        self._span.set_attribute("tts.job.state", state)
        if outcome is None:
            return
        bill = outcome.bill.model_dump(include={"tokens", "lost", "flops", "usd"}, exclude_none=True)
        self._span.set_attributes({f"tts.bill.{name}": value for name, value in bill.items()})
        self._span.set_attribute("tts.stop", outcome.stop)
        if _mode == "content":
            self._span.set_attribute("tts.answer", outcome.answer or "")

    def _call(self, settled: Settled, began: int) -> None:
        from opentelemetry.trace import SpanKind, StatusCode

        told: dict[str, Any] = {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.request.model": self._models.get(settled.role, ""),
            "tts.role": settled.role,
            "tts.call": settled.key,
            "tts.outcome": settled.outcome,
            "tts.charged_tokens": settled.spend.tokens,
        }
        usage = usage_of(settled)
        if usage is not None:
            told["gen_ai.usage.input_tokens"] = usage.prompt_tokens
            told["gen_ai.usage.output_tokens"] = usage.completion_tokens
            told["tts.cached_tokens"] = usage.cached_tokens
        if _mode == "content":
            told["tts.text"] = "".join(segment.text for segment in settled.segments)
        name = f"{settled.role} {'read' if settled.verdicts else 'generate'}"
        span = self._tracer.start_span(name, self._context, SpanKind.CLIENT, told, start_time=began)
        if settled.error is not None:
            span.set_status(StatusCode.ERROR)
        span.end()
