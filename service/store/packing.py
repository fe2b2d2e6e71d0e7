"""Records as few bytes: JSON, deflated against what records usually say."""

from __future__ import annotations

import zlib

from pydantic import ValidationError

from tts.cost import one_line
from tts.errors import JournalError
from tts.journal import RECORD, Header, Record
from tts.types import Problem

_FORMAT = b"\x01"
"""The first byte of what is packed with the words below. Other words are another format: journals outlive versions."""
_USUAL = (
    b'{"type":"choice","key":"1","candidates":["0.0","0.1"],"scores":[0.9,0.5,null],"kept":["0.0"],"at":1.5}'
    b'{"type":"compute","key":"2","request":"0123456789abcdef","value":[[0,1,2]],"timed_out":false,"at":1.5}'
    b'{"type":"end","stop":"done","cut_short":false,"at":1.5}","verdicts":{"pieces":[[[-0.1,-2.3]],[[-0.05,-3.0]]],"usage":'
    b'"reason":"budget","reason":"cancelled","error":null,"outcome":"refused","finish":"length","finish":"until"'
    b'{"type":"hold","key":"0.0","role":"verifier","role":"policy","id":"0123456789abcdef01234567:0.0;","request":"89abcdef01234567"'
    b',"start":"0123456789abcdef","parent":null,"forced":"","granted":512,"most":[512.0,0.0,106644480768.0],"at":0.0015}'
    b'{"type":"settle","key":"0.1","role":"policy","request":"89abcdef01234567","outcome":"completed","reason":null,'
    b'"error":null,"segments":[{"text":"The answer is \\\\boxed{","token_ids":[216,198,260,253,282,28],"logprob":-12.3'
    b',"self_certainty":null,"finish":"stop","usage":{"prompt_tokens":64,"cached_tokens":63,"completion_tokens":128,'
    b'"seconds":1.25,"kv_token_steps":16384,"uncertain_tokens":0}}],"verdicts":null,"spend":[128.0,0.0,26666274816.0],'
    b'"uncertain":0,"remaining":{"tokens":1872,"seconds":null,"usd":null,"flops":null},"at":1.5}'
)


def packed(record: Record) -> bytes:
    """One record. A header goes without its problem, which the job's specification has already."""
    left_out = {"problem"} if isinstance(record, Header) else None
    data = record.__pydantic_serializer__.to_json(record, exclude=left_out)
    deflater = zlib.compressobj(6, wbits=-15, zdict=_USUAL)
    return _FORMAT + deflater.compress(data) + deflater.flush()


def unpacked(entry: bytes, problem: Problem) -> Record:
    """The record again; `problem` is that of its job."""
    try:
        if entry[:1] != _FORMAT:
            raise JournalError("a journal was written in a format that this version does not know")
        inflater = zlib.decompressobj(wbits=-15, zdict=_USUAL)
        data = inflater.decompress(entry[1:])
        if data.startswith(b'{"type":"header"'):
            data = b'{"problem":' + problem.model_dump_json().encode() + b"," + data[1:]
        return RECORD.validate_json(data)
    except zlib.error as error:
        raise JournalError(f"a journal entry cannot be read: {error}") from error
    except ValidationError as error:
        raise JournalError(f"a journal entry is no record: {one_line(error)}") from error
