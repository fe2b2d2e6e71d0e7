"""Traces: the request, its job and the job's calls are one, and say nothing of what was asked unless told to."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path as File

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.service.faults.stack import Stack, running

CALLER = "0af7651916cd43dd8448eb211c80319c"
ASKED = {"problem": "a secret question", "answer": "maths", "strategy": "best_of_n:n=3", "budget": {"tokens": 300}}


class Collector:
    """Whoever spans are sent to, over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.raw = b""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
                collector.raw += body
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.server.shutdown()
    found.server.server_close()


def traced(collector: Collector, folder: File, monkeypatch: pytest.MonkeyPatch, mode: str) -> dict[str, list[Span]]:
    """The spans of one job, by their names, after everything has stopped."""
    monkeypatch.setenv("TTS_TRACING", mode)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    with running(Stack(folder, "fake:tests.handlers:quick", workers=1)) as stack:
        headers = {"traceparent": f"00-{CALLER}-b7ad6b7169203331-01"}
        told = httpx.post(f"{stack.url}/v1/solve", json=ASKED, headers=headers, timeout=30)
        assert told.status_code == 200, told.text
        httpx.get(f"{stack.url}/healthz")
    found: dict[str, list[Span]] = {}
    for span in collector.spans:
        found.setdefault(span.name, []).append(span)
    return found


def said(span: Span) -> dict[str, object]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}


def test_a_request_its_job_and_its_calls_are_one_trace(
    collector: Collector, tmp_path: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = traced(collector, tmp_path, monkeypatch, "on")
    (asked,), (job,), calls = found["POST /v1/solve"], found["job"], found["policy generate"]
    assert {span.trace_id.hex() for spans in found.values() for span in spans} == {CALLER}
    assert asked.parent_span_id.hex() == "b7ad6b7169203331"
    assert job.parent_span_id == asked.span_id
    assert [call.parent_span_id for call in calls] == [job.span_id] * 3
    told = said(job)
    assert told["tts.job.state"] == "done"
    assert told["tts.bill.tokens"] == sum(int(str(said(call)["gen_ai.usage.output_tokens"])) for call in calls)
    for call in calls:
        assert job.start_time_unix_nano <= call.start_time_unix_nano < call.end_time_unix_nano
        assert call.end_time_unix_nano <= job.end_time_unix_nano
    assert b"secret question" not in collector.raw
    assert b"boxed" not in collector.raw


def test_texts_are_traced_where_a_deployment_wants_them(
    collector: Collector, tmp_path: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = traced(collector, tmp_path, monkeypatch, "content")
    assert "secret question" in str(said(found["job"][0])["tts.problem"])
    assert all("boxed" in str(said(call)["tts.text"]) for call in found["policy generate"])
