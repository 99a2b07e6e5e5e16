"""Moving rows between the slots and an engine's buffers, on the GPU: two kernels of a dozen instructions each.

They are written in PTX because the driver compiles that by itself: a device needs no CUDA toolkit, as it would for
CUDA C. The other ways are worse: copies by the driver are a call per stream and tensor (3,072 for 256 streams of a
model with 12 tensors), and a Gather and Scatter inside the engine would write the whole table anew each hop, since
TensorRT computes nothing in place.

A slot is one row of the table, its tensors side by side in `columns` floats. An engine wants each tensor of all rows
of a batch together. So column c of row r lies at `offset[c] + r · stride[c]` of the buffer, and in the table at
`slot[r] · columns + c`. A row whose slot is negative is padding and is left alone.
"""

from __future__ import annotations

from typing import Any

from edge.runtime.tensorrt.device import CudaDevice

THREADS = 128
ARGUMENTS = "PPPPPi"
"""Table, buffer, slots, offsets, strides, columns."""

_HEAD = """
.version 6.3
.target sm_75
.address_size 64
"""

_KERNEL = """
.visible .entry {name}(
  .param .u64 table, .param .u64 buffer, .param .u64 slots,
  .param .u64 offsets, .param .u64 strides, .param .u32 columns)
{{
  .reg .pred %p<3>;
  .reg .b32 %r<12>;
  .reg .f32 %f<2>;
  .reg .b64 %rd<20>;

  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mov.u32 %r3, %tid.x;
  mad.lo.s32 %r4, %r1, %r2, %r3;
  ld.param.u32 %r5, [columns];
  setp.ge.s32 %p1, %r4, %r5;
  @%p1 ret;

  mov.u32 %r6, %ctaid.y;
  ld.param.u64 %rd1, [slots];
  mul.wide.s32 %rd2, %r6, 4;
  add.s64 %rd3, %rd1, %rd2;
  ld.global.s32 %r7, [%rd3];
  setp.lt.s32 %p2, %r7, 0;
  @%p2 ret;

  mul.wide.s32 %rd4, %r4, 4;
  ld.param.u64 %rd5, [offsets];
  add.s64 %rd6, %rd5, %rd4;
  ld.global.s32 %r8, [%rd6];
  ld.param.u64 %rd7, [strides];
  add.s64 %rd8, %rd7, %rd4;
  ld.global.s32 %r9, [%rd8];
  mad.lo.s32 %r10, %r6, %r9, %r8;
  mul.wide.s32 %rd9, %r10, 4;
  ld.param.u64 %rd10, [buffer];
  add.s64 %rd11, %rd10, %rd9;

  mul.wide.s32 %rd12, %r7, %r5;
  shl.b64 %rd13, %rd12, 2;
  ld.param.u64 %rd14, [table];
  add.s64 %rd15, %rd14, %rd13;
  add.s64 %rd16, %rd15, %rd4;

  ld.global.f32 %f1, [{source}];
  st.global.f32 [{target}], %f1;
  ret;
}}
"""

IN_TABLE, IN_BUFFER = "%rd16", "%rd11"

PTX = _HEAD + "".join(
    _KERNEL.format(name=name, source=source, target=target)
    for name, source, target in (("gather", IN_TABLE, IN_BUFFER), ("scatter", IN_BUFFER, IN_TABLE))
)


class RowMover:
    """The two kernels, compiled for a device."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._gather, self._scatter = device.functions(PTX, ("gather", "scatter"), ARGUMENTS)

    def gather(self, batch: int, columns: int, arguments: tuple[int, int, int, int, int]) -> None:
        """Copy rows of the table into a buffer, in stream order."""
        self._launch(self._gather, batch, columns, arguments)

    def scatter(self, batch: int, columns: int, arguments: tuple[int, int, int, int, int]) -> None:
        """Copy rows of a buffer back into the table, in stream order."""
        self._launch(self._scatter, batch, columns, arguments)

    def _launch(self, kernel: Any, batch: int, columns: int, arguments: tuple[int, int, int, int, int]) -> None:
        grid = (-(-columns // THREADS), batch)
        kernel.prepared_async_call(grid, (THREADS, 1, 1), self._device.stream, *arguments, columns)
